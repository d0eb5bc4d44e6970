/* From a description to pinned namespaces, and sockets inside one. */
#include "common/fd.h"
#include "common/sys.h"
#include "ns/holder.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define HOSTNAME_MAX 64

static void close_fds(struct pc_ns_holder *h) {
        for (int k = 0; k < PC_NS_KINDS; k++)
                pc_closep(&h->fds[k]);
        pc_closep(&h->socket_fd);
        pc_closep(&h->keeper_fd);
        pc_closep(&h->keeper_pidfd);
}

static struct pc_ns_holder empty_holder(void) {
        struct pc_ns_holder h = {.userns = -1, .join_net = -1, .keeper_fd = -1, .socket_fd = -1, .keeper_pidfd = -1};
        for (int k = 0; k < PC_NS_KINDS; k++)
                h.fds[k] = -1;
        return h;
}

/* What the description asks for must stay inside the namespaces that it makes. */
static int check(const struct pc_ns_spec *s, struct pc_err *reterr) {
        bool any = false;
        for (int k = 0; k < PC_NS_KINDS; k++)
                any = any || s->pins[k];
        if (!any)
                return pc_fail(reterr, EINVAL, "no namespace asked for", NULL);
        if (s->pins[PC_NS_PID] && !s->keeper)
                return pc_fail(reterr, EINVAL, "pid namespace without a keeper", s->pins[PC_NS_PID]);
        if (s->keeper && !s->pins[PC_NS_PID])
                return pc_fail(reterr, EINVAL, "keeper without a pid namespace", s->keeper[0]);
        if (s->pins[PC_NS_USER] && s->userns >= 0)
                return pc_fail(reterr, EINVAL, "two user namespaces", s->pins[PC_NS_USER]);
        if (!s->pins[PC_NS_USER] && (s->n_uids || s->n_gids))
                return pc_fail(reterr, EINVAL, "id maps without a user namespace", NULL);
        if (s->hostname && !s->pins[PC_NS_UTS])
                return pc_fail(reterr, EINVAL, "hostname without a uts namespace", s->hostname);
        if (s->hostname && strlen(s->hostname) > HOSTNAME_MAX)
                return pc_fail(reterr, ENAMETOOLONG, "sethostname", s->hostname);
        return 0;
}

static int prepare_settings(const struct pc_ns_spec *s, struct pc_ns_setting *out, struct pc_err *reterr) {
        for (size_t i = 0; i < s->n_sysctls; i++) {
                enum pc_ns_kind kind;
                int r = pc_ns_sysctl(s->sysctls[2 * i], out[i].path, sizeof out[i].path, &kind, reterr);
                if (r < 0)
                        return r;
                if (!s->pins[kind]) /* it would change the host's */
                        return pc_fail(reterr, EPERM, "sysctl of a namespace that is not made", s->sysctls[2 * i]);
                out[i].value = s->sysctls[2 * i + 1];
                out[i].len = strlen(out[i].value);
        }
        return 0;
}

static void unpin_all(const struct pc_ns_spec *s, int upto) {
        for (int k = 0; k < upto; k++)
                if (s->pins[k])
                        (void) pc_ns_unpin(s->pins[k], NULL);
}

static int pin_all(const struct pc_ns_spec *s, const struct pc_ns_holder *h, struct pc_err *reterr) {
        for (int k = 0; k < PC_NS_KINDS; k++) {
                if (!s->pins[k])
                        continue;
                int r = pc_ns_pin_fd(h->fds[k], s->pins[k], reterr);
                if (r < 0) {
                        unpin_all(s, k);
                        return r;
                }
        }
        return 0;
}

/* The keeper's program on a read-only mount of its own: /proc/1/exe in the pod is no way to write to the host's file.
 */
static int open_keeper(struct pc_ns_holder *h, struct pc_err *reterr) {
        struct {
                uint64_t set, clear, propagation, userns;
        } attr = {.set = 1 /* MOUNT_ATTR_RDONLY */ | 2 /* MOUNT_ATTR_NOSUID */};
        const char *path = h->keeper[0];
        long fd = PC_SYS(open_tree, AT_FDCWD, path, 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC);
        if (fd < 0)
                return pc_fail(reterr, (int) fd, "open the keeper", path);
        h->keeper_fd = (int) fd;
        long r = PC_SYS(mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof attr);
        return r < 0 ? pc_fail(reterr, (int) r, "mount_setattr", path) : 0;
}

