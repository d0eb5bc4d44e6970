#include "untar/untar.h"
#include "common/fd.h"
#include "untar/archive.h"
#include "untar/codec.h"
#include "untar/filler.h"
#include "untar/idset.h"
#include <openssl/evp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

/* Sizes of the rings decide what one extraction holds in memory: about 8 MiB, plus the decoder's window. */
enum {
        IN_BLOCKS = 4,
        IN_SIZE = 256 << 10,
        TAR_BLOCKS = 12,
        TAR_SIZE = 512 << 10,
        TEXT_BLOCKS = 4,
        TEXT_SIZE = 64 << 10,
        STACK = 512 << 10,
        STAGES = 6,
};

struct job {
        struct pc_untar_opts opts;
        struct pc_ring *in, *tar, *text;
        int wake, done; /* eventfds: tells the source to give up; tells the caller that the last stage ended */
        struct pc_archive archive;
        struct pc_filler *filler;
        pthread_mutex_t lock;
        bool failed;
        struct pc_err err; /* the first one */
        atomic_int running;
        /* results; each written by one stage */
        _Atomic(int) kind;
        uint8_t compressed_sha[32], diff_sha[32];
        uint64_t compressed_size, diff_size;
};

struct stage {
        struct job *job;
        const char *name; /* of the thread */
        int (*run)(struct job *j, struct pc_err *reterr);
        pthread_t thread;
};

static void wake(int fd) {
        uint64_t one = 1;
        ssize_t r;
        do
                r = write(fd, &one, sizeof one);
        while (r < 0 && errno == EINTR);
}

static void fail(struct job *j, const struct pc_err *err) {
        (void) pthread_mutex_lock(&j->lock);
        bool first = !j->failed;
        if (first) {
                j->err = *err;
                j->failed = true;
        }
        (void) pthread_mutex_unlock(&j->lock);
        if (!first)
                return;
        pc_ring_abort(j->in);
        pc_ring_abort(j->tar);
        pc_ring_abort(j->text);
        pc_filler_abort(j->filler);
        wake(j->wake);
}

static void *stage_main(void *arg) {
        struct stage *s = arg;
        struct pc_err err;
        (void) pthread_setname_np(pthread_self(), s->name);
        if (s->run(s->job, &err) < 0)
                fail(s->job, &err);
        if (atomic_fetch_sub(&s->job->running, 1) == 1)
                wake(s->job->done);
        return NULL;
}

static int hash_new(EVP_MD_CTX **ret, struct pc_err *reterr) {
        *ret = EVP_MD_CTX_new();
        if (!*ret || !EVP_DigestInit_ex(*ret, EVP_sha256(), NULL)) {
                EVP_MD_CTX_free(*ret);
                *ret = NULL;
                return pc_fail(reterr, ENOMEM, "sha256", NULL);
        }
        return 0;
}

static void hash_freep(EVP_MD_CTX **h) {
        EVP_MD_CTX_free(*h);
}

/* ---- stage 1: the source; compressed digest ---- */

