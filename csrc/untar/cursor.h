/* Sequential reading from a ring, across block borders. */
#pragma once
#include "common/err.h"
#include "untar/ring.h"
#include <sys/types.h>

struct pc_cursor {
        struct pc_ring *ring;
        unsigned reader;
        const uint8_t *p;
        size_t left;
        bool held;   /* a block is peeked */
        uint64_t at; /* bytes taken */
        /* May be NULL: called with at before a block is released and the next one awaited; negative ends the reading.
         */
        int (*border)(void *arg, uint64_t at);
        void *arg;
};

/* Up to max bytes in place: count, 0 at the end, or negative. */
ssize_t pc_cursor_span(struct pc_cursor *c, size_t max, const uint8_t **ret);
/* n bytes copied; fewer only at the end. */
ssize_t pc_cursor_read(struct pc_cursor *c, void *to, size_t n);
/* The error of a reading that gave got (0 or negative) where more was due. */
int pc_cursor_stopped(ssize_t got, struct pc_err *reterr);
