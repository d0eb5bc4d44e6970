/* The second half of making a file: content, owner, mode, times and close, in a thread beside the one that makes the
 * entries. One thread gives, one fills; both walk the same tar, each as a reader of its ring. */
#pragma once
#include "untar/apply.h"
#include "untar/ring.h"

struct pc_filler;

/* A file just made, and where its content is. */
struct pc_unfilled {
        int fd;            /* given away */
        uint64_t at, size; /* of the content in the tar */
        dev_t dev;         /* of its directory, with ino: what it is known by until it is done, together with base */
        ino_t ino;
        const char *base;
        bool odd; /* as in pc_meta_fd */
};

struct pc_filler *pc_filler_new(struct pc_ring *tar, unsigned reader);
void pc_filler_free(struct pc_filler *f);

/* The giving side. e has no extended attributes. Files are done in the order in which they were given. -ECANCELED after
 * an abort; the descriptor is taken in any case. */
int pc_filler_give(struct pc_filler *f, const struct pc_unfilled *u, const struct pc_entry *e);
/* Nothing before this position of the tar will be asked for any more, and whatever was given may be needed by others:
 * to be called at least wherever a block of the ring ends. */
int pc_filler_pass(struct pc_filler *f, uint64_t at);
/* True while the file of this name may be unfinished. */
bool pc_filler_has(const struct pc_filler *f, dev_t dev, ino_t ino, const char *base);
/* Wait until everything given is done. */
int pc_filler_settle(struct pc_filler *f);
void pc_filler_end(struct pc_filler *f);

/* The filling side: until the end. */
int pc_filler_run(struct pc_filler *f, struct pc_err *reterr);

/* Every waiting and later call fails with -ECANCELED. */
void pc_filler_abort(struct pc_filler *f);
