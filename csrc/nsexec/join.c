#include "nsexec/join.h"
#include "common/fd.h"
#include <fcntl.h>
#include <grp.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

const char *const nsx_names[NSX_KINDS] = {"user", "cgroup", "ipc", "uts", "net", "pid", "mnt"};
static const int flags[NSX_KINDS] = {CLONE_NEWUSER, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWUTS,
                                     CLONE_NEWNET,  CLONE_NEWPID,    CLONE_NEWNS};

/* True when the namespace belongs to that user namespace. An owner that we may not see (EPERM) is none of ours. */
static bool owned_by(int ns, const struct stat *user) {
        struct stat st;
        _cleanup_fd_ int owner = ioctl(ns, NS_GET_USERNS);
        return owner >= 0 && fstat(owner, &st) == 0 && st.st_ino == user->st_ino && st.st_dev == user->st_dev;
}

static int become_root(const char *path, struct pc_err *reterr) {
        if (setgroups(0, NULL) < 0 && errno != EPERM) /* EPERM: denied in this user namespace for good */
                return pc_fail_errno(reterr, "setgroups", path);
        if (setresgid(0, 0, 0) < 0)
                return pc_fail_errno(reterr, "setgid", path);
        if (setresuid(0, 0, 0) < 0)
                return pc_fail_errno(reterr, "setuid", path);
        return 0;
}

static int enter(int kind, int fd, const char *path, struct pc_err *reterr) {
        if (setns(fd, flags[kind]) < 0)
                return pc_fail_errno(reterr, nsx_names[kind], path);
        return kind == NSX_USER ? become_root(path, reterr) : 0;
}

static int join_opened(const char *const paths[], int fds[], struct pc_err *reterr) {
        struct stat user;
        int r = 0;
        if (fds[NSX_USER] < 0) {
                for (int k = 0; k < NSX_KINDS; k++)
                        if (fds[k] >= 0 && (r = enter(k, fds[k], paths[k], reterr)) < 0)
                                return r;
                return 0;
        }
        if (fstat(fds[NSX_USER], &user) < 0)
                return pc_fail_errno(reterr, "stat", paths[NSX_USER]);
        bool after[NSX_KINDS] = {false};
        for (int k = NSX_USER + 1; k < NSX_KINDS; k++) {
                if (fds[k] < 0)
                        continue;
                after[k] = owned_by(fds[k], &user);
                if (!after[k] && (r = enter(k, fds[k], paths[k], reterr)) < 0)
                        return r;
        }
        r = enter(NSX_USER, fds[NSX_USER], paths[NSX_USER], reterr);
        for (int k = NSX_USER + 1; r == 0 && k < NSX_KINDS; k++)
                if (after[k])
                        r = enter(k, fds[k], paths[k], reterr);
        return r;
}

int nsx_join(const char *const paths[NSX_KINDS], struct pc_err *reterr) {
        int fds[NSX_KINDS], r = 0;
        for (int k = 0; k < NSX_KINDS; k++) {
                fds[k] = paths[k] && r == 0 ? open(paths[k], O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
                if (paths[k] && r == 0 && fds[k] < 0)
                        r = pc_fail_errno(reterr, nsx_names[k], paths[k]);
        }
        if (r == 0)
                r = join_opened(paths, fds, reterr);
        for (int k = 0; k < NSX_KINDS; k++)
                pc_closep(&fds[k]);
        return r;
}

int nsx_loopback_up(struct pc_err *reterr) {
        struct ifreq ifr = {.ifr_name = "lo"};
        _cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return pc_fail_errno(reterr, "socket", "lo");
        if (ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
                return pc_fail_errno(reterr, "lo-up", "lo");
        ifr.ifr_flags |= IFF_UP;
        if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
                return pc_fail_errno(reterr, "lo-up", "lo");
        return 0;
}
