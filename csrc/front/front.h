/* The front of the CRI socket: one listener for two protocols. A thread of its own accepts, reads the first bytes, and
 * by what they say hands the connection over or connects to another listener, and from then on passes bytes both ways.
 * It knows nothing of HTTP beyond the HTTP/2 preface. Life: new, start, (drain,) stop, free. */
#pragma once
#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

struct pc_front;

struct pc_front_options {
        int listen_fd;              /* a listening unix stream socket; duplicated and set non-blocking */
        int handover_fd;            /* non-blocking pipe for pc_front_handed of HTTP/2 connections; duplicated */
        const char *http_target;    /* unix socket path of the listener for the others; "@name": abstract */
        unsigned header_timeout_ms; /* from accept until the protocol is known and the target has accepted */
        unsigned max_connections;   /* at that number accepting pauses; the backlog holds the rest */
};

#define PC_FRONT_HEAD 16 /* room for an undecided prefix of the preface */

/* A connection that speaks HTTP/2: its descriptor, which belongs to the reader, and what was read from it already. */
struct pc_front_handed {
        int fd;
        unsigned head_len;
        char head[PC_FRONT_HEAD];
};

struct pc_front_stats {
        uint64_t accepted, grpc, http; /* since start; the latter two: handed over, connected */
        uint64_t active;               /* now, without those handed over */
        uint64_t rejected;             /* closed by us without a target: silent, too slow, or the target refused */
        uint64_t paused;               /* times that accepting paused for want of descriptors or for the limit */
};

int pc_front_new(const struct pc_front_options *o, struct pc_front **ret_front, struct pc_err *reterr);
int pc_front_start(struct pc_front *f, struct pc_err *reterr); /* once; -EALREADY */

/* Stop accepting and let go of the listener; open connections live on until a side ends them. Idempotent. */
void pc_front_drain(struct pc_front *f);

/* End the thread and close everything, both sides of each connection; returns when that is done. Idempotent. */
void pc_front_stop(struct pc_front *f);

void pc_front_stats(const struct pc_front *f, struct pc_front_stats *ret_stats);

struct pc_front *pc_front_free(struct pc_front *f); /* stops as well; accepts NULL, returns NULL */

enum pc_front_kind { PC_FRONT_MORE, PC_FRONT_GRPC, PC_FRONT_HTTP };

/* What a connection speaks, from its first n bytes; PC_FRONT_MORE only for a true prefix of the HTTP/2 preface. */
enum pc_front_kind pc_front_detect(const char *bytes, size_t n);
