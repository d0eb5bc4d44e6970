/* One call; private to the unit. */
#pragma once
#include "common/fd.h"
#include "rpc/rpc.h"
#include <nghttp2/nghttp2.h>

#define PREFIX 5 /* compressed flag and length before each message */

struct bytes {
        char *data;
        size_t len, cap;
};

struct stream {
        struct pc_rpc *conn;
        int32_t id;
        struct stream *next, **link; /* in the connection's list of open ones, or of gone ones */
        struct stream *ready_next;   /* in the queue of calls to be taken */

        /* The request. */
        char *path;
        struct bytes metadata, in;
        size_t fields; /* bytes of all names and values */
        int64_t timeout_ns;
        unsigned http_status; /* other than 200: not a gRPC call at all */
        bool ready;           /* complete, in the queue */
        bool taken;           /* given out as an event */
        bool finished;        /* answered, or refused */

        /* The answer. */
        struct bytes out;
        size_t out_at;
        bool begun, deferred;
        unsigned status;
        char *text; /* encoded */
};

struct pc_rpc {
        int fd;
        nghttp2_session *session;
        struct pc_rpc_limits limits;
        struct stream *open, *gone; /* gone: closed under a call that was taken */
        struct stream *ready, **ready_end;
        struct stream *given; /* the stream of the last event, whose memory it borrows */
        size_t held, unread;
        unsigned running;
        struct bytes out;
        size_t out_at;
        bool over;
};

int bytes_reserve(struct bytes *b, size_t n);               /* room for n more bytes, exactly; 0 or -ENOMEM */
int bytes_add(struct bytes *b, const void *data, size_t n); /* 0 or -ENOMEM */
void bytes_free(struct bytes *b);

struct stream *stream_new(struct pc_rpc *c, int32_t id); /* NULL: no memory */
void stream_free(struct stream *s);
void stream_unlink(struct stream *s);
void stream_push(struct stream **head, struct stream *s);

/* What arrives. False: reset the stream. */
bool stream_header(struct stream *s, const char *name, size_t n, const char *value, size_t v);
bool stream_data(struct stream *s, const void *data, size_t n);
bool stream_complete(struct stream *s);

/* Refuse or end with a status. 0 or an nghttp2 error. */
int stream_finish(struct stream *s, unsigned status, const char *text);
int stream_answer(struct stream *s); /* the headers of an answer with messages */
