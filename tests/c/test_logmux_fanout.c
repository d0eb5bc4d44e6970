// SRC: csrc/logmux/fanout.c
/* Attached clients: packets, backlog and its bound, cutting, broken connections, floods of clients. */
#include "logmux/fanout.h"
#include "tap.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct pc_client clients[PC_CLIENTS_MAX];
static char data[128 << 10];

/* A client of f; its other end. */
static int client(struct pc_fan *f, int *slot) {
        int s[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s) < 0)
                exit(1);
        *slot = pc_fan_add(f, s[0]);
        return s[1];
}

/* Everything that can be read now, contents of one type concatenated; bytes, *packets counted. */
static size_t drain(int fd, char type, char *out, size_t cap, int *packets) {
        char packet[PC_PACKET_MAX + 1];
        size_t n = 0;
        ssize_t r;
        while ((r = recv(fd, packet, sizeof packet, 0)) > 0) {
                ++*packets;
                if (packet[0] == type && n + (size_t) r - 1 <= cap) {
                        memcpy(out + n, packet + 1, (size_t) r - 1);
                        n += (size_t) r - 1;
                }
        }
        return n;
}

static void packets(void) {
        struct pc_fan f;
        int a, b, n = 0;
        static char got[sizeof data];
        pc_fan_init(&f, clients);
        ok(!pc_fan_push(&f, 2, "x", 1) && !pc_fan_pending(&f), "output without clients is nobody's");
        int x = client(&f, &a), y = client(&f, &b);
        ok(!pc_fan_push(&f, 2, data, 20000), "20000 bytes to two clients");
        ok(drain(x, 2, got, sizeof got, &n) == 20000 && n == 3 && memcmp(got, data, 20000) == 0,
           "arrive in three packets");
        n = 0;
        ok(drain(y, 2, got, sizeof got, &n) == 20000 && n == 3, "at both");
        ok(!pc_fan_push(&f, 3, "err", 3) && drain(x, 3, got, sizeof got, &n) == 3, "the stream is the first byte");
        pc_fan_drop(&f, a);
        char c;
        ok(recv(x, &c, 1, 0) == 0 && f.open == 1, "a dropped client sees the end");
        close(y);
        ok(!pc_fan_push(&f, 2, "x", 1) && !f.clients[b].writable, "a closed one is noticed and not written to again");
        pc_fan_close(&f);
        ok(f.open == 0 && f.used == 0, "closed");
        close(x);
}

static void backlog(void) {
        struct pc_fan f;
        int slot, n = 0;
        static char got[PC_BACKLOG * 2];
        pc_fan_init(&f, clients);
        int x = client(&f, &slot);
        size_t sent = 0;
        bool fresh = false;
        while (!pc_fan_pending(&f)) {
                fresh = pc_fan_push(&f, 2, data, 5000);
                sent += 5000;
        }
        ok(fresh && sent > 50000, "a socket that is full starts a backlog, and says so");
        ok(!pc_fan_push(&f, 2, data, 5000) && pc_fan_flush(&f, slot) == 1, "once; there is no room yet");
        sent += 5000;
        while (!pc_fan_full(&f) && sent < 4u * PC_BACKLOG) {
                pc_fan_push(&f, 2, data, 5000);
                sent += 5000;
        }
        ok(pc_fan_full(&f) && !f.clients[slot].cut, "the backlog is full before anything is lost");
        pc_fan_push(&f, 2, data, sizeof data);
        sent += sizeof data;
        ok(!f.clients[slot].cut, "one more batch still fits");
        size_t all = 0;
        bool right = true;
        while (pc_fan_pending(&f)) {
                size_t k = drain(x, 2, got, sizeof got, &n);
                for (size_t i = 0; i < k; i++)
                        right = right && got[i] == 'd';
                all += k;
                if (pc_fan_flush(&f, slot) < 0)
                        break;
        }
        all += drain(x, 2, got, sizeof got, &n);
        ok(all == sent && right && !f.clients[slot].queue,
           "a client that reads again gets every byte, and the memory goes back");

        while (!f.clients[slot].cut)
                pc_fan_push(&f, 2, data, sizeof data);
        ok(f.clients[slot].tail <= PC_BACKLOG, "one that does not is cut at the bound");
        ok(!pc_fan_full(&f), "and no longer holds anybody up");
        char last[256] = "";
        size_t notice = 0;
        int r = 1;
        while (r == 1) {
                notice = drain(x, 3, last, sizeof last - 1, &n);
                r = pc_fan_flush(&f, slot);
        }
        notice += drain(x, 3, last, sizeof last - 1, &n);
        ok(r == 0 && notice > 0 && strstr(last, "too slow"), "it gets the backlog, then a notice");
        char c;
        ok(recv(x, &c, 1, 0) == 0, "then the end");
        pc_fan_close(&f);
        close(x);
}

static void cut_above(void) {
        struct pc_fan f;
        int slow, fast;
        pc_fan_init(&f, clients);
        int x = client(&f, &slow), y = client(&f, &fast), n = 0;
        static char got[PC_BACKLOG];
        for (size_t at = 0; at < PC_BACKLOG / 2; at += 8192) {
                pc_fan_push(&f, 2, data, 8192);
                drain(y, 2, got, sizeof got, &n);
        }
        pc_fan_cut_above(&f, PC_BACKLOG / 4);
        ok(f.clients[slow].cut && !f.clients[fast].cut, "cutting meets those above the mark only");
        ok(pc_fan_push(&f, 2, data, 1) == false && drain(y, 2, got, sizeof got, &n) == 1, "the others go on");
        close(x);
        int r = pc_fan_flush(&f, slow);
        ok(r == -EPIPE || r == -ECONNRESET, "a broken connection is an error");
        ok(!f.clients[slow].queue && !pc_fan_pending(&f), "and is thrown away");
        pc_fan_close(&f);
        close(y);
}

static void many(void) {
        struct pc_fan f;
        int s[2], slot, end[PC_CLIENTS_MAX];
        pc_fan_init(&f, clients);
        for (int i = 0; i < PC_CLIENTS_MAX; i++)
                end[i] = client(&f, &slot);
        ok(slot == PC_CLIENTS_MAX - 1, "clients fill all slots");
        (void) !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s);
        ok(pc_fan_add(&f, s[0]) == -ENOSPC && close(s[0]) == 0, "one more is refused and stays the caller's");
        pc_fan_drop(&f, 5);
        int again = client(&f, &slot);
        ok(slot == 5, "a free slot is used again");
        pc_fan_close(&f);
        for (int i = 0; i < PC_CLIENTS_MAX; i++)
                close(end[i]);
        close(again);
        close(s[1]);
}

static void unread_input(void) {
        struct pc_fan f;
        int slot, n = 0;
        char got[64];
        pc_fan_init(&f, clients);
        int x = client(&f, &slot);
        ok(send(x, "typed", 5, 0) == 5 && !pc_fan_push(&f, 2, "bye", 3), "input that nobody reads, and last output");
        pc_fan_close(&f);
        ok(drain(x, 2, got, sizeof got, &n) == 3 && memcmp(got, "bye", 3) == 0, "the output is not lost to a reset");
        close(x);
}

int main(void) {
        memset(data, 'd', sizeof data);
        packets();
        backlog();
        cut_above();
        many();
        unread_input();
        return done_testing();
}
