// SRC: csrc/untar/*.c
// LIBS: -lisal -lzstd -lcrypto -lbz2 -llzma
/* Whole extractions from C, under the sanitizers: threads, rings, cancellation, errors, and the way back to the tar. */
#include "common/fd.h"
#include "common/io.h"
#include "scratch.h"
#include "tap.h"
#include "untar/ring.h"
#include "untar/untar.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/test_untar.XXXXXX";

/* A file with n bytes of data as a member; returns what it took. */
static size_t member(uint8_t *to, const char *name, size_t n) {
        unsigned sum = 0;
        memset(to, 0, 512);
        (void) snprintf((char *) to, 100, "%s", name);
        memcpy(to + 100, "0000640\0000000000\0000000000", 23);
        (void) snprintf((char *) to + 124, 12, "%011zo", n);
        memcpy(to + 136, "00000000007", 11);
        to[156] = '0';
        memcpy(to + 257, "ustar\00000", 8);
        memset(to + 148, ' ', 8);
        for (int i = 0; i < 512; i++)
                sum += to[i];
        (void) snprintf((char *) to + 148, 8, "%06o", sum);
        for (size_t i = 0; i < n; i++)
                to[512 + i] = (uint8_t) (i * 31 + n);
        memset(to + 512 + n, 0, -n & 511);
        return 512 + n + (-n & 511);
}

static int tar_file(size_t *ret_n) {
        int fd = memfd_create("tar", MFD_CLOEXEC);
        uint8_t *buf = malloc(3 << 20);
        size_t all = 0;
        for (int i = 0; i < 300; i++) {
                char name[64];
                (void) snprintf(name, sizeof name, "d%d/e%d/f%d", i % 70, i % 7, i);
                size_t n = member(buf, name, (size_t) i % 50 == 0 ? (2u << 20) + (size_t) i : (size_t) i * 97);
                if (pc_write_all(fd, buf, n) < 0)
                        abort();
                all += n;
        }
        memset(buf, 0, 1024);
        if (pc_write_all(fd, buf, 1024) < 0)
                abort();
        free(buf);
        *ret_n = all + 1024;
        return fd;
}

static void there_and_back(void) {
        size_t n;
        struct pc_err err;
        struct pc_untar_result r;
        _cleanup_fd_ int tar = tar_file(&n), target = fresh(dir, "whole"), split = memfd_create("split", MFD_CLOEXEC),
                         out = memfd_create("out", MFD_CLOEXEC);
        struct pc_untar_opts o = {.src_fd = tar, .target_fd = target, .split_fd = split, .cancel_fd = -1};
        (void) lseek(tar, 0, SEEK_SET);
        int x = pc_untar(&o, &r, &err);
        ok(x == 0 && r.entries == 300 && r.diff_size == n && strcmp(r.compression, "none") == 0 && r.split_complete,
           "a plain layer");
        ok(x == 0 && memcmp(r.diff_sha, r.compressed_sha, 32) == 0 && r.n_uids == 1 && r.uids[0] == 0,
           "its digests, its owners");
        pc_untar_result_done(&r);
        pc_untar_result_done(NULL);
        uint8_t sha[32];
        uint64_t size = 0;
        (void) lseek(split, 0, SEEK_SET);
        x = pc_tarsplit_assemble((int[]){split, target, out, -1}, sha, &size, &err);
        ok(x == 0 && size == n && memcmp(sha, r.diff_sha, 32) == 0, "and back to the tar");
}

struct feed {
        int fd, cancel;
};

static void *feed(void *arg) {
        const struct feed *f = arg;
        uint8_t block[600];
        (void) member(block, "only", 0);
        if (pc_write_all(f->fd, block, 300) < 0 || pc_write_all(f->cancel, "!", 1) < 0)
                abort();
        return NULL;
}

