// SRC: csrc/untar/codec.c
// LIBS: -lisal -lzstd -lbz2 -llzma
/* Decompressors: what comes out must not depend on the pieces in which input and room arrive, nor whether it
 * is accepted. The first two bytes choose the sizes of the pieces. */
#include "tar_mutator.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 128 << 10 };

struct outcome {
        size_t n;
        int result;
        bool complete;
};

/* Pieces of at most in and out bytes. As the unit does it: called until nothing moves. */
static struct outcome decode(const uint8_t *p, size_t n, size_t in, size_t out, uint8_t *to) {
        struct pc_err err;
        struct outcome o = {0};
        struct pc_codec *c = pc_codec_new(pc_codec_detect(p, n), 18);
        if (!c)
                abort();
        for (size_t at = 0, moved = 1; (moved || at < n) && o.result == 0 && o.n < OUT_MAX;) {
                struct pc_span s = {.in = p + at, .in_left = n - at < in ? n - at : in, .out = to + o.n};
                s.out_left = OUT_MAX - o.n < out ? OUT_MAX - o.n : out;
                s.last = at + s.in_left == n;
                size_t had = s.in_left, room = s.out_left;
                o.result = pc_codec_run(c, &s, &err);
                if (s.in_left > had || s.out_left > room || s.in != p + at + (had - s.in_left) ||
                    s.out != to + o.n + (room - s.out_left))
                        abort();
                moved = had - s.in_left + room - s.out_left;
                at += had - s.in_left;
                o.n += room - s.out_left;
                if (!moved && !s.last)
                        break; /* it takes no more: damaged, or after the end */
        }
        o.complete = pc_codec_at_end(c);
        pc_codec_free(c);
        return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static uint8_t whole[OUT_MAX], pieces[OUT_MAX];
        if (size < 2)
                return 0;
        size_t n = size - 2, in = data[0] % 64 + 1u, out = data[1] < 128 ? data[1] % 32 + 1u : data[1] * 64u;
        uint8_t *copy = malloc(n ? n : 1); /* exact, so that the sanitizer sees a byte too many */
        if (!copy)
                abort();
        memcpy(copy, data + 2, n);
        struct outcome a = decode(copy, n, n ? n : 1, OUT_MAX, whole), b = decode(copy, n, in, out, pieces);
        free(copy);
        if (a.n >= OUT_MAX || b.n >= OUT_MAX)
                return 0; /* neither was at its end */
        if (memcmp(whole, pieces, a.n < b.n ? a.n : b.n) != 0)
                abort();
        /* libzstd compares the content size of a frame only when it sees the frame at once. */
        if (pc_codec_detect(data + 2, n) != PC_CODEC_ZSTD &&
            (a.result == 0 && a.complete) != (b.result == 0 && b.complete))
                abort();
        /* Of an input that is cut off, the last byte may come or not. */
        if (a.result == 0 && b.result == 0 && a.complete && a.n != b.n)
                abort();
        return 0;
}

/* Several members of several kinds behind each other, made from what the present ones hold. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
        static uint8_t text[OUT_MAX];
        mut_state = seed;
        if (size < 2 || max < 64 || mut_next() % 2)
                return LLVMFuzzerMutate(data, size, max);
        struct outcome o = decode(data + 2, size - 2, size, OUT_MAX, text);
        o.n = LLVMFuzzerMutate(text, o.n, OUT_MAX);
        enum pc_codec_kind kind = PC_CODEC_GZIP + mut_next() % 4;
        size_t at = 2, cut = o.n ? mut_next() % o.n : 0, made = mut_compress(kind, text, cut, data + at, max - at);
        at += made;
        if (mut_next() % 2)
                at += mut_compress(mut_next() % 8 ? kind : PC_CODEC_GZIP + mut_next() % 4, text + cut, o.n - cut,
                                   data + at, max - at);
        return at > 2 ? at : LLVMFuzzerMutate(data, size, max);
}