static int open_pid_ns(struct pc_ns_holder *h, struct pc_err *reterr) {
        char path[64];
        (void) snprintf(path, sizeof path, "/proc/%d/ns/pid", (int) h->keeper_pid);
        int fd = (int) PC_SYS(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0)
                return pc_fail(reterr, fd, "open namespace", path);
        h->fds[PC_NS_PID] = fd;
        return 0;
}

static void end_keeper(struct pc_ns_holder *h) {
        siginfo_t info;
        (void) pc_pidfd_send_signal(h->keeper_pidfd, SIGKILL);
        while (waitid((idtype_t) 3 /* P_PIDFD */, (id_t) h->keeper_pidfd, &info, WEXITED | __WALL) < 0 &&
               errno == EINTR)
                ;
}

int pc_ns_create(const struct pc_ns_spec *s, pid_t *ret_pid, int *ret_pidfd, struct pc_err *reterr) {
        int r = check(s, reterr);
        if (r < 0)
                return r;
        _cleanup_free_ struct pc_ns_setting *settings = calloc(s->n_sysctls + 1, sizeof *settings);
        if (!settings)
                return pc_fail(reterr, ENOMEM, "malloc", NULL);
        r = prepare_settings(s, settings, reterr);
        if (r < 0)
                return r;

        _cleanup_(close_fds) struct pc_ns_holder h = empty_holder();
        h.userns = s->userns;
        h.settings = settings;
        h.n_settings = s->n_sysctls;
        h.hostname = s->hostname;
        h.hostname_len = s->hostname ? strlen(s->hostname) : 0;
        h.loopback_up = s->loopback_up && s->pins[PC_NS_NET];
        h.keeper = s->keeper;
        if (h.keeper && (r = open_keeper(&h, reterr)) < 0)
                return r;
        for (int k = 0; k < PC_NS_KINDS; k++)
                if (s->pins[k] && k != PC_NS_USER && k != PC_NS_PID)
                        h.unshare |= pc_ns_flags[k];

        /* The owner first: what is made after joining it belongs to it. */
        if (s->pins[PC_NS_USER]) {
                r = pc_ns_hold_userns(s, &h.fds[PC_NS_USER], reterr);
                if (r < 0)
                        return r;
                h.userns = h.fds[PC_NS_USER];
        }
        if (h.unshare || h.keeper) {
                r = pc_ns_hold(&h, reterr);
                if (r < 0)
                        return r;
        }
        if (h.keeper)
                r = open_pid_ns(&h, reterr);
        if (r >= 0)
                r = pin_all(s, &h, reterr);
        if (r < 0) {
                if (h.keeper)
                        end_keeper(&h);
                return r;
        }
        if (h.keeper) {
                *ret_pid = h.keeper_pid;
                *ret_pidfd = steal_fd(&h.keeper_pidfd);
        }
        return 0;
}

int pc_ns_socket(const char *netns, int domain, int type, int protocol, int *ret_fd, struct pc_err *reterr) {
        if (!netns || !*netns) {
                long fd = PC_SYS(socket, domain, type | SOCK_CLOEXEC, protocol);
                if (fd < 0)
                        return pc_fail(reterr, (int) fd, "socket", NULL);
                *ret_fd = (int) fd;
                return 0;
        }
        _cleanup_fd_ int ns = (int) PC_SYS(openat, AT_FDCWD, netns, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
        if (ns < 0)
                return pc_fail(reterr, ns, "open namespace", netns);
        _cleanup_(close_fds) struct pc_ns_holder h = empty_holder();
        h.join_net = ns;
        h.socket[0] = domain;
        h.socket[1] = type;
        h.socket[2] = protocol;
        int r = pc_ns_hold(&h, reterr);
        if (r < 0) {
                if (reterr)
                        (void) snprintf(reterr->path, sizeof reterr->path, "%s", netns);
                return r;
        }
        *ret_fd = steal_fd(&h.socket_fd);
        return 0;
}
