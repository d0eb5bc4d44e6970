/* Tar header blocks, pax records and sparse maps: from bytes to values, no I/O. */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum { PC_TAR_BLOCK = 512 };

struct pc_tar_header {
        char name[100 + 1 + 155 + 1];
        char link[100 + 1];
        int64_t mode, uid, gid, size, devmajor, devminor;
        struct timespec mtime, atime;
        bool has_atime, gnu;
        char type;
};

/* 0: filled; 1: a block of zeros; -EBADMSG. */
int pc_tar_header_parse(const uint8_t block[PC_TAR_BLOCK], struct pc_tar_header *ret, struct pc_err *reterr);
/* True when a member of this type has no data whatever its size field says. */
bool pc_tar_header_only(char type);
/* Octal or base-256 field; false when malformed or out of range. */
bool pc_tar_number(const uint8_t *field, size_t n, int64_t *ret);

struct pc_region {
        int64_t offset, length;
};
struct pc_regions {
        struct pc_region *v;
        size_t n, room, max;
};
int pc_regions_add(struct pc_regions *r, int64_t offset, int64_t length, struct pc_err *reterr);
/* Ordered, inside size, no overlap, and as many bytes as are stored; 0 or -EBADMSG. */
int pc_regions_check(const struct pc_regions *r, int64_t size, int64_t stored, struct pc_err *reterr);
/* One block of an old GNU sparse map: 4 pairs in the header, 21 in a continuation; *ret_more: another block follows. */
int pc_regions_old(struct pc_regions *r, const uint8_t block[PC_TAR_BLOCK], bool first, bool *ret_more,
                   struct pc_err *reterr);
/* The map at the start of a pax 1.0 sparse file. Whole blocks are fed until it is complete: 1 wants more, 0 done. */
struct pc_map10 {
        int64_t count, pending; /* count: -1 until known; pending: an offset waiting for its length, or -1 */
        char token[24];
        size_t n_token;
};
int pc_map10_feed(struct pc_map10 *m, struct pc_regions *r, const uint8_t block[PC_TAR_BLOCK], struct pc_err *reterr);

struct pc_bytes {
        const char *p;
        size_t n;
};
struct pc_xattr {
        char *name; /* NUL-terminated, inside the record buffer */
        struct pc_bytes value;
};
/* Bits of pc_pax.have (a non-empty value came) and pc_pax.blank (an empty one, which takes back a global value). */
enum {
        PC_PAX_PATH = 1,
        PC_PAX_LINK = 2,
        PC_PAX_UID = 4,
        PC_PAX_GID = 8,
        PC_PAX_SIZE = 16,
        PC_PAX_MTIME = 32,
        PC_PAX_ATIME = 64,
        PC_PAX_SP_NAME = 128,
        PC_PAX_SP_SIZE = 256,
        PC_PAX_SP_REALSIZE = 512,
        PC_PAX_SP_MAP = 1024,
        PC_PAX_SP_BLOCKS = 2048,
        PC_PAX_SP_PAIRS = 4096,
};
struct pc_pax {
        unsigned have, blank;
        const char *path, *link, *sparse_name, *sparse_map; /* inside the record buffer */
        int64_t uid, gid, size, sparse_size, sparse_realsize, sparse_blocks;
        struct timespec mtime, atime;
        char sparse_major[2], sparse_minor[2]; /* one digit each; "?" stands for anything longer */
        struct pc_regions pairs;               /* of the 0.0 form */
        int64_t pair_offset;                   /* an offset waiting for its length, or -1 */
        struct pc_xattr *xattrs;
        size_t n_xattrs, room_xattrs;
};
/* Parse n bytes at buf, which is changed (terminators) and must outlive *ret. -EBADMSG, -E2BIG, -ENOMEM. */
int pc_pax_parse(char *buf, size_t n, size_t max_regions, struct pc_pax *ret, struct pc_err *reterr);
/* 0: not a sparse file; 1: *ret holds its regions (0.0, 0.1); 2: the map comes in the data (1.0); or negative. */
int pc_pax_sparse(const struct pc_pax *pax, struct pc_regions *ret, struct pc_err *reterr);
void pc_pax_done(struct pc_pax *p);
