#include "untar/splitline.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct text {
        char *p, *end;
};

static void space(struct text *t) {
        while (t->p < t->end && (*t->p == ' ' || *t->p == '\t' || *t->p == '\r' || *t->p == '\n'))
                t->p++;
}

static bool eat(struct text *t, char c) {
        space(t);
        if (t->p >= t->end || *t->p != c)
                return false;
        t->p++;
        return true;
}

static int hex4(const char *p, const char *end) {
        int v = 0;
        if (end - p < 4)
                return -1;
        for (int i = 0; i < 4; i++) {
                char c = p[i];
                int d = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
                if (d < 0)
                        return -1;
                v = v << 4 | d;
        }
        return v;
}

/* Code point as UTF-8; never longer than the escape that it replaces. */
static char *utf8(char *to, unsigned c) {
        if (c < 0x80) {
                *to++ = (char) c;
        } else if (c < 0x800) {
                *to++ = (char) (0xc0 | c >> 6);
                *to++ = (char) (0x80 | (c & 63));
        } else if (c < 0x10000) {
                *to++ = (char) (0xe0 | c >> 12);
                *to++ = (char) (0x80 | (c >> 6 & 63));
                *to++ = (char) (0x80 | (c & 63));
        } else {
                *to++ = (char) (0xf0 | c >> 18);
                *to++ = (char) (0x80 | (c >> 12 & 63));
                *to++ = (char) (0x80 | (c >> 6 & 63));
                *to++ = (char) (0x80 | (c & 63));
        }
        return to;
}

/* Unescaped in place and terminated. */
static bool string(struct text *t, char **ret, size_t *ret_n) {
        static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
        if (!eat(t, '"'))
                return false;
        char *start = t->p, *to = start;
        for (;;) {
                if (t->p >= t->end)
                        return false;
                char c = *t->p++;
                if (c == '"')
                        break;
                if (c != '\\') {
                        *to++ = c;
                        continue;
                }
                if (t->p >= t->end)
                        return false;
                c = *t->p++;
                const char *hit = c ? strchr(from, c) : NULL;
                if (hit) {
                        *to++ = into[hit - from];
                        continue;
                }
                int v = c == 'u' ? hex4(t->p, t->end) : -1;
                if (v < 0)
                        return false;
                t->p += 4;
                if (v >= 0xd800 && v < 0xdc00 && t->end - t->p >= 6 && t->p[0] == '\\' && t->p[1] == 'u') {
                        int low = hex4(t->p + 2, t->end);
                        if (low >= 0xdc00 && low < 0xe000) {
                                v = 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00);
                                t->p += 6;
                        }
                }
                to = utf8(to, (unsigned) v);
        }
        *to = 0; /* at most where the closing quote was */
        *ret = start;
        *ret_n = (size_t) (to - start);
        return true;
}

static int digit64(char c) {
        return c >= 'A' && c <= 'Z'   ? c - 'A'
               : c >= 'a' && c <= 'z' ? c - 'a' + 26
               : c >= '0' && c <= '9' ? c - '0' + 52
               : c == '+'             ? 62
               : c == '/'             ? 63
                                      : -1;
}

/* Base64 in place. */
static bool decode(char *text, size_t n, size_t *ret_n) {
        uint8_t *to = (uint8_t *) text;
        if (n % 4 != 0)
                return false;
        for (size_t i = 0; i < n; i += 4) {
                int a = digit64(text[i]), b = digit64(text[i + 1]), c = digit64(text[i + 2]), d = digit64(text[i + 3]);
                bool last = i + 4 == n, one = last && text[i + 2] == '=' && text[i + 3] == '=',
                     two = last && !one && text[i + 3] == '=';
                if (a < 0 || b < 0 || (c < 0 && !one) || (d < 0 && !one && !two))
                        return false;
                *to++ = (uint8_t) (a << 2 | b >> 4);
                if (!one)
                        *to++ = (uint8_t) (b << 4 | c >> 2);
                if (!one && !two)
                        *to++ = (uint8_t) (c << 6 | d);
        }
        *ret_n = (size_t) (to - (uint8_t *) text);
        *to = 0; /* shorter than its text, or at the quote that ended an empty one */
        return true;
}

static bool number(struct text *t, int64_t *ret) {
        space(t);
        char *end;
        errno = 0;
        long long v = strtoll(t->p, &end, 10);
        if (errno || end == t->p || end > t->end)
                return false;
        t->p = end;
        *ret = v;
        return true;
}

static bool literal(struct text *t, const char *word) {
        size_t n = strlen(word);
        space(t);
        if ((size_t) (t->end - t->p) < n || memcmp(t->p, word, n) != 0)
                return false;
        t->p += n;
        return true;
}

static bool member(struct text *t, const char *key, struct pc_split_line *l) {
        int64_t v;
        char *s;
        size_t n;
        if (strcmp(key, "payload") == 0 && !literal(t, "null")) {
                if (!string(t, &s, &n) || !decode(s, n, &l->n_payload))
                        return false;
                l->payload = (uint8_t *) s;
        } else if (strcmp(key, "payload") == 0) {
                return true;
        } else if (strcmp(key, "type") == 0) {
                if (!number(t, &v) || (v != 1 && v != 2))
                        return false;
                l->type = (int) v;
        } else if (strcmp(key, "size") == 0) {
                return number(t, &l->size) && l->size >= 0;
        } else if (strcmp(key, "name") == 0 || strcmp(key, "name_raw") == 0) {
                bool raw = key[4] != 0;
                if (raw && literal(t, "null"))
                        return true;
                if (!string(t, &s, &n) || (raw && !decode(s, n, &n)) || strlen(s) != n)
                        return false;
                if (n > 0 || !*l->name)
                        l->name = s;
        } else {
                return literal(t, "null") || literal(t, "true") || literal(t, "false") || number(t, &v) ||
                       string(t, &s, &n);
        }
        return true;
}

int pc_split_line_parse(char *text, size_t n, struct pc_split_line *ret, struct pc_err *reterr) {
        struct text t = {text, text + n};
        struct pc_split_line l = {.name = ""};
        bool ok = eat(&t, '{');
        for (bool more = ok && !eat(&t, '}'); ok && more;) {
                char *key;
                size_t len;
                ok = string(&t, &key, &len) && eat(&t, ':') && member(&t, key, &l);
                more = ok && eat(&t, ',');
                ok = ok && (more || eat(&t, '}'));
        }
        space(&t);
        if (!ok || t.p != t.end || l.type == 0)
                return pc_fail(reterr, EBADMSG, "line of tar-split", NULL);
        *ret = l;
        return 0;
}
