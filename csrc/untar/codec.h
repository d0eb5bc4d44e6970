/* Streaming decompressors behind one call: gzip (ISA-L), zstd, bzip2, xz, none. */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pc_codec_kind { PC_CODEC_NONE, PC_CODEC_GZIP, PC_CODEC_ZSTD, PC_CODEC_BZIP2, PC_CODEC_XZ };
enum { PC_CODEC_MAGIC = 6 }; /* bytes that decide the kind */

/* The kind that the first bytes show; anything unknown is "none". */
enum pc_codec_kind pc_codec_detect(const uint8_t *p, size_t n);
const char *pc_codec_name(enum pc_codec_kind kind);

struct pc_codec;
/* window_log bounds the memory of zstd (and, as its size, of xz). */
struct pc_codec *pc_codec_new(enum pc_codec_kind kind, unsigned window_log);
void pc_codec_free(struct pc_codec *c);

struct pc_span {
        const uint8_t *in;
        size_t in_left;
        uint8_t *out;
        size_t out_left;
        bool last; /* nothing follows this input */
};
/* Move as far as input and output allow. 0, or -EBADMSG (damaged), -ENOMEM, -E2BIG (window too large). */
int pc_codec_run(struct pc_codec *c, struct pc_span *s, struct pc_err *reterr);
/* True when the input may end here: nothing begun is unfinished and nothing decoded is held back. */
bool pc_codec_at_end(const struct pc_codec *c);
