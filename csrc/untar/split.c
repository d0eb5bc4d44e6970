#include "untar/split.h"
#include "common/fd.h"
#include "common/io.h"
#include "untar/names.h"
#include <isa-l/crc64.h>
#include <isa-l/igzip_lib.h>
#include <stdlib.h>
#include <string.h>

/* A segment is cut here: the reader of a line must hold it in memory. */
enum { SEGMENT_MAX = 1 << 20 };

struct pc_split {
        struct pc_ring *text;
        uint8_t *block;
        size_t used;
        uint64_t position;
        uint8_t *raw;
        size_t n_raw, room_raw;
};

uint64_t pc_crc64(uint64_t crc, const void *p, size_t n) {
        return crc64_iso_refl(crc, p, n);
}

struct pc_split *pc_split_new(struct pc_ring *text) {
        struct pc_split *s = calloc(1, sizeof *s);
        if (s)
                s->text = text;
        return s;
}

void pc_split_free(struct pc_split *s) {
        if (!s)
                return;
        free(s->raw);
        free(s);
}

/* Room for at least one byte; the block is published when full. */
static int room(struct pc_split *s) {
        if (s->block && s->used < pc_ring_block_size(s->text))
                return 0;
        if (s->block)
                pc_ring_publish(s->text, s->used);
        s->block = NULL;
        s->used = 0;
        return pc_ring_claim(s->text, &s->block);
}

static int put(struct pc_split *s, const char *p, size_t n) {
        while (n > 0) {
                int r = room(s);
                if (r < 0)
                        return r;
                size_t some = pc_ring_block_size(s->text) - s->used;
                if (some > n)
                        some = n;
                memcpy(s->block + s->used, p, some);
                s->used += some;
                p += some;
                n -= some;
        }
        return 0;
}

static int put_base64(struct pc_split *s, const uint8_t *p, size_t n) {
        static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        char buf[4 * 256];
        int r = 0;
        while (n >= 3 && r == 0) {
                size_t at = 0;
                for (; n >= 3 && at < sizeof buf; p += 3, n -= 3, at += 4) {
                        unsigned v = (unsigned) p[0] << 16 | (unsigned) p[1] << 8 | p[2];
                        if (v == 0) { /* most of a header */
                                memcpy(buf + at, "AAAA", 4);
                                continue;
                        }
                        buf[at] = alphabet[v >> 18];
                        buf[at + 1] = alphabet[v >> 12 & 63];
                        buf[at + 2] = alphabet[v >> 6 & 63];
                        buf[at + 3] = alphabet[v & 63];
                }
                r = put(s, buf, at);
        }
        if (n > 0 && r == 0) {
                unsigned v = (unsigned) p[0] << 16 | (n > 1 ? (unsigned) p[1] << 8 : 0);
                const char end[] = {alphabet[v >> 18], alphabet[v >> 12 & 63], n > 1 ? alphabet[v >> 6 & 63] : '=',
                                    '='};
                r = put(s, end, sizeof end);
        }
        return r;
}

/* The inside of a JSON string, valid UTF-8 given. */
static int put_escaped(struct pc_split *s, const char *text) {
        for (const char *p = text; *p;) {
                const unsigned char *u = (const unsigned char *) p;
                size_t plain = 0;
                while (u[plain] >= 0x20 && u[plain] != '"' && u[plain] != '\\' && u[plain] != '<' && u[plain] != '>' &&
                       u[plain] != '&' && !(u[plain] == 0xe2 && u[plain + 1] == 0x80 && (u[plain + 2] & 0xfe) == 0xa8))
                        plain++;
                int r = put(s, p, plain);
                p += plain;
                u += plain;
                if (r < 0)
                        return r;
                if (!*p)
                        return 0;
                char esc[8];
                size_t took = 1;
                const char *shorts = "\"\\\n\r\t", *hit = strchr(shorts, *p);
                if (hit) {
                        static const char letters[] = "\"\\nrt";
                        esc[0] = '\\';
                        esc[1] = letters[hit - shorts];
                        esc[2] = 0;
                } else if (*u == 0xe2) { /* line and paragraph separator */
                        (void) snprintf(esc, sizeof esc, "\\u202%d", u[2] & 0xf);
                        took = 3;
                } else {
                        (void) snprintf(esc, sizeof esc, "\\u%04x", *u);
                }
                r = put(s, esc, strlen(esc));
                if (r < 0)
                        return r;
                p += took;
        }
        return 0;
}

static int put_text(struct pc_split *s, const char *text) {
        return put(s, text, strlen(text));
}

static int put_end(struct pc_split *s) {
        char buf[48];
        (void) snprintf(buf, sizeof buf, ",\"position\":%llu}\n", (unsigned long long) s->position++);
        return put_text(s, buf);
}

