#include "untar/codec.h"
#include <bzlib.h>
#include <isa-l/igzip_lib.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

struct pc_codec {
        enum pc_codec_kind kind;
        bool at_end;      /* between two members or frames */
        bool began;       /* bzip2: the current stream is open */
        uint8_t carry[8]; /* gzip: bytes that the finished member had taken in too many */
        unsigned n_carry;
        struct inflate_state *gz;
        ZSTD_DCtx *zstd;
        bz_stream bz;
        lzma_stream xz;
};

enum pc_codec_kind pc_codec_detect(const uint8_t *p, size_t n) {
        if (n >= 3 && memcmp(p, "\x1f\x8b\x08", 3) == 0)
                return PC_CODEC_GZIP;
        if (n >= 4 && memcmp(p, "\x28\xb5\x2f\xfd", 4) == 0)
                return PC_CODEC_ZSTD;
        if (n >= 4 && (p[0] & 0xf0) == 0x50 && memcmp(p + 1, "\x2a\x4d\x18", 3) == 0)
                return PC_CODEC_ZSTD; /* starts with a skippable frame */
        if (n >= 3 && memcmp(p, "BZh", 3) == 0)
                return PC_CODEC_BZIP2;
        if (n >= 6 && memcmp(p,
                             "\xfd"
                             "7zXZ\0",
                             6) == 0)
                return PC_CODEC_XZ;
        return PC_CODEC_NONE;
}

const char *pc_codec_name(enum pc_codec_kind kind) {
        static const char *const names[] = {"none", "gzip", "zstd", "bzip2", "xz"};
        return names[kind];
}

static bool open_one(struct pc_codec *c, unsigned window_log) {
        switch (c->kind) {
        case PC_CODEC_GZIP:
                c->gz = malloc(sizeof *c->gz);
                if (!c->gz)
                        return false;
                isal_inflate_init(c->gz);
                c->gz->crc_flag = ISAL_GZIP;
                return true;
        case PC_CODEC_ZSTD:
                c->zstd = ZSTD_createDCtx();
                return c->zstd && !ZSTD_isError(ZSTD_DCtx_setParameter(c->zstd, ZSTD_d_windowLogMax, (int) window_log));
        case PC_CODEC_XZ: {
                uint64_t memory = (UINT64_C(1) << window_log) + (UINT64_C(4) << 20);
                return lzma_stream_decoder(&c->xz, memory, LZMA_CONCATENATED) == LZMA_OK;
        }
        default:
                return true;
        }
}

struct pc_codec *pc_codec_new(enum pc_codec_kind kind, unsigned window_log) {
        struct pc_codec *c = calloc(1, sizeof *c);
        if (!c)
                return NULL;
        c->kind = kind;
        c->at_end = kind == PC_CODEC_NONE;
        if (!open_one(c, window_log)) {
                pc_codec_free(c);
                return NULL;
        }
        return c;
}

void pc_codec_free(struct pc_codec *c) {
        if (!c)
                return;
        free(c->gz);
        ZSTD_freeDCtx(c->zstd);
        if (c->began)
                (void) BZ2_bzDecompressEnd(&c->bz);
        if (c->kind == PC_CODEC_XZ)
                lzma_end(&c->xz);
        free(c);
}

bool pc_codec_at_end(const struct pc_codec *c) {
        return c->at_end;
}

static int run_none(struct pc_span *s) {
        size_t n = s->in_left < s->out_left ? s->in_left : s->out_left;
        memcpy(s->out, s->in, n);
        s->in += n;
        s->in_left -= n;
        s->out += n;
        s->out_left -= n;
        return 0;
}

/* One call of the inflater over [in, in + n); returns what it took of it or a negative error. */
static ssize_t inflate_some(struct pc_codec *c, const uint8_t *in, size_t n, struct pc_span *s, struct pc_err *reterr) {
        struct inflate_state *z = c->gz;
        z->next_in = (uint8_t *) in; /* not written to */
        z->avail_in = (uint32_t) n;
        z->next_out = s->out;
        z->avail_out = (uint32_t) s->out_left;
        int r = isal_inflate(z);
        if (r < 0 || r > ISAL_OUT_OVERFLOW)
                return pc_fail(reterr, EBADMSG, r == ISAL_INCORRECT_CHECKSUM ? "gzip checksum" : "gzip data", NULL);
        s->out = z->next_out;
        s->out_left = z->avail_out;
        size_t took = n - z->avail_in;
        if (z->block_state != ISAL_BLOCK_FINISH)
                return (ssize_t) took;
        /* Whole bytes left in the bit buffer belong to the next member. */
        unsigned whole = z->read_in_length > 0 ? (unsigned) z->read_in_length / 8 : 0;
        uint64_t bits = z->read_in >> (z->read_in_length > 0 ? z->read_in_length % 8 : 0);
        c->n_carry = 0;
        for (unsigned i = 0; i < whole && i < sizeof c->carry; i++)
                c->carry[c->n_carry++] = (uint8_t) (bits >> (8 * i));
        isal_inflate_reset(z);
        z->crc_flag = ISAL_GZIP;
        c->at_end = c->n_carry == 0;
        return (ssize_t) took;
}