/* Some bytes, 0 at the end. A source without data must not keep a cancelled job alive. */
static ssize_t read_some(struct job *j, uint8_t *to, size_t n, struct pc_err *reterr) {
        struct pollfd p[2] = {{.fd = j->opts.src_fd, .events = POLLIN}, {.fd = j->wake, .events = POLLIN}};
        for (;;) {
                if (poll(p, 2, -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return pc_fail_errno(reterr, "wait for the blob", NULL);
                }
                if (p[1].revents)
                        return pc_fail(reterr, ECANCELED, "read the blob", NULL);
                ssize_t r = read(j->opts.src_fd, to, n);
                if (r >= 0)
                        return r;
                if (errno != EINTR && errno != EAGAIN)
                        return pc_fail_errno(reterr, "read the blob", NULL);
        }
}

static int source(struct job *j, struct pc_err *reterr) {
        _cleanup_(hash_freep) EVP_MD_CTX *h = NULL;
        bool first = true;
        for (;;) {
                uint8_t *block;
                size_t n = 0, want = first ? PC_CODEC_MAGIC : 1;
                int r = pc_ring_claim(j->in, &block);
                if (r < 0)
                        return pc_fail(reterr, r, "read the blob", NULL);
                ssize_t got = 1;
                while (n < want && got > 0) {
                        got = read_some(j, block + n, pc_ring_block_size(j->in) - n, reterr);
                        if (got < 0)
                                return (int) got;
                        n += (size_t) got;
                }
                if (first) {
                        atomic_store(&j->kind, pc_codec_detect(block, n));
                        /* Of a plain blob both digests are the same. */
                        if (atomic_load(&j->kind) != PC_CODEC_NONE && hash_new(&h, reterr) < 0)
                                return -reterr->code;
                        first = false;
                }
                if (h && n > 0 && !EVP_DigestUpdate(h, block, n))
                        return pc_fail(reterr, EIO, "sha256", NULL);
                j->compressed_size += n;
                pc_ring_publish(j->in, n);
                if (got == 0)
                        break;
        }
        if (h && !EVP_DigestFinal_ex(h, j->compressed_sha, NULL))
                return pc_fail(reterr, EIO, "sha256", NULL);
        pc_ring_end(j->in);
        return 0;
}

/* ---- stage 2: decompression ---- */

struct unpack {
        struct job *j;
        struct pc_codec *codec;
        struct pc_span span;
        size_t filled; /* of the claimed block */
        bool claimed;
};

/* Run the codec over the input at hand. A full block goes on; a part stays until input is short. */
static int pump(struct unpack *u, struct pc_err *reterr) {
        struct job *j = u->j;
        size_t size = pc_ring_block_size(j->tar);
        for (;;) {
                if (!u->claimed) {
                        int r = pc_ring_claim(j->tar, &u->span.out);
                        if (r < 0)
                                return pc_fail(reterr, r, "decompress", NULL);
                        u->span.out_left = size;
                        u->claimed = true;
                }
                size_t before_in = u->span.in_left, before_out = u->span.out_left;
                int r = pc_codec_run(u->codec, &u->span, reterr);
                if (r < 0)
                        return r;
                j->diff_size += before_out - u->span.out_left;
                if (j->diff_size > j->opts.limits.bytes)
                        return pc_fail(reterr, EFBIG, "limit of uncompressed bytes", NULL);
                if (u->span.out_left == 0) {
                        pc_ring_publish(j->tar, size);
                        u->claimed = false;
                } else if (u->span.in_left == 0 || u->span.in_left == before_in) {
                        if (u->span.in_left > 0 && before_out == u->span.out_left)
                                return pc_fail(reterr, EBADMSG, "compressed data", NULL);
                        if (u->span.in_left == 0)
                                return 0;
                }
        }
}

static int decompress(struct job *j, struct pc_err *reterr) {
        struct unpack u = {.j = j};
        int r;
        for (;;) {
                const uint8_t *p;
                size_t n;
                r = pc_ring_peek(j->in, 0, &p, &n);
                if (r < 0)
                        (void) pc_fail(reterr, r, "decompress", NULL);
                if (r <= 0)
                        break;
                if (!u.codec)
                        u.codec = pc_codec_new((enum pc_codec_kind) atomic_load(&j->kind),
                                               (unsigned) j->opts.limits.window_log);
                if (!u.codec) {
                        r = pc_fail(reterr, ENOMEM, "decompress", NULL);
                        break;
                }
                u.span.in = p;
                u.span.in_left = n;
                r = pump(&u, reterr);
                if (r < 0)
                        break;
                pc_ring_release(j->in, 0);
        }
        if (r == 0 && u.codec) {
                u.span.last = true;
                r = pump(&u, reterr);
                if (r == 0 && !pc_codec_at_end(u.codec))
                        r = pc_fail(reterr, EBADMSG, "compressed data is cut off", NULL);
        }
        if (r == 0 && u.claimed)
                pc_ring_publish(j->tar, pc_ring_block_size(j->tar) - u.span.out_left);
        if (r == 0)
                pc_ring_end(j->tar);
        pc_codec_free(u.codec);
        return r;
}

/* ---- stage 3: diff id ---- */

static int digest(struct job *j, struct pc_err *reterr) {
        _cleanup_(hash_freep) EVP_MD_CTX *h = NULL;
        if (hash_new(&h, reterr) < 0)
                return -reterr->code;
        for (;;) {
                const uint8_t *p;
                size_t n;
                int r = pc_ring_peek(j->tar, 0, &p, &n);
                if (r < 0)
                        return pc_fail(reterr, r, "sha256", NULL);
                if (r == 0)
                        break;
                if (!EVP_DigestUpdate(h, p, n))
                        return pc_fail(reterr, EIO, "sha256", NULL);
                pc_ring_release(j->tar, 0);
        }
        return EVP_DigestFinal_ex(h, j->diff_sha, NULL) ? 0 : pc_fail(reterr, EIO, "sha256", NULL);
}

/* ---- stage 4: entries; stage 5: content of files; stage 6: tar-split ---- */

static int entries(struct job *j, struct pc_err *reterr) {
        /* A umask of this thread's own, so that new files have their mode from the start. */
        j->archive.exact_umask = unshare(CLONE_FS) == 0;
        if (j->archive.exact_umask)
                (void) umask(0);
        int r = pc_archive_run(&j->archive, reterr);
        if (r == 0)
                pc_filler_end(j->filler);
        return r;
}

static int content(struct job *j, struct pc_err *reterr) {
        return pc_filler_run(j->filler, reterr);
}

static int pack(struct job *j, struct pc_err *reterr) {
        return pc_split_pack(j->text, j->opts.split_fd, reterr);
}

static void set_limits(struct pc_untar_limits *l) {
        const struct pc_untar_limits defaults = {.entries = 10000000,
                                                 .bytes = UINT64_C(1) << 40,
                                                 .path = 4095,
                                                 .depth = 2048,
                                                 .special = 1 << 20,
                                                 .sparse = 1 << 18,
                                                 .window_log = 27};
        l->entries = l->entries ? l->entries : defaults.entries;
        l->bytes = l->bytes ? l->bytes : defaults.bytes;
        l->path = l->path ? l->path : defaults.path;
        l->depth = l->depth ? l->depth : defaults.depth;
        l->special = l->special ? l->special : defaults.special;
        l->sparse = l->sparse ? l->sparse : defaults.sparse;
        l->window_log = l->window_log ? l->window_log : defaults.window_log;
        if (l->window_log < 10)
                l->window_log = 10;
        if (l->window_log > 31)
                l->window_log = 31;
}

static void job_free(struct job *j) {
        pc_filler_free(j->filler);
        pc_ring_free(j->in);
        pc_ring_free(j->tar);
        pc_ring_free(j->text);
        pc_split_free(j->archive.split);
        pc_idset_free(j->archive.uids);
        pc_idset_free(j->archive.gids);
        pc_closep(&j->wake);
        pc_closep(&j->done);
        (void) pthread_mutex_destroy(&j->lock);
        free(j);
}

static struct job *job_new(const struct pc_untar_opts *opts, struct pc_err *reterr) {
        struct job *j = calloc(1, sizeof *j);
        if (!j) {
                (void) pc_fail(reterr, ENOMEM, "unpack", NULL);
                return NULL;
        }
        (void) pthread_mutex_init(&j->lock, NULL);
        j->opts = *opts;
        set_limits(&j->opts.limits);
        j->in = pc_ring_new(IN_BLOCKS, IN_SIZE, 1);
        j->tar = pc_ring_new(TAR_BLOCKS, TAR_SIZE, PC_RING_READERS);
        j->filler = j->tar ? pc_filler_new(j->tar, 2) : NULL;
        j->text = pc_ring_new(TEXT_BLOCKS, TEXT_SIZE, 1);
        j->wake = eventfd(0, EFD_CLOEXEC);
        j->done = eventfd(0, EFD_CLOEXEC);
        int code = j->wake < 0 || j->done < 0 ? errno : ENOMEM;
        j->archive = (struct pc_archive){.opts = &j->opts,
                                         .limits = &j->opts.limits,
                                         .tar = j->tar,
                                         .reader = 1,
                                         .filler = j->filler,
                                         .split = opts->split_fd >= 0 && j->text ? pc_split_new(j->text) : NULL,
                                         .uids = pc_idset_new(),
                                         .gids = pc_idset_new()};
        if (j->in && j->tar && j->filler && j->text && j->wake >= 0 && j->done >= 0 && j->archive.uids &&
            j->archive.gids && (opts->split_fd < 0 || j->archive.split))
                return j;
        job_free(j);
        (void) pc_fail(reterr, code, "unpack", NULL);
        return NULL;
}

/* Until the last stage has ended; a cancel request on the way fails the job. */
static void supervise(struct job *j) {
        struct pollfd p[2] = {{.fd = j->done, .events = POLLIN}, {.fd = j->opts.cancel_fd, .events = POLLIN}};
        for (;;) {
                if (poll(p, 2, -1) < 0)
                        continue; /* EINTR */
                if (p[0].revents)
                        return;
                if (p[1].revents) {
                        struct pc_err err;
                        (void) pc_fail(&err, ECANCELED, "unpack", NULL);
                        fail(j, &err);
                        p[1].fd = -1;
                }
        }
}

static void run_stages(struct job *j) {
        struct stage stages[STAGES] = {
            {.job = j, .name = "untar-source", .run = source}, {.job = j, .name = "untar-inflate", .run = decompress},
            {.job = j, .name = "untar-digest", .run = digest}, {.job = j, .name = "untar-apply", .run = entries},
            {.job = j, .name = "untar-fill", .run = content},  {.job = j, .name = "untar-split", .run = pack}};
        int n = j->opts.split_fd >= 0 ? STAGES : STAGES - 1, started = 0;
        sigset_t all, old;
        pthread_attr_t attr;
        /* Signals are the daemon's business. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &old);
        (void) pthread_attr_init(&attr);
        (void) pthread_attr_setstacksize(&attr, STACK);
        atomic_store(&j->running, n);
        for (; started < n; started++) {
                int code = pthread_create(&stages[started].thread, &attr, stage_main, &stages[started]);
                if (code != 0) {
                        struct pc_err err;
                        (void) pc_fail(&err, code, "start thread", NULL);
                        fail(j, &err);
                        if (atomic_fetch_sub(&j->running, n - started) == n - started)
                                wake(j->done);
                        break;
                }
        }
        (void) pthread_attr_destroy(&attr);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        supervise(j);
        for (int i = 0; i < started; i++)
                (void) pthread_join(stages[i].thread, NULL);
}

static int results(struct job *j, struct pc_untar_result *ret, struct pc_err *reterr) {
        struct pc_untar_result r = {.compressed_size = j->compressed_size,
                                    .diff_size = j->diff_size,
                                    .entries = j->archive.entries,
                                    .xattrs_skipped = j->archive.xattrs_skipped,
                                    .compression = pc_codec_name((enum pc_codec_kind) j->kind),
                                    .split_complete = j->archive.split_complete};
        memcpy(r.diff_sha, j->diff_sha, sizeof r.diff_sha);
        memcpy(r.compressed_sha, j->kind == PC_CODEC_NONE ? j->diff_sha : j->compressed_sha, sizeof r.compressed_sha);
        r.uids = pc_idset_sorted(j->archive.uids, &r.n_uids);
        r.gids = pc_idset_sorted(j->archive.gids, &r.n_gids);
        if (!r.uids || !r.gids) {
                pc_untar_result_done(&r);
                return pc_fail(reterr, ENOMEM, "set of owners", NULL);
        }
        *ret = r;
        return 0;
}

int pc_untar(const struct pc_untar_opts *opts, struct pc_untar_result *ret, struct pc_err *reterr) {
        struct job *j = job_new(opts, reterr);
        if (!j)
                return reterr ? -reterr->code : -ENOMEM;
        run_stages(j);
        int r = 0;
        if (j->failed) {
                if (reterr)
                        *reterr = j->err;
                r = -j->err.code;
        } else {
                r = results(j, ret, reterr);
        }
        job_free(j);
        return r;
}

void pc_untar_result_done(struct pc_untar_result *r) {
        if (!r)
                return;
        free(r->uids);
        free(r->gids);
        r->uids = r->gids = NULL;
        r->n_uids = r->n_gids = 0;
}
