#include "logmux/fanout.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Room kept free so that one more batch of the owner fits whole, as packets, before full is noticed. */
#define HEADROOM (PC_FAN_BATCH + PC_FAN_BATCH / 32)

static const char notice[] = "\3[output dropped: this attached client is too slow]\n";

void pc_fan_init(struct pc_fan *f, struct pc_client clients[PC_CLIENTS_MAX]) {
        *f = (struct pc_fan){.clients = clients};
}

int pc_fan_add(struct pc_fan *f, int fd) {
        for (unsigned i = 0; i < PC_CLIENTS_MAX; i++) {
                if (i < f->used && f->clients[i].fd >= 0)
                        continue;
                f->clients[i] = (struct pc_client){.fd = fd, .reading = true, .writable = true};
                if (i >= f->used)
                        f->used = i + 1;
                f->open++;
                return (int) i;
        }
        return -ENOSPC;
}

static void discard(struct pc_client *c) {
        if (c->queue)
                (void) munmap(c->queue, PC_BACKLOG);
        c->queue = NULL;
        c->head = c->tail = 0;
}

void pc_fan_drop(struct pc_fan *f, int slot) {
        struct pc_client *c = &f->clients[slot];
        if (c->fd < 0)
                return;
        discard(c);
        /* Input that nobody read would turn our close into a reset, and the peer would lose output it has not read
         * yet: take it off the queue first. */
        char byte;
        (void) shutdown(c->fd, SHUT_RD);
        while (recv(c->fd, &byte, 1, MSG_DONTWAIT) > 0)
                ;
        (void) close(c->fd);
        c->fd = -1;
        f->open--;
        while (f->used > 0 && f->clients[f->used - 1].fd < 0)
                f->used--;
}

void pc_fan_close(struct pc_fan *f) {
        for (unsigned i = f->used; i-- > 0;)
                pc_fan_drop(f, (int) i);
}

/* 1 sent, 0 no room, -errno broken. */
static int send_packet(int fd, const struct iovec *iov, size_t niov) {
        struct msghdr m = {.msg_iov = (struct iovec *) iov, .msg_iovlen = niov};
        for (;;) {
                if (sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR) >= 0)
                        return 1;
                if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
                        return 0;
                if (errno != EINTR)
                        return -errno;
        }
}

/* Append one packet to the backlog; false when it does not fit. */
static bool enqueue(struct pc_client *c, char type, const char *data, size_t n) {
        uint32_t need = (uint32_t) (sizeof(uint16_t) + 1 + n);
        if (!c->queue) {
                void *p =
                    mmap(NULL, PC_BACKLOG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                if (p == MAP_FAILED)
                        return false;
                c->queue = p;
                c->head = c->tail = 0;
        }
        if (c->tail + need > PC_BACKLOG) {
                if (c->head == 0 || c->tail - c->head + need > PC_BACKLOG)
                        return false;
                memmove(c->queue, c->queue + c->head, c->tail - c->head);
                c->tail -= c->head;
                c->head = 0;
        }
        uint16_t len = (uint16_t) (n + 1);
        memcpy(c->queue + c->tail, &len, sizeof len);
        c->queue[c->tail + sizeof len] = type;
        memcpy(c->queue + c->tail + sizeof len + 1, data, n);
        c->tail += need;
        return true;
}

static void broken(struct pc_client *c) {
        discard(c);
        c->writable = false;
        (void) shutdown(c->fd, SHUT_WR);
}

static bool push_one(struct pc_client *c, char type, const char *data, size_t n) {
        bool fresh = false;
        for (size_t at = 0; at < n && c->writable && !c->cut; at += PC_PACKET_MAX) {
                size_t k = n - at < PC_PACKET_MAX ? n - at : PC_PACKET_MAX;
                if (c->head == c->tail) {
                        struct iovec iov[2] = {{&type, 1}, {(char *) data + at, k}};
                        int r = send_packet(c->fd, iov, 2);
                        if (r > 0)
                                continue;
                        if (r < 0) {
                                broken(c);
                                break;
                        }
                        fresh = true;
                }
                if (!enqueue(c, type, data + at, k)) {
                        c->cut = true;
                        fresh = true;
                }
        }
        return fresh;
}

bool pc_fan_push(struct pc_fan *f, char type, const char *data, size_t n) {
        bool fresh = false;
        for (unsigned i = 0; i < f->used; i++) {
                struct pc_client *c = &f->clients[i];
                if (c->fd >= 0 && push_one(c, type, data, n))
                        fresh = true;
        }
        return fresh;
}

int pc_fan_flush(struct pc_fan *f, int slot) {
        struct pc_client *c = &f->clients[slot];
        while (c->head < c->tail) {
                uint16_t len;
                memcpy(&len, c->queue + c->head, sizeof len);
                struct iovec iov = {c->queue + c->head + sizeof len, len};
                int r = send_packet(c->fd, &iov, 1);
                if (r == 0)
                        return 1;
                if (r < 0) {
                        broken(c);
                        return r;
                }
                c->head += (uint32_t) sizeof len + len;
        }
        discard(c);
        if (c->cut && c->writable) {
                struct iovec iov = {(char *) notice, sizeof notice - 1};
                if (send_packet(c->fd, &iov, 1) == 0)
                        return 1;
                c->writable = false;
                (void) shutdown(c->fd, SHUT_WR);
        }
        return 0;
}

bool pc_fan_above(const struct pc_fan *f, uint32_t bytes) {
        for (unsigned i = 0; i < f->used; i++) {
                const struct pc_client *c = &f->clients[i];
                if (c->fd >= 0 && !c->cut && c->tail - c->head > bytes)
                        return true;
        }
        return false;
}

bool pc_fan_full(const struct pc_fan *f) {
        return pc_fan_above(f, PC_BACKLOG - HEADROOM);
}

void pc_fan_cut_above(struct pc_fan *f, uint32_t bytes) {
        for (unsigned i = 0; i < f->used; i++) {
                struct pc_client *c = &f->clients[i];
                if (c->fd >= 0 && c->tail - c->head > bytes)
                        c->cut = true;
        }
}

bool pc_fan_pending(const struct pc_fan *f) {
        for (unsigned i = 0; i < f->used; i++)
                if (f->clients[i].fd >= 0 && f->clients[i].head < f->clients[i].tail)
                        return true;
        return false;
}
