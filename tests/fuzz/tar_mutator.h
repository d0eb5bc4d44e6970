/* Changes to layers that keep them layers: whole members are moved, made and bent, checksums are right again, and a
 * compressed one is opened, changed and compressed anew. Without this a fuzzer hardly gets past checksums and CRCs. */
#pragma once
#include "untar/codec.h"
#include "untar/header.h"
#include <bzlib.h>
#include <isa-l/igzip_lib.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static const char *const mut_names[] = {"a",
                                        "a/b",
                                        "a/b/c",
                                        "d/",
                                        "./",
                                        "",
                                        "..",
                                        "../up",
                                        "a/../../up",
                                        "/abs",
                                        "d/../",
                                        "f",
                                        ".wh.a",
                                        "a/.wh.b",
                                        ".wh..wh.",
                                        ".wh...",
                                        "d/.wh..wh..opq",
                                        ".wh.d",
                                        "l",
                                        "l/x",
                                        "h",
                                        "h/x",
                                        "d/e/f/g/h",
                                        "d/.wh..wh.plnk/1",
                                        "\xff\xfe",
                                        "caf\xc3\xa9",
                                        "d//e/./f"};
static const char *const mut_records[] = {"path=a/b",
                                          "path=.wh.a",
                                          "linkpath=../../etc/passwd",
                                          "linkpath=a",
                                          "size=3",
                                          "size=0",
                                          "size=9223372036854775807",
                                          "uid=4294967295",
                                          "gid=70000",
                                          "mtime=-1.5",
                                          "mtime=1700000000.123456789",
                                          "atime=0",
                                          "path=",
                                          "SCHILY.xattr.user.a=b",
                                          "SCHILY.xattr.security.capability=\1\0\0\2",
                                          "SCHILY.xattr.trusted.overlay.opaque=y",
                                          "SCHILY.acl.access=user::rwx",
                                          "GNU.sparse.major=1",
                                          "GNU.sparse.minor=0",
                                          "GNU.sparse.name=s",
                                          "GNU.sparse.realsize=4096",
                                          "GNU.sparse.size=4096",
                                          "GNU.sparse.map=0,3,1000,2",
                                          "GNU.sparse.numblocks=2",
                                          "GNU.sparse.offset=10",
                                          "GNU.sparse.numbytes=5",
                                          "hdrcharset=BINARY",
                                          "comment=x"};
#define MUT_PICK(list) (list)[mut_next() % (sizeof(list) / sizeof *(list))]

static unsigned mut_state;
static unsigned mut_next(void) {
        mut_state = mut_state * 1664525u + 1013904223u;
        return mut_state >> 8;
}

static size_t mut_padded(size_t n) {
        return (n + PC_TAR_BLOCK - 1) / PC_TAR_BLOCK * PC_TAR_BLOCK;
}

static void mut_sum(uint8_t *b) {
        unsigned s = 0;
        memset(b + 148, ' ', 8);
        for (int i = 0; i < PC_TAR_BLOCK; i++)
                s += b[i];
        (void) snprintf((char *) b + 148, 8, "%06o", s);
}

/* Length of the member at p: its header and, as far as there is any, its data. */
static size_t mut_member(const uint8_t *p, size_t n) {
        int64_t size;
        if (pc_tar_header_only((char) p[156]) || !pc_tar_number(p + 124, 12, &size) || size <= 0 || size > (int64_t) n)
                return PC_TAR_BLOCK;
        size_t len = PC_TAR_BLOCK + mut_padded((size_t) size);
        return len < n ? len : n;
}

static size_t mut_pick_member(const uint8_t *p, size_t n) {
        size_t at[64], count = 0;
        for (size_t i = 0; i + PC_TAR_BLOCK <= n && count < 64; i += mut_member(p + i, n - i))
                at[count++] = i;
        return count ? at[mut_next() % count] : 0;
}

static void mut_header(uint8_t *b, const char *name, char type, size_t size) {
        memset(b, 0, PC_TAR_BLOCK);
        (void) snprintf((char *) b, 100, "%s", name);
        (void) snprintf((char *) b + 100, 8, "%07o", 0644);
        (void) snprintf((char *) b + 108, 8, "%07o", 0);
        (void) snprintf((char *) b + 116, 8, "%07o", 0);
        (void) snprintf((char *) b + 124, 12, "%011zo", size);
        (void) snprintf((char *) b + 136, 12, "%011o", 1600000000u);
        b[156] = (uint8_t) type;
        memcpy(b + 257, mut_next() % 3 ? "ustar\00000" : "ustar  ", 8);
        mut_sum(b);
}

/* Room of len bytes at position at; false when it does not fit. */
static bool mut_open(uint8_t *p, size_t *n, size_t max, size_t at, size_t len) {
        if (*n + len > max)
                return false;
        memmove(p + at + len, p + at, *n - at);
        *n += len;
        return true;
}

