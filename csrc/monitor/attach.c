/* Attached clients: the socket, their input to the container's stdin, room for their output. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fd.h"

#define LINGER_MS 2000       /* at the end, a client that takes nothing for so long is left */
#define UNWATCHED UINT32_MAX /* in client_events: gone, and what it sent is not wanted yet */

/* The directory through which the socket is reached: the bundle, or a short link to it. */
static int socket_dir(struct pc_mon *m, char out[PATH_MAX], struct pc_err *reterr) {
        const struct pc_args *a = m->args;
        if (a->full_attach || !a->cuuid) {
                if (!pc_join(out, PATH_MAX, (const char *const[]){m->bundle}, 1))
                        return pc_fail(reterr, ENAMETOOLONG, "attach socket", m->bundle);
                return 0;
        }
        const char *dir = a->socket_dir ? a->socket_dir : "/var/run/crio";
        if (!pc_join(out, PATH_MAX, (const char *const[]){dir, "/", a->cuuid}, 3))
                return pc_fail(reterr, ENAMETOOLONG, "attach socket", dir);
        /* Callers cut the whole path at the size of a socket address. A link exactly that long would be taken for the
         * socket, so it is made one shorter, as they expect. */
        const size_t most = sizeof(((struct sockaddr_un *) NULL)->sun_path);
        if (strlen(out) == most - 1)
                out[most - 2] = '\0';
        if (unlink(out) < 0 && errno != ENOENT)
                return pc_fail_errno(reterr, "remove old attach link", out);
        if (symlink(m->bundle, out) < 0)
                return pc_fail_errno(reterr, "create attach link", out);
        m->attach_link = strdup(out);
        return m->attach_link ? 0 : pc_fail(reterr, ENOMEM, "attach socket", out);
}

int pc_attach_open(struct pc_mon *m, struct pc_err *reterr) {
        char dir[PATH_MAX], path[PATH_MAX];
        int r = socket_dir(m, dir, reterr);
        if (r < 0)
                return r;
        _cleanup_fd_ int dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dirfd < 0)
                return pc_fail_errno(reterr, "open attach directory", dir);
        if (!pc_join(path, sizeof path, (const char *const[]){dir, "/attach"}, 2))
                return pc_fail(reterr, ENAMETOOLONG, "attach socket", dir);
        m->attach_path = strdup(path);
        if (!m->attach_path)
                return pc_fail(reterr, ENOMEM, "attach socket", path);
        if (unlinkat(dirfd, "attach", 0) < 0 && errno != ENOENT)
                return pc_fail_errno(reterr, "remove old attach socket", path);
        m->attach_listen = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (m->attach_listen < 0)
                return pc_fail_errno(reterr, "socket", path);
        /* Bound through the directory's descriptor: the path may be longer than a socket address. */
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        char number[24];
        number[pc_decimal(number, dirfd)] = '\0';
        (void) pc_join(to.sun_path, sizeof to.sun_path, (const char *const[]){"/proc/self/fd/", number, "/attach"}, 3);
        (void) fchmod(m->attach_listen, 0700); /* the socket file is born with this mode */
        if (bind(m->attach_listen, (struct sockaddr *) &to, sizeof to) < 0)
                return pc_fail_errno(reterr, "bind attach socket", path);
        if (fchmodat(dirfd, "attach", 0700, 0) < 0)
                return pc_fail_errno(reterr, "chmod attach socket", path);
        if (listen(m->attach_listen, 10) < 0)
                return pc_fail_errno(reterr, "listen on attach socket", path);
        return pc_watch(m, m->attach_listen, EPOLLIN, EV_ATTACH, 0) < 0 ? pc_fail_errno(reterr, "epoll_ctl", NULL) : 0;
}

void pc_attach_remove(struct pc_mon *m) {
        if (m->attach_path)
                (void) unlink(m->attach_path);
        if (m->attach_link)
                (void) unlink(m->attach_link);
        free(steal_ptr(m->attach_path));
        free(steal_ptr(m->attach_link));
}

