/* The front's thread: accepting, deciding, connecting, deadlines; relay.c passes the bytes. */
#include "common/fd.h"
#include "front/relay.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define BATCH 64
#define RETRY_MS 10 /* a full backlog or descriptor table elsewhere has no event to wait for */
#define STACK_SIZE (128 * 1024)

struct target {
        struct sockaddr_un addr;
        socklen_t len;
};

enum { COMMAND_NONE, COMMAND_DRAIN, COMMAND_STOP };

struct pc_front {
        int listen_fd, epoll, wake;
        int handover_fd;
        struct target http;
        unsigned header_timeout_ms, max_connections;
        pthread_t thread;
        bool started, joined;
        atomic_int command;
        _Atomic uint64_t accepted, n_grpc, n_http, active, rejected, paused;

        /* The thread's own from here on. */
        bool listening;       /* registered for accepting */
        bool starved;         /* paused for want of descriptors: also retried by time */
        struct conn *waiting; /* stage HEAD, oldest first: one timeout for all makes that the order of deadlines */
        struct conn **waiting_end;
        struct conn *connecting; /* stage CONNECT */
        struct conn *relaying;
        struct conn *closed; /* freed after the batch of events, which may still name them */
        char buffer[RELAY_CHUNK];
};

static void count(_Atomic uint64_t *counter, int64_t by) {
        atomic_fetch_add_explicit(counter, (uint64_t) by, memory_order_relaxed);
}

static int64_t now_ms(void) {
        struct timespec t;
        (void) clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void list_remove(struct pc_front *f, struct conn *c) {
        if (f->waiting_end == &c->next)
                f->waiting_end = c->link;
        *c->link = c->next;
        if (c->next)
                c->next->link = c->link;
}

static void list_push(struct conn **head, struct conn *c) {
        c->next = *head;
        c->link = head;
        if (c->next)
                c->next->link = &c->next;
        *head = c;
}

static void listen_arm(struct pc_front *f, bool on) {
        if (f->listening == on || f->listen_fd < 0)
                return;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = f};
        if (epoll_ctl(f->epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, f->listen_fd, &e) < 0) {
                f->starved = on; /* no memory for it now: tried again by time */
                return;
        }
        f->listening = on;
        if (on)
                f->starved = false;
        else
                count(&f->paused, 1);
}

static void conn_close(struct pc_front *f, struct conn *c) {
        if (c->stage != STAGE_RELAY)
                count(&f->rejected, 1);
        list_remove(f, c);
        side_close(f->epoll, &c->client);
        side_close(f->epoll, &c->server);
        c->stage = STAGE_CLOSED;
        list_push(&f->closed, c);
        count(&f->active, -1);
        listen_arm(f, true);
}

/* A connected descriptor, or -errno. The listener has to be of our own user: anybody can bind an abstract name. */
static int connect_target(const struct target *t) {
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *) &t->addr, t->len) < 0)
                return -errno;
        struct ucred peer;
        socklen_t len = sizeof peer;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
                return -errno;
        return peer.uid == geteuid() ? steal_fd(&fd) : -EPERM;
}

static bool transient(int r) {
        return r == -EAGAIN || r == -EINTR || r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* The descriptor to somebody else. 0 or -errno; a record this short is written whole or not at all. */
static int hand_over(struct pc_front *f, struct conn *c) {
        struct pc_front_handed h = {.fd = c->client.fd, .head_len = (unsigned) c->head_len};
        memcpy(h.head, c->head, c->head_len);
        (void) epoll_ctl(f->epoll, EPOLL_CTL_DEL, c->client.fd, NULL);
        c->client.events = UNREGISTERED;
        if (write(f->handover_fd, &h, sizeof h) < 0)
                return -errno;
        c->client.fd = -1;
        return 0;
}

/* The protocol is known: hand over, or connect and relay. */
static void conn_connect(struct pc_front *f, struct conn *c) {
        bool grpc = c->kind == PC_FRONT_GRPC;
        int fd = grpc ? hand_over(f, c) : connect_target(&f->http);
        if (fd >= 0 && grpc) {
                count(&f->n_grpc, 1);
                c->stage = STAGE_RELAY; /* not rejected */
                conn_close(f, c);
        } else if (fd >= 0) {
                c->server.fd = fd;
                list_remove(f, c);
                list_push(&f->relaying, c);
                c->stage = STAGE_RELAY;
                count(&f->n_http, 1);
                if (side_give(&c->server, c->head, c->head_len) < 0 || !relay_settle(f->epoll, c))
                        conn_close(f, c);
        } else if (!transient(fd)) {
                conn_close(f, c);
        } else if (c->stage != STAGE_CONNECT) {
                list_remove(f, c);
                list_push(&f->connecting, c);
                c->stage = STAGE_CONNECT;
                if (side_arm(f->epoll, &c->client) < 0)
                        conn_close(f, c);
        }
}

/* Reads no further than the decision needs, so that little is ever kept before there is a target. */
static void conn_head(struct pc_front *f, struct conn *c) {
        ssize_t n = recv(c->client.fd, c->head + c->head_len, sizeof c->head - c->head_len, MSG_DONTWAIT);
        if (n < 0) {
                if (errno != EAGAIN && errno != EINTR)
                        conn_close(f, c);
                return;
        }
        c->head_len += (size_t) n;
        c->kind = pc_front_detect(c->head, c->head_len);
        if (n == 0) {
                if (c->head_len == 0) {
                        conn_close(f, c);
                        return;
                }
                c->client.ended = true;
                c->kind = PC_FRONT_HTTP; /* whatever it is, the HTTP side can say so */
        }
        if (c->kind != PC_FRONT_MORE)
                conn_connect(f, c);
}

static void accept_one(struct pc_front *f, int fd) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c) {
                (void) close(fd);
                count(&f->accepted, 1);
                count(&f->rejected, 1);
                return;
        }
        c->client = (struct side){.conn = c, .fd = fd, .events = UNREGISTERED};
        c->server = (struct side){.conn = c, .fd = -1, .events = UNREGISTERED};
        c->deadline_ms = now_ms() + f->header_timeout_ms;
        c->link = f->waiting_end;
        *f->waiting_end = c;
        f->waiting_end = &c->next;
        count(&f->accepted, 1);
        count(&f->active, 1);
        if (side_arm(f->epoll, &c->client) < 0)
                conn_close(f, c);
        else
                conn_head(f, c); /* the first bytes are usually there already */
}

