/* Overlay by mount(2): one page of options. Names when they fit; else the directories are descriptors, named relative
 * to /proc/self/fd by a child that shares our descriptors and memory but has a working directory of its own. */
#include "mounts/api.h"
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#define PAGE 4096 /* the smallest there is; the kernel wants the final zero inside */
#define STACK (16 * 1024)
#define BARE __attribute__((no_sanitize("address", "undefined"), noinline))

struct text {
        char buf[PAGE];
        size_t len;
        bool full;
};

static void put(struct text *t, const char *a, const char *b) {
        size_t n = strlen(a), m = strlen(b);
        if (t->full || t->len + n + m >= sizeof t->buf) {
                t->full = true;
                return;
        }
        memcpy(t->buf + t->len, a, n);
        memcpy(t->buf + t->len + n, b, m + 1);
        t->len += n + m;
}

static bool plain(const char *path) {
        return path[0] == '/' && !strpbrk(path, ":,\\\"");
}

/* The words about the mount become flags; the rest is handed to the file system. */
static unsigned long put_options(struct text *t, const struct pc_overlay *s) {
        unsigned long flags = 0;
        for (size_t i = 0; i < s->n_options; i++) {
                const char *o = s->options[i], *eq = strchr(o, '=');
                const struct pc_attr_word *word = pc_attr_find(o);
                if (word) {
                        flags |= word->ms;
                } else if (eq && strchr(eq, ',') && eq[1] != '"') { /* a label with categories */
                        char key[64];
                        (void) snprintf(key, sizeof key, ",%.*s=\"", (int) (eq - o), o);
                        put(t, key, eq + 1);
                        put(t, "\"", "");
                } else {
                        put(t, ",", o);
                }
        }
        return flags;
}

static bool by_name(struct text *t, const struct pc_overlay *s) {
        bool fit = !s->upper || (plain(s->upper) && plain(s->work));
        for (size_t i = 0; fit && i < s->n_lowers; i++) {
                fit = plain(s->lowers[i]);
                put(t, i ? ":" : "lowerdir=", s->lowers[i]);
        }
        if (s->upper) {
                put(t, ",upperdir=", s->upper);
                put(t, ",workdir=", s->work);
        }
        return fit;
}

struct dirs {
        int fds[PC_OVERLAY_LOWERS + 3];
        size_t n;
};

static void close_dirs(struct dirs *d) {
        for (size_t i = 0; i < d->n; i++)
                (void) close(d->fds[i]);
}

static int put_dir(struct text *t, struct dirs *d, const char *key, const char *path, struct pc_err *reterr) {
        int fd = (int) PC_SYS(openat, AT_FDCWD, path, O_PATH | O_CLOEXEC | O_DIRECTORY, 0);
        if (fd < 0)
                return pc_fail(reterr, fd, "open directory of overlay", path);
        d->fds[d->n++] = fd;
        char name[16];
        (void) snprintf(name, sizeof name, "%d", fd);
        put(t, key, name);
        return 0;
}

static int by_descriptor(struct text *t, struct dirs *d, const struct pc_overlay *s, struct pc_err *reterr) {
        int r = 0;
        for (size_t i = 0; r == 0 && i < s->n_lowers; i++)
                r = put_dir(t, d, i ? ":" : "lowerdir=", s->lowers[i], reterr);
        if (r == 0 && s->upper)
                r = put_dir(t, d, ",upperdir=", s->upper, reterr);
        if (r == 0 && s->upper)
                r = put_dir(t, d, ",workdir=", s->work, reterr);
        return r;
}

struct job {
        const char *cwd, *target, *options;
        unsigned long flags;
        long result;
};

/* Bare system calls: the caller's thread sleeps, errno is its slot. */
BARE static int job_main(void *arg) {
        struct job *j = arg;
        j->result = PC_SYS(chdir, j->cwd);
        if (j->result >= 0)
                j->result = PC_SYS(mount, "overlay", j->target, "overlay", j->flags, j->options);
        return 0;
}

static long run_elsewhere(struct job *j) {
        _Alignas(16) char stack[STACK];
        uint64_t all = ~0ULL, before;
        j->result = -ECANCELED; /* should it be killed */
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
        int pid = pc_fault_hit("clone") ? -1 : clone(job_main, stack + STACK, CLONE_VM | CLONE_VFORK | CLONE_FILES, j);
        int code = errno;
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
        if (pid < 0)
                return -code;
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
                ;
        return j->result;
}

int pc_overlay_classic(const struct pc_overlay *s, struct pc_err *reterr) {
        struct text t = {.len = 0};
        _cleanup_(close_dirs) struct dirs d = {.n = 0};
        bool named = by_name(&t, s);
        unsigned long flags = put_options(&t, s);
        if (!named || t.full) {
                t.len = 0;
                t.full = false;
                int r = by_descriptor(&t, &d, s, reterr);
                if (r < 0)
                        return r;
                (void) put_options(&t, s);
                if (t.full)
                        return pc_fail(reterr, E2BIG, "options of overlay", s->target);
        }
        int at = (int) PC_SYS(openat, AT_FDCWD, s->target, O_PATH | O_CLOEXEC, 0);
        if (at < 0)
                return pc_fail(reterr, at, "open mount target", s->target);
        _cleanup_fd_ int fd = at;
        char target[48];
        (void) snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
        struct job j = {.cwd = "/proc/self/fd", .target = target, .options = t.buf, .flags = flags};
        long r = d.n ? run_elsewhere(&j) : PC_SYS(mount, "overlay", target, "overlay", flags, t.buf);
        if (r < 0)
                return pc_fail(reterr, (int) r, "mount overlay", s->target);
        r = PC_SYS(mount, NULL, s->target, NULL, MS_PRIVATE, NULL);
        if (r < 0) {
                (void) umount2(s->target, MNT_DETACH);
                return pc_fail(reterr, (int) r, "set propagation", s->target);
        }
        return 0;
}
