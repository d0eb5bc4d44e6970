/* Owner, mode, extended attributes and times of entries just made. */
#pragma once
#include "untar/apply.h"
#include <sys/types.h>

struct pc_meta {
        uid_t uid; /* what a new entry gets by itself */
        gid_t gid;
        bool inexact;      /* umask or mount options bend what a new entry gets: always look */
        bool default_acls; /* this layer brought one: new entries may inherit */
        uint64_t xattrs_skipped;
};

void pc_meta_init(struct pc_meta *m, int root, bool exact_umask);
/* odd: the entry may not have got what was asked for at creation. Times of files and directories are the caller's. */
int pc_meta_fd(struct pc_meta *m, int fd, const struct pc_entry *e, bool odd, struct pc_err *reterr);
/* Symbolic links and nodes, with times. */
int pc_meta_at(struct pc_meta *m, int dirfd, const char *base, const struct pc_entry *e, bool odd,
               struct pc_err *reterr);
/* A further name of a file: what the entry says counts, and is usually what the file has. */
int pc_meta_link(struct pc_meta *m, int dirfd, const char *base, const struct pc_entry *e, struct pc_err *reterr);