static void cancel(void) {
        int data[2], stop[2];
        struct pc_err err;
        struct pc_untar_result r;
        pthread_t thread;
        if (pipe2(data, O_CLOEXEC) < 0 || pipe2(stop, O_CLOEXEC) < 0)
                abort();
        _cleanup_fd_ int target = fresh(dir, "cancel");
        struct pc_untar_opts o = {.src_fd = data[0], .target_fd = target, .split_fd = -1, .cancel_fd = stop[0]};
        struct feed f = {data[1], stop[1]};
        if (pthread_create(&thread, NULL, feed, &f) != 0)
                abort();
        ok(pc_untar(&o, &r, &err) == -ECANCELED && err.code == ECANCELED, "a cancel while the source is silent");
        (void) pthread_join(thread, NULL);
        for (int i = 0; i < 2; i++) {
                (void) close(data[i]);
                (void) close(stop[i]);
        }
}

static void errors(void) {
        size_t n;
        struct pc_err err;
        struct pc_untar_result r;
        _cleanup_fd_ int tar = tar_file(&n), target = fresh(dir, "errors"),
                         full = open("/dev/full", O_WRONLY | O_CLOEXEC);
        struct pc_untar_opts o = {.src_fd = tar, .target_fd = target, .split_fd = full, .cancel_fd = -1};
        (void) lseek(tar, 0, SEEK_SET);
        ok(pc_untar(&o, &r, &err) == -ENOSPC && strstr(err.step, "tar-split"), "tar-split on a full disk");
        o.split_fd = -1;
        o.limits.bytes = n / 2;
        _cleanup_fd_ int half = fresh(dir, "half");
        o.target_fd = half;
        (void) lseek(tar, 0, SEEK_SET);
        ok(pc_untar(&o, &r, &err) == -EFBIG, "a limit in the middle");
        o.src_fd = target;
        ok(pc_untar(&o, &r, &err) == -EISDIR && err.step, "a source that cannot be read");
        o.src_fd = tar;
        o.target_fd = tar;
        o.limits.bytes = 0;
        (void) lseek(tar, 0, SEEK_SET);
        ok(pc_untar(&o, &r, &err) == -ENOTDIR, "a target that is no directory");
}

struct reader {
        struct pc_ring *ring;
        unsigned n;
        uint64_t sum;
};

static void *drain(void *arg) {
        struct reader *r = arg;
        const uint8_t *p;
        size_t n;
        while (pc_ring_peek(r->ring, r->n, &p, &n) == 1) {
                for (size_t i = 0; i < n; i++)
                        r->sum = r->sum * 3 + p[i];
                pc_ring_release(r->ring, r->n);
        }
        return NULL;
}

static void ring(void) {
        struct pc_ring *g = pc_ring_new(3, 64, 2);
        struct reader readers[2] = {{g, 0, 0}, {g, 1, 0}};
        pthread_t t[2];
        uint64_t sum = 0;
        for (int i = 0; i < 2; i++)
                if (pthread_create(&t[i], NULL, drain, &readers[i]) != 0)
                        abort();
        for (int i = 0; i < 5000; i++) {
                uint8_t *p;
                size_t n = (size_t) i % 65;
                if (pc_ring_claim(g, &p) < 0)
                        abort();
                for (size_t k = 0; k < n; k++) {
                        p[k] = (uint8_t) (i + (int) k);
                        sum = sum * 3 + p[k];
                }
                pc_ring_publish(g, n);
        }
        pc_ring_end(g);
        for (int i = 0; i < 2; i++)
                (void) pthread_join(t[i], NULL);
        ok(readers[0].sum == sum && readers[1].sum == sum, "every reader of a ring sees everything in order");
        uint8_t *p;
        pc_ring_abort(g);
        ok(pc_ring_claim(g, &p) == -ECANCELED, "an aborted ring gives no blocks");
        pc_ring_free(g);
        pc_ring_free(NULL);
}

int main(void) {
        if (!mkdtemp(dir))
                return 1;
        there_and_back();
        cancel();
        errors();
        ring();
        char command[100];
        (void) snprintf(command, sizeof command, "rm -rf %s", dir);
        ok(system(command) == 0, "cleaned up");
        return done_testing();
}
