/* The server's side of one gRPC connection: HTTP/2 by libnghttp2, gRPC framing by us (grpc/grpc doc PROTOCOL-HTTP2.md).
 * Calls have one request message, answers any number. Nothing blocks and nothing calls back: pump after the socket
 * became ready or after answers were given, then take events until there are none. One thread at a time. */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pc_rpc;

struct pc_rpc_limits {
        size_t max_message;   /* bytes of one request message */
        size_t max_held;      /* bytes of all requests of the connection that are not complete yet */
        size_t max_headers;   /* bytes of names and values of one request */
        size_t max_unread;    /* bytes of all answers of the connection that wait for the client; one fits always */
        unsigned max_streams; /* calls at the same time */
};

enum { PC_RPC_WANTS_WRITE = 1, PC_RPC_OVER = 2 };

enum pc_rpc_kind { PC_RPC_CALL, PC_RPC_CANCEL };

/* Valid until the next call of any function with the same connection. */
struct pc_rpc_event {
        enum pc_rpc_kind kind;
        int32_t stream;
        const char *path;     /* "/service/Method" */
        const char *metadata; /* name NUL value NUL …: what the client sent beside the protocol's own headers */
        size_t metadata_len;
        int64_t timeout_ns; /* -1: none */
        const void *message;
        size_t message_len;
};

/* For a connected non-blocking stream socket, which is the connection's from then on; the first bytes may have been
 * read already. */
int pc_rpc_new(int fd, const char *head, size_t head_len, const struct pc_rpc_limits *limits, struct pc_rpc **ret_conn,
               struct pc_err *reterr);

/* Read and write what the socket has and takes now. Flags, never an error: a broken connection is over. When it is
 * over every call that is not finished becomes a CANCEL event. */
int pc_rpc_pump(struct pc_rpc *c);
int pc_rpc_flush(struct pc_rpc *c); /* only write */

bool pc_rpc_next(struct pc_rpc *c, struct pc_rpc_event *ret_event);

/* One message of an answer, copied. The bytes of this answer that wait now; 0 also when the call has gone. -ENOBUFS:
 * the client does not read what it asked for. */
int pc_rpc_send(struct pc_rpc *c, int32_t stream, const void *message, size_t n, size_t *ret_waiting,
                struct pc_err *reterr);
size_t pc_rpc_waiting(struct pc_rpc *c, int32_t stream);

/* End a call with a status; text (UTF-8, may be NULL) is encoded here. A call that has gone: nothing. */
int pc_rpc_finish(struct pc_rpc *c, int32_t stream, unsigned status, const char *text, struct pc_err *reterr);

void pc_rpc_goaway(struct pc_rpc *c);            /* no call begins any more; running ones go on */
unsigned pc_rpc_running(const struct pc_rpc *c); /* calls that were taken as events and are not finished */

struct pc_rpc *pc_rpc_free(struct pc_rpc *c); /* closes; accepts NULL, returns NULL */

/* Pure parts. A grpc-timeout as nanoseconds, -1 when it is none. */
int64_t pc_rpc_timeout(const char *value, size_t n);
/* Percent-encode a grpc-message; out has room for 3 * n bytes. The length. */
size_t pc_rpc_encode(const char *text, size_t n, char *out);
