/* The reader of the uncompressed tar: members out of a ring, onto the applier and into the tar-split text. */
#pragma once
#include "untar/ring.h"
#include "untar/split.h"
#include "untar/untar.h"

struct pc_idset;
struct pc_filler;

struct pc_archive {
        const struct pc_untar_opts *opts;
        const struct pc_untar_limits *limits; /* no zeros in it */
        struct pc_ring *tar;
        unsigned reader;
        struct pc_split *split;   /* may be NULL */
        struct pc_filler *filler; /* may be NULL: files are filled where they are made */
        bool exact_umask;
        /* results */
        uint64_t entries, xattrs_skipped;
        bool split_complete;
        struct pc_idset *uids, *gids;
};

/* Everything to the end of the ring. */
int pc_archive_run(struct pc_archive *a, struct pc_err *reterr);