static void mut_insert(uint8_t *p, size_t *n, size_t max, size_t at) {
        static const char types[] = "0001234567xxxgLKSD";
        char text[512] = "", type = types[mut_next() % (sizeof types - 1)];
        size_t size = 0;
        if (type == 'x' || type == 'g') {
                for (unsigned k = mut_next() % 4 + 1; k > 0; k--) {
                        const char *r = MUT_PICK(mut_records);
                        size_t len = strlen(r) + 4; /* two digits, blank, newline */
                        size += (size_t) snprintf(text + size, sizeof text - size, "%zu %s\n", len, r);
                }
        } else if (type == 'L' || type == 'K') {
                size =
                    (size_t) snprintf(text, sizeof text, "%0*d/%s", (int) (mut_next() % 300), 0, MUT_PICK(mut_names)) +
                    1;
        } else if (type == '0' || type == '7' || type == 'S') {
                size = (size_t) snprintf(text, sizeof text, "%u", mut_next());
        }
        if (!mut_open(p, n, max, at, PC_TAR_BLOCK + mut_padded(size)))
                return;
        mut_header(p + at, MUT_PICK(mut_names), type, size);
        if (type == '1' || type == '2') {
                (void) snprintf((char *) p + at + 157, 100, "%s", MUT_PICK(mut_names));
                mut_sum(p + at);
        }
        memset(p + at + PC_TAR_BLOCK, 0, mut_padded(size));
        memcpy(p + at + PC_TAR_BLOCK, text, size);
}

static void mut_field(uint8_t *b) {
        static const struct { uint8_t at, n; } numbers[] = {{100, 8}, {108, 8}, {116, 8}, {124, 12}, {136, 12}};
        static const char types[] = "01234567xgLKSDMNV\0A";
        unsigned k = mut_next() % 8;
        if (k == 0) {
                b[156] = (uint8_t) types[mut_next() % (sizeof types - 1)];
        } else if (k == 1) {
                (void) snprintf((char *) b, 100, "%s", MUT_PICK(mut_names));
        } else if (k == 2) {
                (void) snprintf((char *) b + 157, 100, "%s", MUT_PICK(mut_names));
        } else if (k == 3) { /* base 256, now and then negative */
                unsigned i = mut_next() % 5;
                memset(b + numbers[i].at, mut_next() % 2 ? 0xff : 0, numbers[i].n);
                b[numbers[i].at] |= 0x80;
                b[numbers[i].at + numbers[i].n - 1] = (uint8_t) mut_next();
        } else if (k == 4) {
                unsigned i = mut_next() % 5;
                (void) snprintf((char *) b + numbers[i].at, numbers[i].n, "%0*o", numbers[i].n - 1,
                                mut_next() % 2 ? mut_next() : mut_next() % 4096);
        } else {
                (void) LLVMFuzzerMutate(b, PC_TAR_BLOCK, PC_TAR_BLOCK);
        }
        mut_sum(b);
}

static size_t mut_tar(uint8_t *p, size_t n, size_t max) {
        size_t at = n >= PC_TAR_BLOCK ? mut_pick_member(p, n) : 0, left = n - at;
        size_t len = left >= PC_TAR_BLOCK ? mut_member(p + at, left) : left;
        switch (mut_next() % 6) {
        case 0:
        case 1:
                mut_insert(p, &n, max, at);
                break;
        case 2:
                if (left >= PC_TAR_BLOCK)
                        mut_field(p + at);
                break;
        case 3: /* twice */
                if (len > 0 && mut_open(p, &n, max, at, len))
                        memcpy(p + at, p + at + len, len);
                break;
        case 4:
                memmove(p + at, p + at + len, left - len);
                n -= len;
                break;
        default: /* the data */
                if (len > PC_TAR_BLOCK)
                        (void) LLVMFuzzerMutate(p + at + PC_TAR_BLOCK, len - PC_TAR_BLOCK, len - PC_TAR_BLOCK);
        }
        return n;
}

/* 0 when it does not fit. */
static size_t mut_compress(enum pc_codec_kind kind, const uint8_t *p, size_t n, uint8_t *out, size_t room) {
        if (kind == PC_CODEC_GZIP) {
                struct isal_zstream z;
                isal_deflate_stateless_init(&z);
                z.gzip_flag = IGZIP_GZIP;
                z.end_of_stream = 1;
                z.next_in = (uint8_t *) p;
                z.avail_in = (uint32_t) n;
                z.next_out = out;
                z.avail_out = (uint32_t) room;
                return isal_deflate_stateless(&z) == COMP_OK ? room - z.avail_out : 0;
        }
        if (kind == PC_CODEC_ZSTD) {
                size_t r = ZSTD_compress(out, room, p, n, 1);
                return ZSTD_isError(r) ? 0 : r;
        }
        if (kind == PC_CODEC_BZIP2) {
                unsigned r = (unsigned) room;
                return BZ2_bzBuffToBuffCompress((char *) out, &r, (char *) p, (unsigned) n, 1, 0, 0) == BZ_OK ? r : 0;
        }
        size_t r = 0;
        return lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, NULL, p, n, out, &r, room) == LZMA_OK ? r : 0;
}
