/* The log file of a container: whole lines appended, size limits, replacement and rotation.
 *
 * The struct is public only so that its owner needs no allocation; its members belong to sink.c. */
#pragma once
#include "common/err.h"
#include "logmux/frame.h"

struct pc_sink_limits {
        int64_t size_max;         /* > 0: bytes per file */
        int64_t total_max;        /* > 0: bytes ever written, an existing file included; more is dropped */
        bool rotate;              /* at size_max keep the old file as <path>.1 … instead of replacing it */
        int keep;                 /* number of kept files, at least 1 with rotate */
        const char *const *allow; /* directories that rotation is confined to; none: any */
        int nallow;
};

struct pc_sink {
        int fd;
        const char *path;
        struct pc_sink_limits limits;
        char *work;   /* framed bytes; the first held of them, whole lines, wait to be written */
        size_t cap;   /* of work */
        size_t block; /* writes end just before multiples of it while more is to come, 0: anywhere */
        size_t held;
        int64_t written; /* in this file */
        int64_t total;
        uint64_t dropped; /* input bytes lost to errors or to total_max, at most */
        int failing;      /* errno of the last write, 0 when it worked */
        bool overdue;     /* could not be rotated at its limit: tried again at twice as much */
};

#define PC_SINK_NONE ((struct pc_sink){.fd = -1})

/* A size for work with which a flood is written in the pieces that cost the page cache least. */
#define PC_SINK_BLOCK (512u << 10)
#define PC_SINK_ROOM (PC_SINK_BLOCK + (176u << 10))

/* Open for appending, create with mode 0640. path, limits->allow and work[cap] (at least PC_LINE_MAX) must outlive the
 * sink. */
int pc_sink_open(struct pc_sink *s, const char *path, const struct pc_sink_limits *limits, char *work, size_t cap,
                 struct pc_err *reterr);
void pc_sink_close(struct pc_sink *s); /* writes what is held; accepts a sink that was never opened */

enum pc_put {
        PC_PUT_LINES, /* whole lines are written, an unterminated tail is left to the caller */
        PC_PUT_MORE,  /* the same, and more comes at once: what does not fill a block may be held, see below */
        PC_PUT_ALL,   /* a tail as well */
};

/* Frame and write in[0..n). *ret_used is what was taken of the input. A file that cannot be written loses the batch but
 * never keeps half a line; the error is returned once per change of state, 0 otherwise.
 *
 * The page cache makes its folios by the position of a write: one that goes on in the middle of a block builds them up
 * from the smallest. With PC_PUT_MORE and a file without limits, a write therefore ends with the last line before the
 * end of a block, and what is behind it, at most a block and a line, is held until the next call: that fills up the
 * page and goes on where a block begins. Whoever says MORE calls pc_sink_flush when nothing came. */
int pc_sink_put(struct pc_sink *s, const char head[PC_HEAD_LEN], const char *in, size_t n, enum pc_put how,
                size_t *ret_used, struct pc_err *reterr);

/* Write what is held; errors as with pc_sink_put. */
int pc_sink_flush(struct pc_sink *s, struct pc_err *reterr);

/* A new file <path>.tmp is renamed over path; with limits.rotate the old files are shifted. On failure the old file
 * stays in use. What is held goes into the old one. */
int pc_sink_reopen(struct pc_sink *s, struct pc_err *reterr);
int pc_sink_sync(struct pc_sink *s, struct pc_err *reterr);
