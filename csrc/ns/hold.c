/* The caller's side of holders: start, wait, and the holder of a user namespace while its maps are written. */
#include "common/fd.h"
#include "common/sys.h"
#include "ns/holder.h"
#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

const char *const pc_ns_names[PC_NS_KINDS] = {
    [PC_NS_USER] = "user", [PC_NS_NET] = "net",       [PC_NS_UTS] = "uts", [PC_NS_IPC] = "ipc",
    [PC_NS_MNT] = "mnt",   [PC_NS_CGROUP] = "cgroup", [PC_NS_PID] = "pid",
};
const int pc_ns_flags[PC_NS_KINDS] = {
    [PC_NS_USER] = CLONE_NEWUSER, [PC_NS_NET] = CLONE_NEWNET, [PC_NS_UTS] = CLONE_NEWUTS,
    [PC_NS_IPC] = CLONE_NEWIPC,   [PC_NS_MNT] = CLONE_NEWNS,  [PC_NS_CGROUP] = CLONE_NEWCGROUP,
    [PC_NS_PID] = CLONE_NEWPID,
};

/* No exit signal: nobody's SIGCHLD handler or wait for any child shall meet this one. libc's clone() serves, as every
 * flag fits it, and is there on all architectures; signals are blocked, so handlers need no clearing either. */
static int start(int (*fn)(void *), char *stack, int flags, void *arg, int *ret_pidfd) {
        if (pc_fault_hit("clone"))
                return -errno;
        uint64_t all = ~0ULL, before; /* also what libc keeps for itself */
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
        int pid = clone(fn, stack + PC_NS_STACK, flags | CLONE_VM | CLONE_FILES | CLONE_PIDFD, arg, ret_pidfd);
        int code = errno;
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
        return pid < 0 ? -code : pid;
}

/* Reap by pidfd; 0 when it exited with 0. */
static int reap(int pidfd, struct pc_err *reterr) {
        siginfo_t info = {0};
        int r;
        do
                r = waitid((idtype_t) 3 /* P_PIDFD */, (id_t) pidfd, &info, WEXITED | __WALL);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return pc_fail_errno(reterr, "wait for holder", NULL);
        if (info.si_code != CLD_EXITED)
                return pc_fail(reterr, ECANCELED, "holder was killed", NULL);
        return info.si_status == 0 ? 0 : pc_fail(reterr, EIO, "holder failed", NULL);
}

int pc_ns_hold(struct pc_ns_holder *h, struct pc_err *reterr) {
        _Alignas(16) char stack[PC_NS_STACK], keeper_stack[PC_NS_STACK];
        _cleanup_fd_ int pidfd = -1;
        h->keeper_stack = keeper_stack;
        int pid = start(pc_ns_holder_main, stack, CLONE_VFORK, h, &pidfd);
        if (pid < 0)
                return pc_fail(reterr, pid, "clone", NULL);
        int r = reap(pidfd, reterr);
        if (h->keeper_pidfd >= 0 && (r < 0 || h->code)) { /* its exec failed: it has ended, or is about to */
                (void) pc_pidfd_send_signal(h->keeper_pidfd, SIGKILL);
                (void) reap(h->keeper_pidfd, NULL);
        }
        return h->code ? pc_fail(reterr, h->code, h->step, h->path) : r;
}

/* Stays until it is killed. The caller's thread runs meanwhile and shares errno's slot, hence only calls that cannot
 * fail; should the caller die, the parent-death signal ends it. */
PC_NS_BARE static int stay(void *arg) {
        const pid_t *parent = arg;
        (void) syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (syscall(SYS_getppid) != *parent)
                return 1;
        for (;;)
                (void) syscall(SYS_ppoll, NULL, 0, NULL, NULL, sizeof(uint64_t));
}

static int write_map(pid_t pid, const char *file, const struct pc_ns_map *maps, size_t n, struct pc_err *reterr) {
        char path[64], text[4096];
        size_t len = 0;
        (void) snprintf(path, sizeof path, "/proc/%d/%s", (int) pid, file);
        for (size_t i = 0; i < n; i++) {
                int w = snprintf(text + len, sizeof text - len, "%u %u %u\n", maps[i].container, maps[i].host,
                                 maps[i].size);
                len += (size_t) w;
                if (w < 0 || len >= sizeof text) /* the kernel takes less than a page, in one write */
                        return pc_fail(reterr, E2BIG, "write id map", path);
        }
        _cleanup_fd_ int fd = (int) PC_SYS(openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
        if (fd < 0)
                return pc_fail(reterr, fd, "open id map", path);
        long w = PC_SYS(write, fd, text, len);
        return w < 0 ? pc_fail(reterr, (int) w, "write id map", path) : 0;
}

int pc_ns_hold_userns(const struct pc_ns_spec *maps, int *ret_fd, struct pc_err *reterr) {
        _Alignas(16) char stack[PC_NS_STACK];
        _cleanup_fd_ int pidfd = -1, fd = -1;
        pid_t self = getpid();
        if (maps->n_uids == 0 || maps->n_gids == 0)
                return pc_fail(reterr, EINVAL, "id maps of the user namespace", NULL);
        int pid = start(stay, stack, CLONE_NEWUSER, &self, &pidfd);
        if (pid < 0)
                return pc_fail(reterr, pid, "clone", "user");
        int r = write_map(pid, "uid_map", maps->uids, maps->n_uids, reterr);
        if (r == 0)
                r = write_map(pid, "gid_map", maps->gids, maps->n_gids, reterr);
        if (r == 0) {
                char path[64];
                (void) snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
                fd = (int) PC_SYS(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
                if (fd < 0)
                        r = pc_fail(reterr, fd, "open namespace", path);
        }
        (void) pc_pidfd_send_signal(pidfd, SIGKILL);
        (void) reap(pidfd, NULL); /* killed, as we wanted */
        if (r < 0)
                return r;
        *ret_fd = steal_fd(&fd);
        return 0;
}
