/* sd_notify relay: the container writes to <bundle>/notify/notify.sock, harmless lines go on to the host's socket. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fd.h"

int pc_notify_open(struct pc_mon *m, struct pc_err *reterr) {
        char path[PATH_MAX];
        m->notify_path = m->args->sdnotify_socket;
        if (strlen(m->notify_path) >= sizeof(((struct sockaddr_un *) NULL)->sun_path))
                return pc_fail(reterr, ENAMETOOLONG, "notify socket", m->notify_path);
        if (!pc_join(path, sizeof path, (const char *const[]){m->bundle, "/notify"}, 2))
                return pc_fail(reterr, ENAMETOOLONG, "notify socket", m->bundle);
        _cleanup_fd_ int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                return pc_fail_errno(reterr, "open notify directory", path);
        m->notify_host = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        m->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (m->notify < 0 || m->notify_host < 0)
                return pc_fail_errno(reterr, "socket", path);
        if (unlinkat(dir, "notify.sock", 0) < 0 && errno != ENOENT)
                return pc_fail_errno(reterr, "remove old notify socket", path);
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        char number[24];
        number[pc_decimal(number, dir)] = '\0';
        (void) pc_join(to.sun_path, sizeof to.sun_path, (const char *const[]){"/proc/self/fd/", number, "/notify.sock"},
                       3);
        if (bind(m->notify, (struct sockaddr *) &to, sizeof to) < 0 || fchmodat(dir, "notify.sock", 0777, 0) < 0)
                return pc_fail_errno(reterr, "bind notify socket", path);
        return pc_watch(m, m->notify, EPOLLIN, EV_NOTIFY, 0) < 0 ? pc_fail_errno(reterr, "epoll_ctl", NULL) : 0;
}

void pc_notify_event(struct pc_mon *m) {
        char buf[4096];
        ssize_t n = recv(m->notify, buf, sizeof buf, MSG_DONTWAIT);
        size_t k = n > 0 ? pc_notify_filter(buf, (size_t) n) : 0;
        if (k == 0)
                return;
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        size_t len = strlen(m->notify_path);
        memcpy(to.sun_path, m->notify_path, len);
        if (to.sun_path[0] == '@')
                to.sun_path[0] = '\0';
        socklen_t size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + len + (to.sun_path[0] != '\0'));
        if (sendto(m->notify_host, buf, k, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *) &to, size) < 0)
                pc_say(m, PC_LEVEL_WARN, "Cannot pass on a notify message", m->notify_path, errno);
}