int pc_split_segment(struct pc_split *s) {
        if (s->n_raw == 0)
                return 0;
        int r = put_text(s, "{\"type\":2,\"payload\":\"");
        if (r == 0)
                r = put_base64(s, s->raw, s->n_raw);
        if (r == 0)
                r = put_text(s, "\"");
        if (r == 0)
                r = put_end(s);
        s->n_raw = 0;
        return r;
}

int pc_split_raw(struct pc_split *s, const void *data, size_t n) {
        const uint8_t *p = data;
        while (n > 0) {
                size_t some = n < SEGMENT_MAX - s->n_raw ? n : SEGMENT_MAX - s->n_raw;
                if (s->n_raw + some > s->room_raw) {
                        size_t want = s->room_raw ? s->room_raw : 4096;
                        while (want < s->n_raw + some)
                                want *= 2;
                        uint8_t *raw = realloc(s->raw, want);
                        if (!raw)
                                return -ENOMEM;
                        s->raw = raw;
                        s->room_raw = want;
                }
                memcpy(s->raw + s->n_raw, p, some);
                s->n_raw += some;
                p += some;
                n -= some;
                if (s->n_raw == SEGMENT_MAX) {
                        int r = pc_split_segment(s);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

int pc_split_file(struct pc_split *s, const char *name, int64_t size, uint64_t crc) {
        int r = pc_split_segment(s);
        size_t n = strlen(name);
        bool utf8 = pc_utf8_valid(name, n);
        if (r == 0)
                r = put_text(s, "{\"type\":1");
        if (r == 0 && n > 0) {
                r = put_text(s, utf8 ? ",\"name\":\"" : ",\"name_raw\":\"");
                if (r == 0)
                        r = utf8 ? put_escaped(s, name) : put_base64(s, (const uint8_t *) name, n);
                if (r == 0)
                        r = put_text(s, "\"");
        }
        if (r == 0 && size > 0) {
                char buf[48];
                uint8_t sum[8];
                for (int i = 0; i < 8; i++)
                        sum[i] = (uint8_t) (crc >> (56 - 8 * i));
                (void) snprintf(buf, sizeof buf, ",\"size\":%lld,\"payload\":\"", (long long) size);
                r = put_text(s, buf);
                if (r == 0)
                        r = put_base64(s, sum, sizeof sum);
                if (r == 0)
                        r = put_text(s, "\"");
        } else if (r == 0) {
                r = put_text(s, ",\"payload\":null");
        }
        return r < 0 ? r : put_end(s);
}

int pc_split_finish(struct pc_split *s) {
        int r = pc_split_segment(s);
        if (r < 0)
                return r;
        if (s->block)
                pc_ring_publish(s->text, s->used);
        s->block = NULL;
        pc_ring_end(s->text);
        return 0;
}

/* ---- the packing stage ---- */

struct packer {
        struct isal_zstream z;
        uint8_t level_buf[ISAL_DEF_LVL1_DEFAULT];
        uint8_t out[64 * 1024];
};

static int deflate_some(struct packer *p, const uint8_t *in, size_t n, bool end, int fd, struct pc_err *reterr) {
        p->z.next_in = (uint8_t *) in; /* not written to */
        p->z.avail_in = (uint32_t) n;
        p->z.end_of_stream = end;
        do {
                p->z.next_out = p->out;
                p->z.avail_out = sizeof p->out;
                if (isal_deflate(&p->z) != COMP_OK)
                        return pc_fail(reterr, EIO, "deflate tar-split", NULL);
                int r = pc_write_all(fd, p->out, sizeof p->out - p->z.avail_out);
                if (r < 0)
                        return pc_fail(reterr, r, "write tar-split", NULL);
        } while (p->z.avail_out == 0 || p->z.avail_in > 0);
        return 0;
}

int pc_split_pack(struct pc_ring *text, int fd, struct pc_err *reterr) {
        _cleanup_free_ struct packer *p = malloc(sizeof *p);
        if (!p)
                return pc_fail(reterr, ENOMEM, "write tar-split", NULL);
        isal_deflate_init(&p->z);
        p->z.gzip_flag = IGZIP_GZIP;
        p->z.level = 1;
        p->z.level_buf = p->level_buf;
        p->z.level_buf_size = sizeof p->level_buf;
        for (;;) {
                const uint8_t *in = NULL;
                size_t n = 0;
                int r = pc_ring_peek(text, 0, &in, &n);
                if (r < 0)
                        return pc_fail(reterr, r, "write tar-split", NULL);
                int w = deflate_some(p, in, n, r == 0, fd, reterr);
                if (r == 0 || w < 0)
                        return w;
                pc_ring_release(text, 0);
        }
}