static int run_gzip(struct pc_codec *c, struct pc_span *s, struct pc_err *reterr) {
        do {
                uint8_t carry[8];
                unsigned n = c->n_carry;
                ssize_t took;
                c->at_end = c->at_end && n == 0 && s->in_left == 0;
                if (c->at_end)
                        return 0;
                if (n > 0) {
                        memcpy(carry, c->carry, n);
                        c->n_carry = 0;
                        took = inflate_some(c, carry, n, s, reterr);
                        if (took >= 0 && (unsigned) took < n && c->n_carry == 0) {
                                c->n_carry = n - (unsigned) took;
                                memcpy(c->carry, carry + took, c->n_carry);
                                c->at_end = false;
                        }
                } else {
                        size_t limit = s->in_left < UINT32_MAX / 2 ? s->in_left : UINT32_MAX / 2;
                        took = inflate_some(c, s->in, limit, s, reterr);
                        if (took >= 0) {
                                s->in += took;
                                s->in_left -= (size_t) took;
                        }
                }
                if (took < 0)
                        return (int) took;
        } while (s->out_left > 0 && (s->in_left > 0 || c->n_carry > 0));
        return 0;
}

static int run_zstd(struct pc_codec *c, struct pc_span *s, struct pc_err *reterr) {
        ZSTD_inBuffer in = {s->in, s->in_left, 0};
        ZSTD_outBuffer out = {s->out, s->out_left, 0};
        size_t r;
        do {
                if (c->at_end && in.pos == in.size)
                        break;
                r = ZSTD_decompressStream(c->zstd, &out, &in);
                if (ZSTD_isError(r)) {
                        ZSTD_ErrorCode code = ZSTD_getErrorCode(r);
                        if (code == ZSTD_error_frameParameter_windowTooLarge)
                                return pc_fail(reterr, E2BIG, "zstd window limit", NULL);
                        return pc_fail(reterr, code == ZSTD_error_memory_allocation ? ENOMEM : EBADMSG, "zstd data",
                                       NULL);
                }
                c->at_end = r == 0;
        } while (out.pos < out.size && in.pos < in.size);
        s->in += in.pos;
        s->in_left -= in.pos;
        s->out += out.pos;
        s->out_left -= out.pos;
        return 0;
}

static int run_bzip2(struct pc_codec *c, struct pc_span *s, struct pc_err *reterr) {
        while (s->out_left > 0) {
                if (!c->began) {
                        if (s->in_left == 0)
                                return 0;
                        memset(&c->bz, 0, sizeof c->bz);
                        if (BZ2_bzDecompressInit(&c->bz, 0, 0) != BZ_OK)
                                return pc_fail(reterr, ENOMEM, "bzip2 data", NULL);
                        c->began = true;
                        c->at_end = false;
                }
                c->bz.next_in = (char *) s->in; /* not written to */
                c->bz.avail_in = (unsigned) s->in_left;
                c->bz.next_out = (char *) s->out;
                c->bz.avail_out = (unsigned) s->out_left;
                int r = BZ2_bzDecompress(&c->bz);
                bool moved = c->bz.avail_in != s->in_left || c->bz.avail_out != s->out_left;
                s->in = (const uint8_t *) c->bz.next_in;
                s->in_left = c->bz.avail_in;
                s->out = (uint8_t *) c->bz.next_out;
                s->out_left = c->bz.avail_out;
                if (r == BZ_STREAM_END) {
                        (void) BZ2_bzDecompressEnd(&c->bz);
                        c->began = false;
                        c->at_end = true;
                } else if (r != BZ_OK) {
                        return pc_fail(reterr, r == BZ_MEM_ERROR ? ENOMEM : EBADMSG, "bzip2 data", NULL);
                } else if (!moved) {
                        return 0;
                }
        }
        return 0;
}

static int run_xz(struct pc_codec *c, struct pc_span *s, struct pc_err *reterr) {
        if (c->at_end)
                return 0;
        c->xz.next_in = s->in;
        c->xz.avail_in = s->in_left;
        c->xz.next_out = s->out;
        c->xz.avail_out = s->out_left;
        lzma_ret r = lzma_code(&c->xz, s->last ? LZMA_FINISH : LZMA_RUN);
        s->in = c->xz.next_in;
        s->in_left = c->xz.avail_in;
        s->out = c->xz.next_out;
        s->out_left = c->xz.avail_out;
        if (r == LZMA_MEMLIMIT_ERROR)
                return pc_fail(reterr, E2BIG, "xz dictionary limit", NULL);
        if (r == LZMA_MEM_ERROR)
                return pc_fail(reterr, ENOMEM, "xz data", NULL);
        c->at_end = r == LZMA_STREAM_END;
        if (r != LZMA_OK && r != LZMA_STREAM_END && r != LZMA_BUF_ERROR)
                return pc_fail(reterr, EBADMSG, "xz data", NULL);
        return 0;
}

int pc_codec_run(struct pc_codec *c, struct pc_span *s, struct pc_err *reterr) {
        switch (c->kind) {
        case PC_CODEC_GZIP:
                return run_gzip(c, s, reterr);
        case PC_CODEC_ZSTD:
                return run_zstd(c, s, reterr);
        case PC_CODEC_BZIP2:
                return run_bzip2(c, s, reterr);
        case PC_CODEC_XZ:
                return run_xz(c, s, reterr);
        default:
                return run_none(s);
        }
}