static void accept_some(struct pc_front *f) {
        for (int i = 0; i < BATCH; i++) {
                if (atomic_load_explicit(&f->active, memory_order_relaxed) >= f->max_connections) {
                        listen_arm(f, false);
                        return;
                }
                int fd = accept4(f->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd >= 0) {
                        accept_one(f, fd);
                        continue;
                }
                if (errno != EAGAIN && transient(-errno) && errno != EINTR) {
                        listen_arm(f, false);
                        f->starved = true;
                }
                return;
        }
}

static void command(struct pc_front *f) {
        uint64_t n;
        (void) !read(f->wake, &n, sizeof n);
        if (atomic_load(&f->command) >= COMMAND_DRAIN) {
                if (f->listening) {
                        (void) epoll_ctl(f->epoll, EPOLL_CTL_DEL, f->listen_fd, NULL); /* the caller has another */
                        f->listening = false;
                }
                f->starved = false;
                pc_closep(&f->listen_fd);
        }
}

/* What is due by time; milliseconds until the next such thing, -1 when there is none. */
static int due(struct pc_front *f) {
        if (!f->waiting && !f->connecting && !f->starved)
                return -1;
        int64_t now = now_ms();
        while (f->waiting && f->waiting->deadline_ms <= now)
                conn_close(f, f->waiting);
        for (struct conn *c = f->connecting, *next; c; c = next) {
                next = c->next;
                if (c->deadline_ms <= now)
                        conn_close(f, c);
                else
                        conn_connect(f, c);
        }
        if (f->starved)
                listen_arm(f, true);
        if (f->connecting || f->starved)
                return RETRY_MS;
        return f->waiting ? (int) (f->waiting->deadline_ms - now) : -1;
}

static void free_closed(struct pc_front *f) {
        while (f->closed) {
                struct conn *c = f->closed;
                list_remove(f, c);
                free(c);
        }
}

static void *front_main(void *arg) {
        struct pc_front *f = arg;
        (void) pthread_setname_np(pthread_self(), "pycrio-front");
        listen_arm(f, true);
        while (atomic_load(&f->command) != COMMAND_STOP) {
                struct epoll_event events[BATCH];
                int timeout = due(f);
                free_closed(f);
                int n = epoll_wait(f->epoll, events, BATCH, timeout);
                for (int i = 0; i < n; i++) {
                        void *what = events[i].data.ptr;
                        struct side *s = what;
                        if (what == f)
                                accept_some(f);
                        else if (what == &f->wake)
                                command(f);
                        else if (s->conn->stage == STAGE_HEAD)
                                conn_head(f, s->conn);
                        else if (s->conn->stage == STAGE_RELAY)
                                if (!relay_event(f->epoll, s, events[i].events, f->buffer))
                                        conn_close(f, s->conn);
                }
        }
        pc_closep(&f->listen_fd);
        struct conn **lists[] = {&f->waiting, &f->connecting, &f->relaying};
        for (int i = 0; i < 3; i++)
                while (*lists[i])
                        conn_close(f, *lists[i]);
        free_closed(f);
        return NULL;
}

