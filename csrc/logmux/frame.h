/* CRI log framing: bytes of a container's stream to log lines and back. Pure: no I/O, no clock, no allocation.
 *
 * A line is "<stamp> <stream> <tag> <content>\n"; the stamp is RFC 3339 with nine digits and a numeric offset, the
 * tag F ends a line of the container, P marks a piece of it that the next piece continues. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pc_stream { PC_STDOUT, PC_STDERR };

#define PC_STAMP_LEN 35   /* 2006-01-02T15:04:05.000000000+00:00 */
#define PC_HEAD_LEN 45    /* stamp, blank, "stdout", blank, tag, blank */
#define PC_PIECE_MAX 8192 /* content of one log line; what is longer becomes P pieces */
#define PC_LINE_MAX (PC_HEAD_LEN + PC_PIECE_MAX + 1)

/* sec and nsec since the epoch, gmtoff in seconds east of UTC. Years outside 0..9999 are clamped. */
void pc_stamp(char out[PC_STAMP_LEN], int64_t sec, uint32_t nsec, int32_t gmtoff);

/* The head that all lines of one batch share, with tag F. */
void pc_head(char out[PC_HEAD_LEN], int64_t sec, uint32_t nsec, int32_t gmtoff, enum pc_stream stream);

struct pc_frame_limits {
        size_t cap;  /* room in out: no piece is begun that does not fit as a whole */
        size_t stop; /* no piece is begun once this much was produced */
        bool flush;  /* true: an unterminated tail becomes a P piece; false: it stays, unless it fills a piece */
};

/* Frame in[0..n) into out. Returns the bytes produced, *ret_used says how much of the input they stand for.
 * Nothing is torn: out always ends with the newline of a piece. */
size_t pc_frame(const char head[PC_HEAD_LEN], const char *in, size_t n, const struct pc_frame_limits *l, char *out,
                size_t *ret_used);

struct pc_line {
        int64_t sec;
        uint32_t nsec;
        int32_t gmtoff;
        enum pc_stream stream;
        bool partial;
        const char *data; /* inside the input */
        size_t len;       /* without the newline */
};

/* Parse one line, with or without its newline. 0, or -EBADMSG with *ret untouched. Fractions of one to nine digits
 * and the offset Z are understood as well, and further tags after a colon ("F:x") are passed over. */
int pc_line_parse(const char *in, size_t n, struct pc_line *ret);
