/* Archive entries onto the file system below one directory descriptor. */
#pragma once
#include "untar/header.h"
#include "untar/untar.h"
#include <sys/types.h>

struct pc_entry {
        const char *name; /* cleaned; "" is the layer's root */
        const char *link; /* target of a symbolic link as is; of a hard link cleaned */
        char type;        /* '0' file, '1' hard link, '2' symbolic link, '3' char, '4' block, '5' directory, '6' fifo */
        mode_t mode;      /* permission bits */
        uid_t uid, gid;   /* already mapped */
        dev_t dev;
        struct timespec times[2]; /* atime, mtime */
        const struct pc_xattr *xattrs;
        size_t n_xattrs;
};

struct pc_apply;
struct pc_filler;

/* exact_umask: the calling thread has umask 0, so that new files get the mode they ask for. filler may be NULL. */
struct pc_apply *pc_apply_new(const struct pc_untar_opts *opts, bool exact_umask, struct pc_filler *filler,
                              struct pc_err *reterr);
void pc_apply_free(struct pc_apply *a);
/* Map an id of the archive; -EOVERFLOW when no map holds it. */
int pc_apply_map(const struct pc_idmap *map, size_t n, int64_t id, uint32_t *ret, struct pc_err *reterr);

/* Anything but a regular file. 1 when an entry of this layer was there before under that name. */
int pc_apply_entry(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr);
/* A regular file: begin (as pc_apply_entry), write at the position or past a hole, end. One at a time. */
int pc_apply_begin(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr);
int pc_apply_write(struct pc_apply *a, const uint8_t *p, size_t n, struct pc_err *reterr);
int pc_apply_seek(struct pc_apply *a, int64_t offset, struct pc_err *reterr);
int pc_apply_end(struct pc_apply *a, const struct pc_entry *e, int64_t size, struct pc_err *reterr);

/* Instead of write and end: the filler will do it, with size bytes at this position of the tar. 1 when it was given,
 * 0 when it is the caller's still. */
int pc_apply_give(struct pc_apply *a, const struct pc_entry *e, uint64_t at, uint64_t size, struct pc_err *reterr);

int pc_apply_whiteout(struct pc_apply *a, const struct pc_entry *e, const char *hidden, struct pc_err *reterr);
int pc_apply_opaque(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr);
/* Directory times, after the last entry. */
int pc_apply_finish(struct pc_apply *a, struct pc_err *reterr);
/* Attributes that the file system does not support. */
uint64_t pc_apply_xattrs_skipped(const struct pc_apply *a);
/* True when content that an entry had brought was replaced by a later entry. */
bool pc_apply_lost(const struct pc_apply *a);