static int set_target(struct target *t, const char *path, struct pc_err *reterr) {
        size_t n = strlen(path);
        if (n == 0 || n >= sizeof t->addr.sun_path)
                return pc_fail(reterr, n == 0 ? EINVAL : ENAMETOOLONG, "socket address", path);
        t->addr.sun_family = AF_UNIX;
        memcpy(t->addr.sun_path, path, n);
        t->len = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + n);
        if (path[0] == '@')
                t->addr.sun_path[0] = '\0'; /* abstract names have no terminator: the length tells */
        else
                t->len++;
        return 0;
}

static void front_freep(struct pc_front **f) {
        *f = pc_front_free(*f);
}

int pc_front_new(const struct pc_front_options *o, struct pc_front **ret_front, struct pc_err *reterr) {
        _cleanup_(front_freep) struct pc_front *f = calloc(1, sizeof *f);
        if (!f)
                return pc_fail(reterr, ENOMEM, "malloc", NULL);
        f->listen_fd = f->epoll = f->wake = f->handover_fd = -1;
        f->waiting_end = &f->waiting;
        f->header_timeout_ms = o->header_timeout_ms;
        f->max_connections = o->max_connections;
        int r = set_target(&f->http, o->http_target, reterr);
        if (r < 0)
                return r;
        int on = 0;
        socklen_t len = sizeof on;
        if (getsockopt(o->listen_fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) < 0)
                return pc_fail_errno(reterr, "getsockopt", NULL);
        if (!on || o->max_connections == 0 || o->header_timeout_ms > INT32_MAX)
                return pc_fail(reterr, EINVAL, on ? "limits" : "listening socket", NULL);
        f->listen_fd = fcntl(o->listen_fd, F_DUPFD_CLOEXEC, 0);
        int flags = f->listen_fd < 0 ? -1 : fcntl(f->listen_fd, F_GETFL);
        if (flags < 0 || fcntl(f->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return pc_fail_errno(reterr, "fcntl", NULL);
        if (o->handover_fd >= 0 && (f->handover_fd = fcntl(o->handover_fd, F_DUPFD_CLOEXEC, 0)) < 0)
                return pc_fail_errno(reterr, "fcntl", NULL);
        f->epoll = epoll_create1(EPOLL_CLOEXEC);
        f->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &f->wake};
        if (f->epoll < 0 || f->wake < 0 || epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->wake, &e) < 0)
                return pc_fail_errno(reterr, "epoll", NULL);
        *ret_front = steal_ptr(f);
        return 0;
}

int pc_front_start(struct pc_front *f, struct pc_err *reterr) {
        if (f->started || atomic_load(&f->command) == COMMAND_STOP)
                return pc_fail(reterr, EALREADY, "start", NULL);
        pthread_attr_t attr;
        sigset_t all, before;
        sigfillset(&all);
        int r = pthread_attr_init(&attr);
        if (r > 0)
                return pc_fail(reterr, r, "thread", NULL);
        (void) pthread_attr_setstacksize(&attr, STACK_SIZE);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited: signals are for the threads of the program */
        r = pthread_create(&f->thread, &attr, front_main, f);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void) pthread_attr_destroy(&attr);
        if (r > 0)
                return pc_fail(reterr, r, "thread", NULL);
        f->started = true;
        return 0;
}

static void tell(struct pc_front *f, int what) {
        int now = atomic_load(&f->command);
        while (now < what && !atomic_compare_exchange_weak(&f->command, &now, what))
                ;
        uint64_t one = 1;
        (void) !write(f->wake, &one, sizeof one);
}

void pc_front_drain(struct pc_front *f) {
        tell(f, COMMAND_DRAIN);
}

void pc_front_stop(struct pc_front *f) {
        if (!f->started) {
                tell(f, COMMAND_STOP);
                pc_closep(&f->listen_fd);
                return;
        }
        if (f->joined)
                return;
        tell(f, COMMAND_STOP);
        (void) pthread_join(f->thread, NULL);
        f->joined = true;
}

void pc_front_stats(const struct pc_front *f, struct pc_front_stats *ret_stats) {
        *ret_stats = (struct pc_front_stats){
            .accepted = atomic_load_explicit(&f->accepted, memory_order_relaxed),
            .grpc = atomic_load_explicit(&f->n_grpc, memory_order_relaxed),
            .http = atomic_load_explicit(&f->n_http, memory_order_relaxed),
            .active = atomic_load_explicit(&f->active, memory_order_relaxed),
            .rejected = atomic_load_explicit(&f->rejected, memory_order_relaxed),
            .paused = atomic_load_explicit(&f->paused, memory_order_relaxed),
        };
}

struct pc_front *pc_front_free(struct pc_front *f) {
        if (!f)
                return NULL;
        pc_front_stop(f);
        pc_closep(&f->listen_fd);
        pc_closep(&f->handover_fd);
        pc_closep(&f->epoll);
        pc_closep(&f->wake);
        free(f);
        return NULL;
}
