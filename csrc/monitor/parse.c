/* Text in and out, without I/O: control lines, notify messages, cgroup files, JSON strings. */
#include "monitor/parse.h"

#include <stdlib.h>
#include <string.h>

size_t pc_decimal(char *out, int64_t v) {
        char tmp[24];
        size_t n = 0, at = 0;
        uint64_t u = v < 0 ? -(uint64_t) v : (uint64_t) v;
        do
                tmp[n++] = (char) ('0' + u % 10);
        while ((u /= 10) > 0);
        if (v < 0)
                out[at++] = '-';
        while (n > 0)
                out[at++] = tmp[--n];
        return at;
}

size_t pc_join(char *out, size_t cap, const char *const parts[], int nparts) {
        size_t at = 0;
        for (int i = 0; i < nparts; i++) {
                size_t n = strlen(parts[i]);
                if (at + n + 1 > cap)
                        return 0;
                memcpy(out + at, parts[i], n);
                at += n;
        }
        out[at] = '\0';
        return at;
}

size_t pc_json_escape(const char *text, size_t n, char *out, size_t cap) {
        static const char hex[] = "0123456789abcdef";
        size_t at = 0;
        for (size_t i = 0; i < n && text[i] != '\0'; i++) {
                unsigned char c = (unsigned char) text[i];
                char esc = 0;
                switch (c) {
                case '"':
                case '\\':
                case '/':
                        esc = (char) c;
                        break;
                case '\n':
                        esc = 'n';
                        break;
                case '\r':
                        esc = 'r';
                        break;
                case '\t':
                        esc = 't';
                        break;
                case '\b':
                        esc = 'b';
                        break;
                case '\f':
                        esc = 'f';
                        break;
                default:
                        break;
                }
                if (esc) {
                        if (at + 2 > cap)
                                break;
                        out[at++] = '\\';
                        out[at++] = esc;
                } else if (c < 0x20 || c == 0x7f) {
                        if (at + 6 > cap)
                                break;
                        memcpy(out + at, "\\u00", 4);
                        out[at + 4] = hex[c >> 4];
                        out[at + 5] = hex[c & 15];
                        at += 6;
                } else {
                        if (at + 1 > cap)
                                break;
                        out[at++] = (char) c;
                }
        }
        return at;
}

static bool blank(char c) {
        return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* Up to want decimal integers from the head of a line. What follows the last is passed over. */
static bool integers(const char *p, size_t n, int want, long *out) {
        size_t i = 0;
        for (int k = 0; k < want; k++) {
                while (i < n && blank(p[i]))
                        i++;
                bool minus = i < n && p[i] == '-';
                if (i < n && (p[i] == '-' || p[i] == '+'))
                        i++;
                if (i >= n || p[i] < '0' || p[i] > '9')
                        return false;
                long v = 0;
                for (; i < n && p[i] >= '0' && p[i] <= '9'; i++)
                        if (v <= 1000000)
                                v = v * 10 + (p[i] - '0');
                out[k] = minus ? -v : v;
        }
        return true;
}

enum pc_control pc_control_parse(const char *line, size_t n, bool winsz, unsigned short *ret_rows,
                                 unsigned short *ret_cols) {
        long v[3] = {1, 0, 0};
        if (winsz ? !integers(line, n, 2, v + 1) : !integers(line, n, 3, v))
                return PC_CONTROL_BAD;
        if (v[1] < 0 || v[1] > PC_WINSZ_MAX || v[2] < 0 || v[2] > PC_WINSZ_MAX)
                return PC_CONTROL_BAD;
        if (v[0] == 2)
                return PC_CONTROL_REOPEN;
        if (v[0] != 1)
                return PC_CONTROL_BAD;
        *ret_rows = (unsigned short) v[1];
        *ret_cols = (unsigned short) v[2];
        return PC_CONTROL_RESIZE;
}

void pc_control_feed(struct pc_control_line *l, const char *in, size_t n,
                     void (*line)(void *user, const char *text, size_t n), void *user) {
        for (size_t i = 0; i < n; i++) {
                if (in[i] == '\n') {
                        line(user, l->text, l->skip ? 0 : l->len);
                        l->len = 0;
                        l->skip = false;
                } else if (l->len < sizeof l->text)
                        l->text[l->len++] = in[i];
                else
                        l->skip = true; /* too long to be a command: gone up to its newline */
        }
}

static bool passes(const char *line, size_t n) {
        static const char *const whole[] = {"READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1", "WATCHDOG=trigger"};
        static const char *const heads[] = {"STATUS=", "ERRNO=", "BUSERROR=", "MONOTONIC_USEC="};
        for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
                if (strlen(whole[i]) == n && memcmp(line, whole[i], n) == 0)
                        return true;
        for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
                if (strlen(heads[i]) <= n && memcmp(line, heads[i], strlen(heads[i])) == 0)
                        return true;
        return false;
}

size_t pc_notify_filter(char *buf, size_t n) {
        size_t out = 0, i = 0;
        while (i < n) {
                size_t k = i;
                while (k < n && buf[k] != '\n' && buf[k] != '\r' && buf[k] != '\0')
                        k++;
                if (passes(buf + i, k - i)) {
                        if (out > 0)
                                buf[out++] = '\n';
                        memmove(buf + out, buf + i, k - i);
                        out += k - i;
                }
                if (k < n && buf[k] == '\0')
                        break;
                i = k + 1;
        }
        return out;
}

/* Is "memory" one of the comma separated controllers? */
static bool has_memory(const char *p, size_t n) {
        while (n > 0) {
                const char *comma = memchr(p, ',', n);
                size_t k = comma ? (size_t) (comma - p) : n;
                if (k == 6 && memcmp(p, "memory", 6) == 0)
                        return true;
                n -= comma ? k + 1 : k;
                p += comma ? k + 1 : k;
        }
        return false;
}

size_t pc_cgroup_path(const char *text, bool v2, char *out, size_t cap) {
        for (const char *line = text; *line;) {
                const char *end = strchrnul(line, '\n');
                const char *a = memchr(line, ':', (size_t) (end - line));
                const char *b = a ? memchr(a + 1, ':', (size_t) (end - a - 1)) : NULL;
                if (b) {
                        bool hit =
                            v2 ? a - line == 1 && *line == '0' && b == a + 1 : has_memory(a + 1, (size_t) (b - a - 1));
                        const char *from = v2 ? b + 1 : a + 1;
                        size_t n = (size_t) (end - from);
                        if (hit && n + 1 <= cap) {
                                memcpy(out, from, n);
                                if (!v2) /* "memory:/path" → "memory/path" */
                                        memmove(out + (b - from), out + (b - from) + 1, (size_t) (end - b - 1));
                                n -= !v2;
                                out[n] = '\0';
                                return n;
                        }
                }
                line = *end ? end + 1 : end;
        }
        return 0;
}

long pc_cgroup_count(const char *text, const char *key, long fallback) {
        size_t n = strlen(key);
        for (const char *line = text; *line;) {
                const char *end = strchrnul(line, '\n');
                if ((size_t) (end - line) > n + 1 && memcmp(line, key, n) == 0 && line[n] == ' ') {
                        char *stop;
                        long v = strtol(line + n + 1, &stop, 10);
                        return stop == line + n + 1 ? fallback : v;
                }
                line = *end ? end + 1 : end;
        }
        return fallback;
}
