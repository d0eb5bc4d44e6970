/* The holder's own code: between clone and exit there are bare system calls only. syscall() stores errno in the slot of
 * the caller's thread, which is asleep; the stack is a foreign one, so sanitizers stay out. All signals are blocked, so
 * no handler of the caller ever runs here. */
#include "ns/holder.h"
#include "common/sys.h"
#include <fcntl.h>
#include <linux/if.h>
#include <linux/prctl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>

#define KERNEL_NSIG 64
#define KEEPER_UID 65535

PC_NS_BARE static int fail(struct pc_ns_holder *h, long r, const char *step, const char *path) {
        h->code = (int) -r;
        h->step = step;
        h->path = path;
        return (int) r;
}

PC_NS_BARE static int make(struct pc_ns_holder *h) {
        long r;
        if (h->userns >= 0 && (r = PC_SYS(setns, h->userns, CLONE_NEWUSER)) < 0)
                return fail(h, r, "setns", "user");
        if (h->join_net >= 0 && (r = PC_SYS(setns, h->join_net, CLONE_NEWNET)) < 0)
                return fail(h, r, "setns", "net");
        if (h->unshare && (r = PC_SYS(unshare, h->unshare)) < 0)
                return fail(h, r, "unshare", NULL);
        /* A mount namespace cannot be pinned where the pin would propagate into itself. */
        if ((h->unshare & CLONE_NEWNS) && (r = PC_SYS(mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) < 0)
                return fail(h, r, "make private", "/");
        return 0;
}

/* Change the effective ids, or all of them. The kernel marks the memory of a process that does so as not dumpable, and
 * this is the caller's memory too: put back what was. */
PC_NS_BARE static long become(long uid, bool all) {
        long before = syscall(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
        long r = all ? PC_SYS(setgroups, 0, NULL) : 0;
        if (r >= 0)
                r = PC_SYS(setresgid, all ? uid : -1L, uid, all ? uid : -1L);
        if (r >= 0)
                r = PC_SYS(setresuid, all ? uid : -1L, uid, all ? uid : -1L);
        long now = syscall(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
        if (now != before) /* 2 cannot be set; 0 is as strict */
                (void) syscall(SYS_prctl, PR_SET_DUMPABLE, before == 1 ? 1 : 0, 0, 0, 0);
        return r;
}

PC_NS_BARE static int write_setting(struct pc_ns_holder *h, struct pc_ns_setting *s, bool first) {
        long fd = PC_SYS(openat, AT_FDCWD, s->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0);
        s->later = first && fd == -EACCES && h->userns >= 0;
        if (s->later)
                return 0;
        if (fd < 0)
                return fail(h, fd, fd == -ENOENT ? "unknown sysctl" : "open sysctl", s->path);
        long r = PC_SYS(write, fd, s->value, s->len);
        (void) syscall(SYS_close, fd);
        if (r < 0)
                return fail(h, r, "write sysctl", s->path);
        return (size_t) r == s->len ? 0 : fail(h, -EINVAL, "write sysctl", s->path);
}

/* In a user namespace we are still the host's root by id, which sysctls of uts want, and those of ipc before 5.19;
 * since then these want the root of the owner. There is no way back from there, hence two rounds. */
PC_NS_BARE static int write_settings(struct pc_ns_holder *h) {
        bool any = false;
        int r;
        for (size_t i = 0; i < h->n_settings; i++) {
                if ((r = write_setting(h, &h->settings[i], true)) < 0)
                        return r;
                any = any || h->settings[i].later;
        }
        if (!any)
                return 0;
        long done = become(0, false);
        if (done < 0)
                return fail(h, done, "become root for sysctl", NULL);
        for (size_t i = 0; i < h->n_settings; i++)
                if (h->settings[i].later && (r = write_setting(h, &h->settings[i], false)) < 0)
                        return r;
        return 0;
}

PC_NS_BARE static int raise_loopback(struct pc_ns_holder *h) {
        struct ifreq ifr = {.ifr_name = "lo"};
        long fd = PC_SYS(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return fail(h, fd, "socket", "lo");
        long r = PC_SYS(ioctl, fd, SIOCGIFFLAGS, &ifr);
        if (r >= 0) {
                ifr.ifr_flags |= IFF_UP;
                r = PC_SYS(ioctl, fd, SIOCSIFFLAGS, &ifr);
        }
        (void) syscall(SYS_close, fd);
        return r < 0 ? fail(h, r, "raise loopback", "lo") : 0;
}

PC_NS_BARE static int configure(struct pc_ns_holder *h) {
        long r;
        if ((r = write_settings(h)) < 0)
                return (int) r;
        if (h->hostname && (r = PC_SYS(sethostname, h->hostname, h->hostname_len)) < 0)
                return fail(h, r, "sethostname", h->hostname);
        return h->loopback_up ? raise_loopback(h) : 0;
}

PC_NS_BARE static int open_made(struct pc_ns_holder *h) {
        static const char *const paths[PC_NS_KINDS] = {
            [PC_NS_NET] = "/proc/self/ns/net",       [PC_NS_UTS] = "/proc/self/ns/uts",
            [PC_NS_IPC] = "/proc/self/ns/ipc",       [PC_NS_MNT] = "/proc/self/ns/mnt",
            [PC_NS_CGROUP] = "/proc/self/ns/cgroup",
        };
        for (int k = 0; k < PC_NS_KINDS; k++) {
                if (!paths[k] || !(h->unshare & pc_ns_flags[k]))
                        continue;
                long fd = PC_SYS(openat, AT_FDCWD, paths[k], O_RDONLY | O_CLOEXEC, 0);
                if (fd < 0)
                        return fail(h, fd, "open namespace", paths[k]);
                h->fds[k] = (int) fd;
        }
        return 0;
}

/* An empty, read-only root: what shares the pid namespace can reach /proc/1/root. */
PC_NS_BARE static int leave_root(struct pc_ns_holder *h) {
        static const char spot[] = "/proc"; /* any directory that is always there; hidden from us alone */
        unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        long r;
        if ((r = PC_SYS(mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) < 0)
                return fail(h, r, "make private", "/");
        if ((r = PC_SYS(mount, "none", spot, "tmpfs", flags | MS_RDONLY, "size=4k,nr_inodes=2,mode=555")) < 0)
                return fail(h, r, "mount the keeper's root", spot);
        if ((r = PC_SYS(chdir, spot)) < 0 || (r = PC_SYS(pivot_root, ".", ".")) < 0)
                return fail(h, r, "enter the keeper's root", spot);
        if ((r = PC_SYS(umount2, ".", MNT_DETACH)) < 0) /* the old root lies upon the new one */
                return fail(h, r, "leave the host's root", "/");
        if ((r = PC_SYS(chdir, "/")) < 0)
                return fail(h, r, "chdir", "/");
        return 0;
}

/* Handlers are meaningless after exec, but what the caller ignores (Python: SIGPIPE) would stay ignored. */
PC_NS_BARE static int reset_signals(struct pc_ns_holder *h) {
        uint64_t dfl[8], nothing = 0; /* at least the kernel's struct sigaction; zero is SIG_DFL */
        for (size_t i = 0; i < 8; i++)
                ((volatile uint64_t *) dfl)[i] = 0;
        for (int sig = 1; sig <= KERNEL_NSIG; sig++)
                if (sig != SIGKILL && sig != SIGSTOP)
                        (void) syscall(SYS_rt_sigaction, sig, dfl, NULL, KERNEL_NSIG / 8);
        long r = PC_SYS(rt_sigprocmask, SIG_SETMASK, &nothing, NULL, sizeof nothing);
        return r < 0 ? fail(h, r, "sigprocmask", NULL) : 0;
}

/* /dev/null three times, the program above them until exec closes it. Our table is a copy, so the caller's stays. */
PC_NS_BARE static int own_fds(struct pc_ns_holder *h) {
        long null = PC_SYS(openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
        if (null < 0)
                return fail(h, null, "open", "/dev/null");
        long from = PC_SYS(fcntl, null, F_DUPFD_CLOEXEC, 4);
        long program = PC_SYS(fcntl, h->keeper_fd, F_DUPFD_CLOEXEC, 4);
        if (from < 0 || program < 0)
                return fail(h, from < 0 ? from : program, "dup", NULL);
        long r;
        for (int fd = 0; fd <= 2; fd++)
                if ((r = PC_SYS(dup3, from, fd, 0)) < 0)
                        return fail(h, r, "dup", "/dev/null");
        if ((r = PC_SYS(dup3, program, 3, O_CLOEXEC)) < 0)
                return fail(h, r, "dup", h->keeper[0]);
        if ((r = PC_SYS(close_range, 4, ~0U, 0)) < 0)
                return fail(h, r, "close_range", NULL);
        return 0;
}

/* First process of the new pid namespace: nobody, in an empty root, without capabilities. */
PC_NS_BARE static int keeper_main(void *holder) {
        struct pc_ns_holder *h = holder;
        char *const none[] = {NULL};
        long r;
        if ((r = PC_SYS(setsid, 0)) < 0)
                return fail(h, r, "setsid", NULL);
        if (own_fds(h) < 0 || leave_root(h) < 0 || reset_signals(h) < 0)
                return 1;
        if ((r = PC_SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) < 0)
                return fail(h, r, "no_new_privs", NULL);
        r = become(KEEPER_UID, true);
        if (r == -EINVAL) /* not mapped */
                r = become(0, true);
        if (r < 0)
                return fail(h, r, "change user", h->keeper[0]);
        r = PC_SYS(execveat, 3, "", h->keeper, none, AT_EMPTY_PATH);
        return fail(h, r, "exec", h->keeper[0]);
}

/* CLONE_PARENT makes it the caller's child. CLONE_FILES is left out, yet its pidfd lands in our, the caller's, table.
 */
PC_NS_BARE static int start_keeper(struct pc_ns_holder *h) {
        if (pc_fault_hit("clone"))
                return fail(h, -errno, "clone", h->keeper[0]);
        int flags = CLONE_VM | CLONE_VFORK | CLONE_PARENT | CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD;
        int pid = clone(keeper_main, h->keeper_stack + PC_NS_STACK, flags, h, &h->keeper_pidfd);
        if (pid < 0)
                return fail(h, -errno, "clone", h->keeper[0]);
        h->keeper_pid = pid;
        return h->code ? -h->code : 0;
}

PC_NS_BARE int pc_ns_holder_main(void *holder) {
        struct pc_ns_holder *h = holder;
        if (make(h) < 0 || configure(h) < 0 || open_made(h) < 0)
                return 1;
        if (h->socket[0]) {
                long fd = PC_SYS(socket, h->socket[0], h->socket[1] | SOCK_CLOEXEC, h->socket[2]);
                if (fd < 0)
                        return fail(h, fd, "socket", NULL), 1;
                h->socket_fd = (int) fd;
        }
        return h->keeper && start_keeper(h) < 0;
}
