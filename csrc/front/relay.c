/* Bytes between the two sides of a connection: reading, holding back, half-close, end.
 *
 * Plain reads and writes through one buffer of the thread rather than splice: for messages of 100 bytes to 64 KiB
 * the two measured alike, while a pipe per direction would cost four descriptors per connection. Nothing is kept
 * per connection while it is idle. */
#include "front/relay.h"
#include "common/fd.h"
#include <sys/socket.h>

static struct side *other(struct side *s) {
        return s == &s->conn->client ? &s->conn->server : &s->conn->client;
}

static void drop_held(struct side *s) {
        free(s->held);
        s->held = NULL;
        s->held_at = s->held_end = 0;
}

/* Level-triggered. A side from which nothing is wanted is registered edge-triggered for its hang-up alone, which is
 * reported whether asked for or not and would otherwise spin; while data is held back for the other side even that
 * has to wait. */
static uint32_t wanted(struct side *s) {
        struct side *o = other(s);
        uint32_t events = 0;
        if (s->conn->stage == STAGE_HEAD)
                return EPOLLIN;
        if (s->conn->stage == STAGE_CONNECT)
                return UNREGISTERED;
        if (!s->ended && !o->held)
                events |= EPOLLIN;
        if (s->held)
                events |= EPOLLOUT;
        if (events)
                return events;
        return s->ended && !s->gone ? EPOLLET : UNREGISTERED;
}

int side_arm(int epoll, struct side *s) {
        uint32_t events = wanted(s);
        if (events == s->events)
                return 0;
        int op = events == UNREGISTERED ? EPOLL_CTL_DEL : s->events == UNREGISTERED ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
        struct epoll_event e = {.events = events, .data.ptr = s};
        if (epoll_ctl(epoll, op, s->fd, &e) < 0)
                return -errno;
        s->events = events;
        return 0;
}

/* Taken from the set by name: a program that another thread is just starting has a copy of the descriptor until its
 * exec, and would keep it there. */
void side_close(int epoll, struct side *s) {
        if (s->events != UNREGISTERED)
                (void) epoll_ctl(epoll, EPOLL_CTL_DEL, s->fd, NULL);
        s->events = UNREGISTERED;
        pc_closep(&s->fd);
        drop_held(s);
}

/* How much the socket took, 0 when it is full, -errno when it never will. */
static ssize_t put(int fd, const char *bytes, size_t n) {
        for (;;) {
                ssize_t w = send(fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (w >= 0)
                        return w;
                if (errno == EAGAIN)
                        return 0;
                if (errno != EINTR)
                        return -errno;
        }
}

int side_give(struct side *s, const char *bytes, size_t n) {
        if (s->gone)
                return 0;
        ssize_t w = put(s->fd, bytes, n);
        if (w < 0) {
                s->gone = true; /* what else comes for it is dropped; what it has said is still passed on */
                return 0;
        }
        if ((size_t) w == n)
                return 0;
        size_t left = n - (size_t) w;
        s->held = malloc(left);
        if (!s->held)
                return -ENOMEM;
        memcpy(s->held, bytes + w, left);
        s->held_at = 0;
        s->held_end = left;
        return 0;
}

static void flush(struct side *s) {
        ssize_t w = put(s->fd, s->held + s->held_at, s->held_end - s->held_at);
        if (w < 0)
                s->gone = true;
        else
                s->held_at += (size_t) w;
        if (s->gone || s->held_at == s->held_end)
                drop_held(s);
}

bool relay_settle(int epoll, struct conn *c) {
        struct side *sides[2] = {&c->client, &c->server};
        for (int i = 0; i < 2; i++) {
                struct side *s = sides[i], *o = sides[1 - i];
                if (o->ended && !s->held && !s->shut) {
                        (void) shutdown(s->fd, SHUT_WR); /* it may be gone already */
                        s->shut = true;
                }
        }
        for (int i = 0; i < 2; i++) {
                struct side *s = sides[i], *o = sides[1 - i];
                /* Over in both directions, or this side is gone and all that it has said is delivered. */
                if ((s->shut && o->shut) || (s->gone && s->ended && o->shut) || (s->gone && o->gone))
                        return false;
        }
        return side_arm(epoll, sides[0]) == 0 && side_arm(epoll, sides[1]) == 0;
}

bool relay_event(int epoll, struct side *s, uint32_t events, char *buffer) {
        struct side *o = other(s);
        if (s->held && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
                flush(s);
        if (!s->ended && !o->held && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
                ssize_t n = recv(s->fd, buffer, RELAY_CHUNK, MSG_DONTWAIT);
                if (n > 0) {
                        if (side_give(o, buffer, (size_t) n) < 0)
                                return false;
                        /* The usual case changes no state and needs no further call. */
                        if (!o->held && !o->gone && s->events == EPOLLIN)
                                return true;
                } else if (n == 0) {
                        s->ended = true;
                } else if (errno != EAGAIN && errno != EINTR) {
                        s->ended = s->gone = true; /* closed with our bytes unread */
                }
        } else if (s->ended && (events & (EPOLLHUP | EPOLLERR))) {
                s->gone = true; /* closed for good, not only for writing */
                drop_held(s);
        }
        return relay_settle(epoll, s->conn);
}
