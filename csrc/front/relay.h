/* One connection through the front; private to the unit. */
#pragma once
#include "front/front.h"
#include <stdbool.h>
#include <sys/epoll.h>

#define RELAY_CHUNK (128 * 1024) /* one read; also the most that one direction holds back */

struct conn;

struct side {
        struct conn *conn;
        int fd;
        uint32_t events; /* as registered; UNREGISTERED when not */
        bool ended;      /* nothing more to read from here */
        bool shut;       /* nothing more will be written to here */
        bool gone;       /* writing to here is pointless */
        char *held;      /* bytes on their way to here that the socket did not take yet */
        size_t held_at, held_end;
};

enum stage { STAGE_HEAD, STAGE_CONNECT, STAGE_RELAY, STAGE_CLOSED };

struct conn {
        struct side client, server;
        enum stage stage;
        int64_t deadline_ms; /* while in the first two stages */
        size_t head_len;
        char head[PC_FRONT_HEAD];
        enum pc_front_kind kind;
        struct conn *next, **link; /* in one of the front's lists */
};

#define UNREGISTERED UINT32_MAX

/* Register the side for what its state asks for. 0 or -errno. */
int side_arm(int epoll, struct side *s);

void side_close(int epoll, struct side *s);

/* Pass bytes on after an event on s (stage RELAY). False when the connection is over. */
bool relay_event(int epoll, struct side *s, uint32_t events, char *buffer);

/* Take n bytes for s: write what it takes now, hold the rest. 0 or -errno. */
int side_give(struct side *s, const char *bytes, size_t n);

/* Both directions as far as they go now, then the registrations. False when the connection is over. */
bool relay_settle(int epoll, struct conn *c);
