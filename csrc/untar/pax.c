#include "untar/header.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int bad(struct pc_err *reterr, const char *what) {
        return pc_fail(reterr, EBADMSG, what, NULL);
}

/* A whole decimal number with an optional sign. */
static bool integer(const char *s, int64_t *ret) {
        const char *digits = *s == '-' || *s == '+' ? s + 1 : s;
        char *end;
        if (*digits < '0' || *digits > '9')
                return false;
        errno = 0;
        int64_t v = strtoll(s, &end, 10);
        if (errno || *end)
                return false;
        *ret = v;
        return true;
}

/* Seconds with a fraction of any length, cut to nanoseconds; "-1.5" lies before -1. */
static bool instant(char *s, struct timespec *ret) {
        char *dot = strchr(s, '.');
        int64_t sec;
        long ns = 0;
        if (dot)
                *dot = 0;
        if (!integer(s, &sec))
                return false;
        if (dot) {
                long unit = 100000000;
                for (const char *p = dot + 1; *p; p++, unit /= 10) {
                        if (*p < '0' || *p > '9')
                                return false;
                        ns += unit * (*p - '0');
                }
        }
        if (*s == '-' && ns > 0) {
                if (sec == INT64_MIN)
                        return false;
                sec--;
                ns = 1000000000 - ns;
        }
        *ret = (struct timespec){sec, ns};
        return true;
}

enum kind { STRING, NUMBER, TIME, VERSION };

struct key {
        const char *name;
        unsigned bit;
        enum kind kind;
        size_t at;
};
#define AT(f) offsetof(struct pc_pax, f)
static const struct key keys[] = {
    {"path", PC_PAX_PATH, STRING, AT(path)},
    {"linkpath", PC_PAX_LINK, STRING, AT(link)},
    {"uid", PC_PAX_UID, NUMBER, AT(uid)},
    {"gid", PC_PAX_GID, NUMBER, AT(gid)},
    {"size", PC_PAX_SIZE, NUMBER, AT(size)},
    {"mtime", PC_PAX_MTIME, TIME, AT(mtime)},
    {"atime", PC_PAX_ATIME, TIME, AT(atime)},
    {"GNU.sparse.name", PC_PAX_SP_NAME, STRING, AT(sparse_name)},
    {"GNU.sparse.size", PC_PAX_SP_SIZE, NUMBER, AT(sparse_size)},
    {"GNU.sparse.realsize", PC_PAX_SP_REALSIZE, NUMBER, AT(sparse_realsize)},
    {"GNU.sparse.map", PC_PAX_SP_MAP, STRING, AT(sparse_map)},
    {"GNU.sparse.numblocks", PC_PAX_SP_BLOCKS, NUMBER, AT(sparse_blocks)},
    {"GNU.sparse.major", 0, VERSION, AT(sparse_major)},
    {"GNU.sparse.minor", 0, VERSION, AT(sparse_minor)},
};

static int set(struct pc_pax *p, const struct key *k, char *value, size_t n, struct pc_err *reterr) {
        void *to = (char *) p + k->at;
        if (k->kind == VERSION) {
                ((char *) to)[0] = n == 0 ? 0 : n == 1 ? value[0] : '?';
                return 0;
        }
        p->have &= ~k->bit;
        p->blank &= ~k->bit;
        if (n == 0) {
                p->blank |= k->bit;
                return 0;
        }
        if (strlen(value) != n)
                return bad(reterr, "pax value holds a NUL");
        bool ok = true;
        if (k->kind == STRING)
                *(const char **) to = value;
        else if (k->kind == NUMBER)
                ok = integer(value, to);
        else
                ok = instant(value, to);
        if (!ok)
                return bad(reterr, "pax number");
        p->have |= k->bit;
        return 0;
}

/* The 0.0 form repeats two keys in turn; that is not what pax says of repeated keys, so it is kept apart. */
static int pair(struct pc_pax *p, bool is_offset, const char *value, struct pc_err *reterr) {
        int64_t v;
        if (is_offset != (p->pair_offset < 0) || !integer(value, &v) || v < 0)
                return bad(reterr, "sparse map");
        p->have |= PC_PAX_SP_PAIRS;
        if (is_offset) {
                p->pair_offset = v;
                return 0;
        }
        int r = pc_regions_add(&p->pairs, p->pair_offset, v, reterr);
        p->pair_offset = -1;
        return r;
}

static int add_xattr(struct pc_pax *p, char *name, struct pc_bytes value, struct pc_err *reterr) {
        if (p->n_xattrs == p->room_xattrs) {
                size_t room = p->room_xattrs ? p->room_xattrs * 2 : 8;
                struct pc_xattr *v = reallocarray(p->xattrs, room, sizeof *v);
                if (!v)
                        return pc_fail(reterr, ENOMEM, "pax header", NULL);
                p->xattrs = v;
                p->room_xattrs = room;
        }
        p->xattrs[p->n_xattrs++] = (struct pc_xattr){name, value};
        return 0;
}

static int record(struct pc_pax *p, char *key, char *value, size_t n, struct pc_err *reterr) {
        static const char xattr[] = "SCHILY.xattr.";
        if (strcmp(key, "GNU.sparse.offset") == 0 || strcmp(key, "GNU.sparse.numbytes") == 0)
                return pair(p, key[11] == 'o', value, reterr);
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
                if (strcmp(key, keys[i].name) == 0)
                        return set(p, &keys[i], value, n, reterr);
        if (strncmp(key, xattr, sizeof xattr - 1) == 0 && key[sizeof xattr - 1])
                return add_xattr(p, key + sizeof xattr - 1, (struct pc_bytes){value, n}, reterr);
        return 0; /* names of owners, comments, vendors' own keys: nothing that a file has */
}

int pc_pax_parse(char *buf, size_t n, size_t max_regions, struct pc_pax *ret, struct pc_err *reterr) {
        struct pc_pax p = {.pair_offset = -1, .pairs.max = max_regions};
        int r = 0;
        while (n > 0 && r == 0) {
                size_t len = 0, at = 0;
                while (at < n && at < 8 && buf[at] >= '0' && buf[at] <= '9')
                        len = len * 10 + (size_t) (buf[at++] - '0');
                if (at == 0 || at == n || buf[at] != ' ' || len < 5 || len <= at + 1 || len > n ||
                    buf[len - 1] != '\n') {
                        r = bad(reterr, "pax record");
                        break;
                }
                char *key = buf + at + 1, *end = buf + len - 1;
                char *eq = memchr(key, '=', (size_t) (end - key));
                if (!eq || eq == key || memchr(key, 0, (size_t) (eq - key))) {
                        r = bad(reterr, "pax record");
                        break;
                }
                *eq = 0;
                *end = 0;
                r = record(&p, key, eq + 1, (size_t) (end - eq - 1), reterr);
                buf += len;
                n -= len;
        }
        if (r < 0) {
                pc_pax_done(&p);
                return r;
        }
        *ret = p;
        return 0;
}

void pc_pax_done(struct pc_pax *p) {
        if (!p)
                return;
        free(p->xattrs);
        free(p->pairs.v);
        *p = (struct pc_pax){.pair_offset = -1};
}
