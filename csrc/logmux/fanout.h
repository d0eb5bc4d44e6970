/* Clients attached to a container's output, each behind a bounded backlog.
 *
 * A packet is one byte naming the stream (2 or 3) and up to PC_PACKET_MAX bytes. A client that does not keep up
 * collects a backlog of at most PC_BACKLOG bytes; once that is full the owner may hold the container's output back
 * for a short while (pc_fan_full) and must then cut the client (pc_fan_cut_full): it gets what is in the backlog, then
 * a notice, then the end. Members of the structs belong to fanout.c. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PC_PACKET_MAX 8192
#define PC_BACKLOG (4u << 20)
#define PC_FAN_BATCH (384u << 10) /* the most that the owner pushes between two looks at pc_fan_full */
#define PC_CLIENTS_MAX 64

struct pc_client {
        int fd;      /* -1: free slot */
        char *queue; /* mapped while there is a backlog: packets as {uint16 length, bytes} */
        uint32_t head, tail;
        bool reading;  /* its input is still open */
        bool cut;      /* no further output; ends when the backlog is sent */
        bool writable; /* its output is still open */
};

struct pc_fan {
        struct pc_client *clients; /* PC_CLIENTS_MAX of them, in memory that the owner gave */
        unsigned used;             /* slots in use are below this */
        unsigned open;
};

void pc_fan_init(struct pc_fan *f, struct pc_client clients[PC_CLIENTS_MAX]);
void pc_fan_close(struct pc_fan *f);

/* Take over a non-blocking seqpacket socket. Slot, or -ENOSPC with fd left to the caller. */
int pc_fan_add(struct pc_fan *f, int fd);
void pc_fan_drop(struct pc_fan *f, int slot);

/* Send data to all, in packets. A client whose socket is full gets a backlog; whose connection is broken is marked
 * not writable. Returns true when some client now has a backlog it did not have before (watch it for room). */
bool pc_fan_push(struct pc_fan *f, char type, const char *data, size_t n);

/* Send what is queued for one client. 0 when the backlog is empty, 1 when the socket is full, -errno when broken. */
int pc_fan_flush(struct pc_fan *f, int slot);

bool pc_fan_full(const struct pc_fan *f); /* one more batch may not fit into some backlog */
bool pc_fan_above(const struct pc_fan *f, uint32_t bytes);
void pc_fan_cut_above(struct pc_fan *f, uint32_t bytes);
bool pc_fan_pending(const struct pc_fan *f); /* some backlog is not empty */
