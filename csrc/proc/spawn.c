/* The parent's half of pc_spawn: check and prepare, clone, judge the outcome. */
#include "common/fd.h"
#include "common/sys.h"
#include "proc/child.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#define INTO_CGROUP 0x200000000ULL
#define STACK_SIZE (16 * 1024) /* the deepest child path needs about 1 KiB */

/* The kernel's struct clone_args up to its third version (5.7), spelled out because build hosts have older headers. */
struct clone3_args {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
            cgroup;
};

/* clone3 with a stack of its own for the child, which needs the few instructions that libc does not export. The child
 * shares memory but sleeps us (vfork), so nothing is copied however large the process is. */
#if defined(__x86_64__) && defined(__LP64__)
static long clone3_call(struct clone3_args *args, struct pc_child *c) {
        long r;
        register int (*fn)(void *) __asm__("r8") = pc_child_main;
        register struct pc_child *arg __asm__("r9") = c;
        __asm__ volatile("syscall\n\t"
                         "test %%rax, %%rax\n\t"
                         "jnz 1f\n\t"
                         "xor %%ebp, %%ebp\n\t"
                         "mov %%r9, %%rdi\n\t"
                         "call *%%r8\n\t"
                         "ud2\n"
                         "1:"
                         : "=a"(r)
                         : "0"((long) SYS_clone3), "D"(args), "S"(sizeof *args), "r"(fn), "r"(arg)
                         : "rcx", "r11", "memory", "cc");
        return r;
}
#elif defined(__aarch64__)
static long clone3_call(struct clone3_args *args, struct pc_child *c) {
        register long x0 __asm__("x0") = (long) args;
        register long x1 __asm__("x1") = sizeof *args;
        register long x8 __asm__("x8") = SYS_clone3;
        register int (*fn)(void *) __asm__("x9") = pc_child_main;
        register struct pc_child *arg __asm__("x10") = c;
        __asm__ volatile("svc #0\n\t"
                         "cbnz x0, 1f\n\t"
                         "mov x29, xzr\n\t"
                         "mov x0, x10\n\t"
                         "blr x9\n\t"
                         "brk #1\n"
                         "1:"
                         : "+r"(x0)
                         : "r"(x1), "r"(x8), "r"(fn), "r"(arg)
                         : "memory", "cc");
        return x0;
}
#else
static long clone3_call(struct clone3_args *args, struct pc_child *c) {
        (void) args;
        (void) c;
        return -ENOSYS;
}
#endif

/* Pid or -errno. Where clone3 is missing (another architecture, or a seccomp filter that hides it) the older call
 * does the same, except that the child joins its cgroup by itself. */
static int start_child(struct pc_child *c, char *stack, int *ret_pidfd) {
        bool cgroup = c->spawn->flags & PC_SPAWN_CGROUP;
        uint64_t flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
        struct clone3_args args = {
            .flags = flags | (cgroup ? INTO_CGROUP : 0),
            .pidfd = (uint64_t) (uintptr_t) ret_pidfd,
            .exit_signal = SIGCHLD,
            .stack = (uint64_t) (uintptr_t) stack,
            .stack_size = STACK_SIZE,
            .cgroup = cgroup ? (uint64_t) c->spawn->cgroup_fd : 0,
        };
        long pid = pc_fault_hit("clone3") ? -errno : clone3_call(&args, c);
        if (pid == -ENOSYS) {
                c->join_cgroup = cgroup;
                pid = pc_fault_hit("clone")
                          ? -1
                          : clone(pc_child_main, stack + STACK_SIZE, (int) flags | SIGCHLD, c, ret_pidfd);
                if (pid < 0)
                        pid = -errno;
        }
        return (int) pid;
}

/* Insertion sort by the number in the child: tables are short, and libc's sort allocates. */
static int prepare_table(const struct pc_spawn *s, struct pc_spawn_fd *table, struct pc_err *reterr) {
        if (s->n_fds > PC_SPAWN_MAX_FDS)
                return pc_fail(reterr, E2BIG, "descriptor table", NULL);
        for (size_t i = 0; i < s->n_fds; i++) {
                struct pc_spawn_fd e = s->fds[i];
                if (e.child < 0 || e.child == INT32_MAX || e.parent < 0)
                        return pc_fail(reterr, EINVAL, "descriptor table", NULL);
                size_t at = i;
                for (; at > 0 && table[at - 1].child >= e.child; at--) {
                        if (table[at - 1].child == e.child)
                                return pc_fail(reterr, EINVAL, "descriptor table", NULL);
                        table[at] = table[at - 1];
                }
                table[at] = e;
        }
        return 0;
}

int pc_spawn(const struct pc_spawn *s, int *ret_pid, int *ret_pidfd, struct pc_err *reterr) {
        struct pc_spawn_fd table[PC_SPAWN_MAX_FDS];
        _cleanup_fd_ int pidfd = -1;
        _Alignas(16) char stack[STACK_SIZE]; /* ours is idle while the child runs, so it may live here */
        int r = prepare_table(s, table, reterr);
        if (r < 0)
                return r;
        struct pc_child c = {.spawn = s, .table = table, .parent_pid = getpid()};
        if (s->flags & PC_SPAWN_OOM)
                c.oom_len = pc_decimal(c.oom, s->oom_score_adj);

        /* Everything blocked, also what libc reserves for itself: no handler may run on the child's side. */
        uint64_t all = ~0ULL, before;
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
        int pid = start_child(&c, stack, &pidfd);
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);

        if (pid < 0)
                return pc_fail(reterr, -pid, "clone", s->path);
        if (c.code != 0) {
                struct pc_exit gone;
                (void) pc_wait(pidfd, false, &gone, NULL); /* only the reaping matters: the report says why */
                return pc_fail(reterr, c.code, c.step, c.path);
        }
        *ret_pid = pid;
        *ret_pidfd = steal_fd(&pidfd);
        return 0;
}

static int check_program(const char *path) {
        struct stat st;
        if (stat(path, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EACCES;
        return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

int pc_find_program(const char *name, const char *path, char *ret_path, size_t size, struct pc_err *reterr) {
        size_t len = strlen(name);
        if (len == 0)
                return pc_fail(reterr, ENOENT, "exec", name);
        if (strchr(name, '/')) {
                if (len >= size)
                        return pc_fail(reterr, ENAMETOOLONG, "exec", name);
                memcpy(ret_path, name, len + 1);
                return 0;
        }
        int worst = ENOENT; /* a program that is there but may not run is the better news */
        for (const char *at = path; at; at = *at == ':' ? at + 1 : NULL) {
                size_t dir = strcspn(at, ":");
                const char *from = dir > 0 ? at : "."; /* an empty element is the working directory */
                size_t prefix = dir > 0 ? dir : 1;
                at += dir;
                if (prefix + 1 + len >= size)
                        continue;
                memcpy(ret_path, from, prefix);
                ret_path[prefix] = '/';
                memcpy(ret_path + prefix + 1, name, len + 1);
                int r = check_program(ret_path);
                if (r == 0)
                        return 0;
                if (r == -EACCES)
                        worst = EACCES;
        }
        return pc_fail(reterr, worst, "exec", name);
}
