/* Lines of a mountinfo file (proc_pid_mountinfo(5)): "ID PARENT MAJ:MIN ROOT POINT OPTIONS [FIELD]... - TYPE SOURCE
 * SUPER". Blanks within a field come as \040, so fields are what blanks separate. Pure. */
#include "mounts/api.h"

#define OPTIONAL 6 /* fields before the optional ones */

struct word {
        const char *p;
        size_t n;
};

static bool next(struct word *rest, struct word *ret) {
        const char *blank = memchr(rest->p, ' ', rest->n);
        *ret = (struct word){rest->p, blank ? (size_t) (blank - rest->p) : rest->n};
        *rest = (struct word){rest->p + ret->n + !!blank, rest->n - ret->n - !!blank};
        return ret->n > 0;
}

static bool starts(const struct word *w, const char *with) {
        return w->n >= strlen(with) && memcmp(w->p, with, strlen(with)) == 0;
}

static bool is_id(const struct word *w, uint64_t id) {
        uint64_t v = 0;
        for (size_t i = 0; i < w->n; i++)
                if (w->p[i] < '0' || w->p[i] > '9' || __builtin_mul_overflow(v, UINT64_C(10), &v) ||
                    __builtin_add_overflow(v, (uint64_t) (w->p[i] - '0'), &v))
                        return false;
        return v == id;
}

int pc_mountinfo_propagation(const char *line, size_t n, uint64_t id, const char **ret_kind) {
        bool shared = false, slave = false, unbindable = false;
        struct word rest = {line, n > 0 && line[n - 1] == '\n' ? n - 1 : n}, w;
        if (!next(&rest, &w) || !is_id(&w, id))
                return -ENOENT;
        for (int i = 1; i < OPTIONAL; i++)
                if (!next(&rest, &w))
                        return -EBADMSG;
        while (next(&rest, &w)) {
                if (w.n == 1 && *w.p == '-') {
                        *ret_kind = shared ? "shared" : slave ? "slave" : unbindable ? "unbindable" : "private";
                        return 0;
                }
                shared = shared || starts(&w, "shared:");
                slave = slave || starts(&w, "master:");
                unbindable = unbindable || (w.n == 10 && starts(&w, "unbindable"));
        }
        return -EBADMSG;
}
