/* What runs between clone and exec: it shares the memory of a process with many threads, one of which it has put to
 * sleep. Hence bare system calls only (errno is the sleeping thread's slot, which pc_spawn does not read), no
 * allocation, no stdio, no locks, and no sanitizer instrumentation: the stack is a foreign one. */
#include "proc/child.h"
#include "common/fd.h"
#include "common/sys.h"
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdint.h>
#include <time.h>

#define KERNEL_NSIG 64
#define BARE __attribute__((no_sanitize("address", "undefined"), noinline))

BARE static _Noreturn void child_fail(struct pc_child *c, long code, const char *step, const char *path) {
        c->code = (int) -code;
        c->step = step;
        c->path = path;
        for (;;)
                (void) syscall(SYS_exit_group, 127);
}

/* Handlers would run in the shared memory; ignored signals (Python ignores SIGPIPE) would outlive exec. */
BARE static void child_signals(struct pc_child *c) {
        uint64_t dfl[8]; /* at least the kernel's struct sigaction; all zero is SIG_DFL without flags or mask */
        for (size_t i = 0; i < 8; i++)
                ((volatile uint64_t *) dfl)[i] = 0;
        long r;
        for (int sig = 1; sig <= KERNEL_NSIG; sig++)
                if (sig != SIGKILL && sig != SIGSTOP && (r = PC_SYS(rt_sigaction, sig, dfl, NULL, KERNEL_NSIG / 8)) < 0)
                        child_fail(c, r, "sigaction", NULL);
        int sig = c->spawn->pdeathsig;
        if (sig == 0)
                return;
        if ((r = PC_SYS(prctl, PR_SET_PDEATHSIG, sig, 0, 0, 0)) < 0)
                child_fail(c, r, "prctl", NULL);
        if (syscall(SYS_getppid) != c->parent_pid) /* it ended before the request */
                child_fail(c, -ESRCH, "prctl", NULL);
}

BARE static void child_write(struct pc_child *c, int fd, const char *text, size_t n, const char *step) {
        long r = PC_SYS(write, fd, text, n);
        if (r < 0)
                child_fail(c, r, step, NULL);
}

BARE static void child_place(struct pc_child *c) {
        const struct pc_spawn *s = c->spawn;
        if (c->join_cgroup) {
                int fd = (int) PC_SYS(openat, s->cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC, 0);
                if (fd < 0)
                        child_fail(c, fd, "cgroup", "cgroup.procs");
                child_write(c, fd, "0", 1, "cgroup");
        }
        for (size_t i = 0; i < s->n_procs_fds; i++)
                child_write(c, s->procs_fds[i], "0", 1, "cgroup");
        if (c->oom_len > 0) {
                /* The kernel lets a vfork child have its own value although it shares our memory. */
                int fd = (int) PC_SYS(openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC, 0);
                if (fd < 0)
                        child_fail(c, fd, "oom_score_adj", "/proc/self/oom_score_adj");
                child_write(c, fd, c->oom, c->oom_len, "oom_score_adj");
        }
}

/* First lift every source above all targets, so that no dup overwrites a source that is still to come; then put them
 * in place (dup3 clears close-on-exec); then close what lies between and above. */
BARE static void child_fds(struct pc_child *c) {
        struct pc_spawn_fd *t = c->table;
        size_t n = c->spawn->n_fds;
        long r;
        int base = n > 0 ? t[n - 1].child + 1 : 0;
        for (size_t i = 0; i < n; i++) {
                if (t[i].parent >= base)
                        continue;
                t[i].parent = (int) PC_SYS(fcntl, t[i].parent, F_DUPFD_CLOEXEC, base);
                if (t[i].parent < 0)
                        child_fail(c, t[i].parent, "dup", NULL);
        }
        unsigned next = 0;
        for (size_t i = 0; i < n; i++) {
                if ((r = PC_SYS(dup3, t[i].parent, t[i].child, 0)) < 0)
                        child_fail(c, r, "dup", NULL);
                unsigned at = (unsigned) t[i].child;
                if (at > next && (r = PC_SYS(close_range, next, at - 1, 0)) < 0)
                        child_fail(c, r, "close_range", NULL);
                next = at + 1;
        }
        if ((r = PC_SYS(close_range, next, ~0U, 0)) < 0)
                child_fail(c, r, "close_range", NULL);
}

/* ETXTBSY: some process still has the file open for writing, typically a child of another thread that was started
 * while that thread was writing the program and has not reached its own exec yet. That takes microseconds; a real
 * writer is reported after a tenth of a second. */
BARE static _Noreturn void child_exec(struct pc_child *c) {
        const struct pc_spawn *s = c->spawn;
        for (long wait_us = 100;; wait_us *= 2) {
                long r = PC_SYS(execve, s->path, s->argv, s->envp);
                if (r != -ETXTBSY || wait_us > 60000)
                        child_fail(c, r, "exec", s->path);
                long pause[2] = {0, wait_us * 1000}; /* the kernel's timespec of this call */
                (void) syscall(SYS_nanosleep, pause, NULL);
        }
}

BARE int pc_child_main(void *child) {
        struct pc_child *c = child;
        long r;
        child_signals(c);
        if ((c->spawn->flags & PC_SPAWN_SESSION) && (r = PC_SYS(setsid, 0)) < 0)
                child_fail(c, r, "setsid", NULL);
        child_place(c);
        child_fds(c);
        if (c->spawn->cwd && (r = PC_SYS(chdir, c->spawn->cwd)) < 0)
                child_fail(c, r, "chdir", c->spawn->cwd);
        uint64_t none = 0;
        if ((r = PC_SYS(rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none)) < 0)
                child_fail(c, r, "sigprocmask", NULL);
        child_exec(c);
}
