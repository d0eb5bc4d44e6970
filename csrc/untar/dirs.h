/* Directory descriptors of the layer being written: a small cache, resolved with openat2 inside the target.
 *
 * A slot remembers the times that its directory shall have and sets them when it leaves the cache, so that memory does
 * not grow with the number of directories: a directory that is opened again later gives its times by fstat. */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

struct pc_dir {
        int fd;
        bool dirty;               /* entries came or went since the times were set */
        bool inherits;            /* set-group-ID or a default ACL: new entries do not get exactly what they ask for */
        struct timespec times[2]; /* atime, mtime to set on leaving */
        /* of dirs.c */
        char *path;
        size_t len;
        uint64_t used;
        dev_t dev;
        ino_t ino;
};

struct pc_dirs;

/* root stays the caller's; uid and gid: owner of directories that no entry describes. */
struct pc_dirs *pc_dirs_new(int root, uid_t uid, gid_t gid, bool userxattr, struct pc_err *reterr);
/* Set the times of everything cached and forget it; 0 or the first error. */
int pc_dirs_flush(struct pc_dirs *d, struct pc_err *reterr);
void pc_dirs_free(struct pc_dirs *d);

enum pc_dirs_want {
        PC_DIRS_EXISTING, /* as it is, else -ENOENT, -ENOTDIR */
        PC_DIRS_CREATE,   /* make missing ones; a whiteout of this layer in the way becomes an opaque directory */
        PC_DIRS_UNHIDDEN, /* make missing ones; -ENOTDIR when something else is in the way */
};
/* The directory with the cleaned path (len bytes; 0: the target). Valid until the next call. */
int pc_dirs_get(struct pc_dirs *d, const char *path, size_t len, enum pc_dirs_want want, struct pc_dir **ret,
                struct pc_err *reterr);
/* Take in a directory just made or met, by descriptor (owned by the cache from now on, also on failure). */
int pc_dirs_put(struct pc_dirs *d, const char *path, size_t len, int fd, struct pc_dir **ret, struct pc_err *reterr);
/* Mark as opaque: nothing of lower layers shows. 1 when it was marked already. */
int pc_dirs_opaque(struct pc_dirs *d, int fd, const char *path, struct pc_err *reterr);
/* Remove what is called base in dir, a whole tree if need be, without following anything. */
int pc_dirs_remove(int dirfd, const char *base, struct pc_err *reterr);
/* True for the device node that hides a name of lower layers. */
static inline bool pc_is_whiteout(const struct stat *st) {
        return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}
