/* One pass from a (compressed) layer stream to an overlay layer directory, and back to the tar.
 *
 * Policy is the caller's: limits, id maps and the form of whiteout marks come as arguments; nothing is logged. */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pc_idmap {
        uint32_t container, host, size;
};

/* What a stream may cost; 0 takes the default of set_limits() in untar.c. Beyond a limit: EFBIG for bytes, E2BIG for
 * counts, ENAMETOOLONG for names. */
struct pc_untar_limits {
        uint64_t entries;    /* archive members */
        uint64_t bytes;      /* length of the uncompressed tar */
        uint64_t path;       /* bytes of a cleaned member name (PATH_MAX - 1 at most) */
        uint64_t depth;      /* components of a member name */
        uint64_t special;    /* bytes of one pax header or GNU long name */
        uint64_t sparse;     /* data regions of one sparse file */
        uint64_t window_log; /* log2 of a zstd window */
};

struct pc_untar_opts {
        int src_fd;    /* blob: file, pipe or socket */
        int target_fd; /* the layer's directory, empty */
        int split_fd;  /* tar-split metadata goes here as gzip; -1: none */
        int cancel_fd; /* readable: give up with ECANCELED; -1: none */
        const struct pc_idmap *uid_map, *gid_map;
        size_t n_uid_map, n_gid_map; /* 0: ids as they are */
        bool userxattr;              /* opaque mark is user.overlay.opaque instead of trusted.overlay.opaque */
        bool keep_root;              /* leave owner, mode, times and xattrs of the directory itself alone */
        struct pc_untar_limits limits;
};

struct pc_untar_result {
        uint8_t compressed_sha[32], diff_sha[32];
        uint64_t compressed_size, diff_size, entries, xattrs_skipped;
        const char *compression; /* static: none, gzip, zstd, bzip2, xz */
        bool split_complete;     /* false: an entry replaced an earlier one, so the tar cannot be put together again */
        uint32_t *uids, *gids;   /* ids as in the tar, sorted, whiteouts not counted */
        size_t n_uids, n_gids;
};

/* Blocking; starts and ends its own threads. */
int pc_untar(const struct pc_untar_opts *opts, struct pc_untar_result *ret, struct pc_err *reterr);
void pc_untar_result_done(struct pc_untar_result *r);

/* Write the tar that tar-split metadata and the directory describe; EBADMSG when content changed. */
int pc_tarsplit_assemble(const int fds[4], uint8_t ret_sha[32], uint64_t *ret_size, struct pc_err *reterr);
enum { PC_ASM_SPLIT, PC_ASM_DIR, PC_ASM_OUT, PC_ASM_CANCEL };
