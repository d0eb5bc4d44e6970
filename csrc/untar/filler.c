#include "untar/filler.h"
#include "common/fd.h"
#include "common/io.h"
#include "untar/cursor.h"
#include "untar/meta.h"
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
        SLOTS = 64, /* files made and not done, each with a descriptor */
        BATCH = 16, /* small files are told of together: to wake a thread costs as much as to make one */
        LARGE = 64 << 10,
};

struct slot {
        struct pc_unfilled u;
        struct pc_entry e;
        char name[PC_ERR_PATH], base[NAME_MAX + 1];
};

struct pc_filler {
        struct slot slot[SLOTS];
        uint64_t given; /* of the giving side */
        struct pc_cursor in;
        struct pc_meta meta;
        _Atomic uint64_t done; /* of the filling side */
        pthread_mutex_t lock;
        pthread_cond_t news, progress;
        uint64_t told, passed; /* what the filling side knows of */
        bool ended, aborted, waiting_news, waiting_progress;
};

struct pc_filler *pc_filler_new(struct pc_ring *tar, unsigned reader) {
        struct pc_filler *f = calloc(1, sizeof *f);
        if (!f)
                return NULL;
        f->in = (struct pc_cursor){.ring = tar, .reader = reader};
        f->meta = (struct pc_meta){.uid = geteuid(), .gid = getegid()};
        (void) pthread_mutex_init(&f->lock, NULL);
        (void) pthread_cond_init(&f->news, NULL);
        (void) pthread_cond_init(&f->progress, NULL);
        return f;
}

void pc_filler_free(struct pc_filler *f) {
        if (!f)
                return;
        for (uint64_t i = f->done; i < f->given; i++)
                pc_closep(&f->slot[i % SLOTS].u.fd);
        (void) pthread_cond_destroy(&f->progress);
        (void) pthread_cond_destroy(&f->news);
        (void) pthread_mutex_destroy(&f->lock);
        free(f);
}

/* ---- the giving side ---- */

static void tell(struct pc_filler *f) {
        f->told = f->given;
        if (f->waiting_news)
                (void) pthread_cond_signal(&f->news);
}

/* Until at most so many are unfinished. */
static int wait_for(struct pc_filler *f, uint64_t most) {
        (void) pthread_mutex_lock(&f->lock);
        tell(f);
        while (!f->aborted && f->given - f->done > most) {
                f->waiting_progress = true;
                (void) pthread_cond_wait(&f->progress, &f->lock);
        }
        f->waiting_progress = false;
        bool aborted = f->aborted;
        (void) pthread_mutex_unlock(&f->lock);
        return aborted ? -ECANCELED : 0;
}

int pc_filler_give(struct pc_filler *f, const struct pc_unfilled *u, const struct pc_entry *e) {
        _cleanup_fd_ int fd = u->fd;
        if (f->given - f->done == SLOTS) {
                int r = wait_for(f, SLOTS - BATCH);
                if (r < 0)
                        return r;
        }
        struct slot *s = &f->slot[f->given % SLOTS];
        size_t n = strnlen(e->name, sizeof s->name - 1);
        s->u = *u;
        s->e = *e;
        memcpy(s->name, e->name, n);
        s->name[n] = '\0';
        memcpy(s->base, u->base, strnlen(u->base, NAME_MAX) + 1);
        s->e.name = s->name; /* cut off if need be: for messages */
        s->u.base = s->base;
        s->u.fd = steal_fd(&fd);
        f->given++;
        if (f->given % BATCH != 0 && u->size < LARGE)
                return 0;
        (void) pthread_mutex_lock(&f->lock);
        tell(f);
        (void) pthread_mutex_unlock(&f->lock);
        return 0;
}

int pc_filler_pass(struct pc_filler *f, uint64_t at) {
        (void) pthread_mutex_lock(&f->lock);
        f->passed = at;
        tell(f);
        bool aborted = f->aborted;
        (void) pthread_mutex_unlock(&f->lock);
        return aborted ? -ECANCELED : 0;
}

bool pc_filler_has(const struct pc_filler *f, dev_t dev, ino_t ino, const char *base) {
        for (uint64_t i = f->done; i < f->given; i++) {
                const struct pc_unfilled *u = &f->slot[i % SLOTS].u;
                if (u->ino == ino && u->dev == dev && strcmp(u->base, base) == 0)
                        return true;
        }
        return false;
}

int pc_filler_settle(struct pc_filler *f) {
        return wait_for(f, 0);
}

void pc_filler_end(struct pc_filler *f) {
        (void) pthread_mutex_lock(&f->lock);
        f->ended = true;
        tell(f);
        (void) pthread_cond_signal(&f->news);
        (void) pthread_mutex_unlock(&f->lock);
}

void pc_filler_abort(struct pc_filler *f) {
        (void) pthread_mutex_lock(&f->lock);
        f->aborted = true;
        (void) pthread_cond_signal(&f->news);
        (void) pthread_cond_signal(&f->progress);
        (void) pthread_mutex_unlock(&f->lock);
}

/* ---- the filling side ---- */

static int go_to(struct pc_filler *f, uint64_t at, struct pc_err *reterr) {
        while (f->in.at < at) {
                const uint8_t *p;
                ssize_t got = pc_cursor_span(&f->in, at - f->in.at, &p);
                if (got <= 0)
                        return pc_cursor_stopped(got, reterr);
        }
        return 0;
}

static int fill(struct pc_filler *f, struct slot *s, struct pc_err *reterr) {
        uint64_t end = s->u.at + s->u.size;
        int r = go_to(f, s->u.at, reterr);
        while (r == 0 && f->in.at < end) {
                const uint8_t *p;
                ssize_t got = pc_cursor_span(&f->in, end - f->in.at, &p);
                if (got <= 0)
                        return pc_cursor_stopped(got, reterr);
                r = pc_write_all(s->u.fd, p, (size_t) got);
                if (r < 0)
                        return pc_fail(reterr, r, "write file", s->name);
        }
        if (r == 0)
                r = pc_meta_fd(&f->meta, s->u.fd, &s->e, s->u.odd, reterr);
        if (r < 0)
                return r;
        if (futimens(s->u.fd, s->e.times) < 0)
                return pc_fail_errno(reterr, "set file times", s->name);
        if (close(steal_fd(&s->u.fd)) < 0)
                return pc_fail_errno(reterr, "close file", s->name);
        return 0;
}

int pc_filler_run(struct pc_filler *f, struct pc_err *reterr) {
        uint64_t passed = 0;
        for (;;) {
                (void) pthread_mutex_lock(&f->lock);
                if (f->waiting_progress)
                        (void) pthread_cond_signal(&f->progress);
                while (!f->aborted && !f->ended && f->done == f->told && passed == f->passed) {
                        f->waiting_news = true;
                        (void) pthread_cond_wait(&f->news, &f->lock);
                }
                f->waiting_news = false;
                uint64_t told = f->told;
                bool aborted = f->aborted, all = told - f->done <= BATCH, over = f->ended && f->done == told;
                passed = all ? f->passed : passed;
                (void) pthread_mutex_unlock(&f->lock);
                if (aborted)
                        return pc_cursor_stopped(-ECANCELED, reterr);
                if (over)
                        return 0;
                int r = 0;
                for (uint64_t i = f->done, end = all ? told : i + BATCH; r == 0 && i < end; i++) {
                        r = fill(f, &f->slot[i % SLOTS], reterr);
                        if (r == 0)
                                f->done = i + 1;
                }
                if (r == 0 && all)
                        r = go_to(f, passed, reterr);
                if (r < 0)
                        return r;
        }
}
