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
        int64_t written; /* in this file */
        int64_t total;
        uint64_t dropped; /* input bytes lost to errors or to total_max */
        int failing;      /* errno of the last write, 0 when it worked */
        bool overdue;     /* could not be rotated at its limit: tried again at twice as much */
};

#define PC_SINK_NONE ((struct pc_sink){.fd = -1})

/* Open for appending, create with mode 0640. path and limits->allow must outlive the sink. */
int pc_sink_open(struct pc_sink *s, const char *path, const struct pc_sink_limits *limits, struct pc_err *reterr);
void pc_sink_close(struct pc_sink *s); /* accepts a sink that was never opened */

/* Frame and write in[0..n); work[cap] (at least PC_LINE_MAX) is scratch. *ret_used is what was taken of the input:
 * all of it with flush, else all but an unterminated tail. A file that cannot be written loses the batch but never
 * holds half a line; the error is returned once per change of state, 0 otherwise. */
int pc_sink_put(struct pc_sink *s, const char head[PC_HEAD_LEN], const char *in, size_t n, bool flush, char *work,
                size_t cap, size_t *ret_used, struct pc_err *reterr);

/* A new file <path>.tmp is renamed over path; with limits.rotate the old files are shifted. On failure the old file
 * stays in use. */
int pc_sink_reopen(struct pc_sink *s, struct pc_err *reterr);
int pc_sink_sync(struct pc_sink *s, struct pc_err *reterr);