void pc_attach_event(struct pc_mon *m) {
        int fd = accept4(m->attach_listen, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
                return;
        int slot = pc_fan_add(&m->fan, fd);
        if (slot < 0) {
                pc_say(m, PC_LEVEL_WARN, "Too many attached clients: one more is refused", NULL, 0);
                (void) close(fd);
                return;
        }
        m->client_events[slot] = 0;
        if (pc_watch(m, fd, 0, EV_CLIENT, slot) < 0) {
                pc_fan_drop(&m->fan, slot);
                return;
        }
        pc_attach_watch(m);
}

/* May clients send now? One packet of input is in work at a time; a terminal that is still to come is waited for. */
static bool wants_input(const struct pc_mon *m) {
        return m->stdin_len == 0 && !(m->args->terminal && m->stdin_fd < 0 && m->console >= 0);
}

/* Bring every client's epoll mask in line with what it can do now. */
void pc_attach_watch(struct pc_mon *m) {
        bool input = wants_input(m);
        for (unsigned i = 0; i < m->fan.used; i++) {
                struct pc_client *c = &m->fan.clients[i];
                if (c->fd < 0)
                        continue;
                bool queued = c->writable && (c->head < c->tail || c->cut);
                uint32_t want = (c->reading && input ? EPOLLIN : 0) | (queued ? EPOLLOUT : 0);
                if (want == m->client_events[i])
                        continue;
                if (m->client_events[i] != UNWATCHED)
                        pc_rewatch(m, c->fd, want, EV_CLIENT, (int) i);
                else if (!input || pc_watch(m, c->fd, want, EV_CLIENT, (int) i) < 0)
                        continue;
                m->client_events[i] = want;
        }
}

static void close_stdin(struct pc_mon *m) {
        if (m->stdin_wait)
                pc_unwatch(m, m->stdin_fd);
        m->stdin_wait = m->stdin_closing = false;
        pc_closep(&m->stdin_fd);
        m->stdin_len = m->stdin_off = 0;
}

/* Pass on what can be passed on. */
static void pump_stdin(struct pc_mon *m) {
        while (m->stdin_len > 0 && m->stdin_fd >= 0) {
                ssize_t n = write(m->stdin_fd, m->stdin_buf + m->stdin_off, m->stdin_len);
                if (n > 0) {
                        m->stdin_off += (size_t) n;
                        m->stdin_len -= (size_t) n;
                } else if (n < 0 && errno == EINTR)
                        continue;
                else if (n < 0 && errno == EAGAIN)
                        break;
                else if (m->args->terminal) /* EIO: nobody has it open now, somebody may later */
                        m->stdin_len = 0;
                else
                        close_stdin(m); /* EPIPE: the container will never read again */
        }
        if (m->stdin_fd < 0)
                m->stdin_len = 0;
        if (m->stdin_len == 0) {
                m->stdin_off = 0;
                if (m->stdin_closing)
                        close_stdin(m);
        }
        bool wait = m->stdin_len > 0;
        if (m->stdin_fd >= 0 && wait != m->stdin_wait) {
                if (wait)
                        (void) pc_watch(m, m->stdin_fd, EPOLLOUT, EV_STDIN, 0);
                else
                        pc_unwatch(m, m->stdin_fd);
                m->stdin_wait = wait;
        }
}

void pc_attach_stdin(struct pc_mon *m, uint32_t events) {
        (void) events;
        pump_stdin(m);
        pc_attach_watch(m);
}

static void end_of_input(struct pc_mon *m, struct pc_client *c) {
        c->reading = false;
        if (m->stdin_fd < 0 || !m->args->stdin_pipe || m->args->leave_stdin_open)
                return;
        m->stdin_closing = true;
        pump_stdin(m);
}

/* A peer that leaves with output unread makes its end a reset, which is told before what it had sent. */
static ssize_t take_input(struct pc_mon *m, const struct pc_client *c) {
        ssize_t n = recv(c->fd, m->stdin_buf, PC_STDIN_CAP, MSG_DONTWAIT);
        return n < 0 && errno == ECONNRESET ? recv(c->fd, m->stdin_buf, PC_STDIN_CAP, MSG_DONTWAIT) : n;
}

void pc_attach_client(struct pc_mon *m, int slot, uint32_t events) {
        struct pc_client *c = &m->fan.clients[slot];
        if (c->fd < 0)
                return;
        if (events & EPOLLOUT)
                (void) pc_fan_flush(&m->fan, slot);
        if (events & EPOLLIN && c->reading && wants_input(m)) {
                ssize_t n = take_input(m, c);
                if (n > 0) {
                        m->stdin_off = 0;
                        m->stdin_len = m->stdin_fd >= 0 ? (size_t) n : 0; /* no stdin: taken and dropped */
                        pump_stdin(m);
                } else if (n == 0 || (errno != EAGAIN && errno != EINTR))
                        end_of_input(m, c);
        }
        bool gone = events & (EPOLLHUP | EPOLLERR);
        if (gone && c->reading && !wants_input(m)) {
                /* It may have left input, which has to wait; a hang-up would be told again and again meanwhile. */
                pc_unwatch(m, c->fd);
                m->client_events[slot] = UNWATCHED;
        } else if (gone && !(events & EPOLLIN && c->reading)) { /* nothing of its input is left to read */
                if (c->reading)
                        end_of_input(m, c);
                pc_fan_drop(&m->fan, slot);
        } else if (!c->writable && !c->reading)
                pc_fan_drop(&m->fan, slot);
        pc_attach_watch(m);
}

void pc_attach_finish(struct pc_mon *m) {
        while (pc_fan_pending(&m->fan)) {
                struct pollfd p[PC_CLIENTS_MAX];
                int slot[PC_CLIENTS_MAX], n = 0;
                for (unsigned i = 0; i < m->fan.used; i++)
                        if (m->fan.clients[i].fd >= 0 && m->fan.clients[i].head < m->fan.clients[i].tail) {
                                p[n] = (struct pollfd){.fd = m->fan.clients[i].fd, .events = POLLOUT};
                                slot[n++] = (int) i;
                        }
                if (poll(p, (nfds_t) n, LINGER_MS) <= 0)
                        break;
                for (int i = 0; i < n; i++)
                        if (p[i].revents)
                                (void) pc_fan_flush(&m->fan, slot[i]);
        }
        pc_fan_close(&m->fan);
}
