// SRC: csrc/untar/*.c
// LIBS: -lisal -lzstd -lcrypto -lbz2 -llzma
/* Whole layers: any bytes through the decoder and the archive reader onto a directory, then back to the tar.
 *
 * The first byte holds switches: 1 repairs header checksums, 2 leaves the root alone, 4 the input is compressed, 8 once
 * more with a filler beside. Checked: nothing appears or changes beside the target, metadata that claims to be complete
 * gives the tar back, and with a filler or without the tree is the same. */
#include "common/fd.h"
#include "common/io.h"
#include "common/path.h"
#include "tar_mutator.h"
#include "untar/archive.h"
#include "untar/codec.h"
#include "untar/dirs.h"
#include "untar/filler.h"
#include "untar/header.h"
#include "untar/idset.h"
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);

/* Rings and buffers come and go with every input: freed ones that are kept for long are page faults all the time. */
const char *__asan_default_options(void) {
        return "quarantine_size_mb=4";
}

enum { PLAIN_MAX = 256 << 10, TEXT = 64 << 10 };

static int base = -1; /* holds "in" (targets) and "out" (what must stay as it is) */
static struct stat outside;

static void check(bool good) {
        if (!good)
                abort();
}

static void clean_up(void) {
        struct pc_err err;
        int shm = open("/dev/shm", O_RDONLY | O_DIRECTORY);
        char name[64];
        (void) snprintf(name, sizeof name, "fuzz-untar-%d", (int) getpid());
        (void) pc_dirs_remove(shm, name, &err);
        (void) close(shm);
}

static void set_up(void) {
        char name[64];
        (void) snprintf(name, sizeof name, "/dev/shm/fuzz-untar-%d", (int) getpid());
        check(mkdir(name, 0700) == 0);
        (void) atexit(clean_up);
        base = open(name, O_RDONLY | O_DIRECTORY);
        check(mkdirat(base, "out", 0755) == 0);
        int fd = openat(base, "out/secret", O_WRONLY | O_CREAT, 0644);
        check(fd >= 0 && write(fd, "secret", 6) == 6);
        (void) close(fd);
        check(fstatat(base, "out/secret", &outside, 0) == 0);
        check(unshare(CLONE_FS) == 0);
        (void) umask(0);
}

static size_t entries_of(int dirfd, const char *name) {
        size_t n = 0;
        DIR *d = fdopendir(openat(dirfd, name, O_RDONLY | O_DIRECTORY));
        check(d != NULL);
        while (readdir(d))
                n++;
        (void) closedir(d);
        return n - 2;
}

/* As a reader would walk: header, data, header. */
static void repair(uint8_t *p, size_t n) {
        for (size_t at = 0; at + PC_TAR_BLOCK <= n;) {
                uint8_t *b = p + at;
                bool zero = true;
                for (int i = 0; i < PC_TAR_BLOCK && zero; i++)
                        zero = b[i] == 0;
                at += PC_TAR_BLOCK;
                if (zero)
                        continue;
                mut_sum(b);
                int64_t size;
                if (!pc_tar_header_only((char) b[156]) && pc_tar_number(b + 124, 12, &size) && size > 0 &&
                    size < PLAIN_MAX)
                        at += ((size_t) size + PC_TAR_BLOCK - 1) / PC_TAR_BLOCK * PC_TAR_BLOCK;
        }
}

/* What p holds, in a buffer of its own size, so that the sanitizer sees a byte too many. */
static uint8_t *plain(const uint8_t *p, size_t n, size_t *ret_n) {
        static uint8_t room[PLAIN_MAX];
        struct pc_err err;
        struct pc_codec *c = pc_codec_new(pc_codec_detect(p, n), 20);
        struct pc_span s = {.in = p, .in_left = n, .out = room, .out_left = PLAIN_MAX, .last = true};
        check(c != NULL);
        for (size_t before = SIZE_MAX; s.out_left > 0 && s.in_left + s.out_left != before;) {
                before = s.in_left + s.out_left;
                if (pc_codec_run(c, &s, &err) < 0)
                        break;
        }
        check(s.out_left <= PLAIN_MAX && s.in_left <= n);
        pc_codec_free(c);
        *ret_n = PLAIN_MAX - s.out_left;
        uint8_t *out = malloc(*ret_n + !*ret_n);
        check(out != NULL);
        memcpy(out, room, *ret_n);
        return out;
}

static void give_back(int split, int target, const uint8_t *tar, size_t n) {
        struct pc_err err;
        _cleanup_fd_ int out = memfd_create("tar", MFD_CLOEXEC);
        uint8_t sha[32];
        uint64_t size = 0;
        check(lseek(split, 0, SEEK_SET) == 0);
        int r = pc_tarsplit_assemble((int[]){split, target, out, -1}, sha, &size, &err);
        check(r == 0 && size == n);
        if (n == 0)
                return;
        void *again = mmap(NULL, n, PROT_READ, MAP_SHARED, out, 0);
        check(again != MAP_FAILED && memcmp(again, tar, n) == 0);
        (void) munmap(again, n);
}

static uint64_t mix(uint64_t sum, const void *p, size_t n) {
        for (size_t i = 0; i < n; i++)
                sum = (sum ^ ((const uint8_t *) p)[i]) * UINT64_C(1099511628211);
        return sum;
}

/* A sum of everything about an entry, and of what is below it in any order. */
static uint64_t state(int at, const char *name, int depth) {
        struct stat st;
        check(fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && depth < 500);
        bool file = S_ISREG(st.st_mode); /* others may have the time of their making */
        uint64_t about[] = {st.st_mode,
                            st.st_uid,
                            st.st_gid,
                            st.st_rdev,
                            st.st_nlink,
                            S_ISDIR(st.st_mode) ? 0 : (uint64_t) st.st_size,
                            file ? (uint64_t) st.st_atim.tv_sec : 0,
                            file ? (uint64_t) st.st_atim.tv_nsec : 0,
                            file ? (uint64_t) st.st_mtim.tv_sec : 0,
                            file ? (uint64_t) st.st_mtim.tv_nsec : 0};
        uint64_t sum = mix(mix(UINT64_C(14695981039346656037), name, strlen(name)), about, sizeof about);
        char buf[4096];
        ssize_t n;
        if (S_ISLNK(st.st_mode) && (n = readlinkat(at, name, buf, sizeof buf)) > 0)
                return mix(sum, buf, (size_t) n);
        if (!file && !S_ISDIR(st.st_mode))
                return sum;
        int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC);
        check(fd >= 0);
        if (file) {
                /* What a sparse file does not have would take minutes to read. */
                for (off_t from = 0, to; (from = lseek(fd, from, SEEK_DATA)) >= 0; from = to) {
                        to = lseek(fd, from, SEEK_HOLE);
                        for (off_t o = from; o < to && (n = pread(fd, buf, sizeof buf, o)) > 0; o += n)
                                sum = mix(sum, buf, (size_t) n);
                }
                (void) close(fd);
                return sum;
        }
        DIR *d = fdopendir(fd);
        check(d != NULL);
        for (struct dirent *e; (e = readdir(d));)
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                        sum += state(fd, e->d_name, depth + 1);
        (void) closedir(d);
        return sum;
}

struct fill {
        struct pc_filler *filler;
        int result;
        struct pc_err err;
};

static void *fill(void *arg) {
        struct fill *f = arg;
        f->result = pc_filler_run(f->filler, &f->err);
        if (f->result < 0) /* as its owner does, who tells everybody */
                pc_filler_abort(f->filler);
        return NULL;
}

/* 0 or the error; *ret_state of a whole tree. */
static int unpack(const uint8_t *tar, size_t n, bool keep_root, bool beside, uint64_t *ret_state) {
        struct pc_err err = {0};
        check(mkdirat(base, "in", 0755) == 0);
        _cleanup_fd_ int target = openat(base, "in", O_RDONLY | O_DIRECTORY);
        struct pc_untar_opts opts = {.src_fd = -1, .target_fd = target, .cancel_fd = -1, .keep_root = keep_root};
        opts.limits = (struct pc_untar_limits){
            .entries = 500, .bytes = 1 << 20, .path = 4095, .depth = 64, .special = 64 << 10, .sparse = 64};
        struct pc_ring *in = pc_ring_new(1 + (unsigned) (n / 3000), 4096, beside ? 2 : 1),
                       *text = pc_ring_new(40, TEXT, 1);
        check(in && text);
        for (size_t at = 0; at < n; at += 3000) { /* blocks that are no multiple of a tar block */
                uint8_t *block;
                size_t some = n - at < 3000 ? n - at : 3000;
                check(pc_ring_claim(in, &block) == 0);
                memcpy(block, tar + at, some);
                pc_ring_publish(in, some);
        }
        pc_ring_end(in);
        struct fill f = {.filler = beside ? pc_filler_new(in, 1) : NULL};
        pthread_t thread;
        check(!beside || (f.filler && pthread_create(&thread, NULL, fill, &f) == 0));
        struct pc_archive a = {.opts = &opts,
                               .limits = &opts.limits,
                               .tar = in,
                               .split = pc_split_new(text),
                               .filler = f.filler,
                               .exact_umask = true,
                               .uids = pc_idset_new(),
                               .gids = pc_idset_new()};
        int r = pc_archive_run(&a, &err);
        check(r == 0 || (r < 0 && err.code == -r && err.step));
        check(a.entries <= 500);
        if (beside) {
                if (r == 0)
                        pc_filler_end(f.filler);
                else
                        pc_filler_abort(f.filler);
                (void) pthread_join(thread, NULL);
                if (f.result < 0 && f.result != -ECANCELED && (r == 0 || r == -ECANCELED))
                        r = f.result;
        }
        pc_filler_free(f.filler);
        if (r == 0)
                *ret_state = state(base, "in", 0);
        if (r == 0 && a.split_complete) {
                _cleanup_fd_ int split = memfd_create("split", MFD_CLOEXEC);
                check(pc_split_pack(text, split, &err) == 0);
                give_back(split, target, tar, n);
        }
        pc_split_free(a.split);
        pc_idset_free(a.uids);
        pc_idset_free(a.gids);
        pc_ring_free(in);
        pc_ring_free(text);
        return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct pc_err err;
        if (base < 0)
                set_up();
        if (size < 1 || size > PLAIN_MAX)
                return 0;
        size_t n = size - 1;
        uint8_t *tar;
        if (data[0] & 4) {
                tar = plain(data + 1, n, &n);
        } else {
                tar = malloc(n ? n : 1);
                check(tar != NULL);
                memcpy(tar, data + 1, n);
        }
        if (data[0] & 1)
                repair(tar, n);
        uint64_t one = 0, two = 0;
        int r = unpack(tar, n, data[0] & 2, false, &one);
        check(pc_dirs_remove(base, "in", &err) == 0);
        if (data[0] & 8) {
                check(unpack(tar, n, data[0] & 2, true, &two) == r && one == two);
                check(pc_dirs_remove(base, "in", &err) == 0);
        }
        free(tar);
        struct stat now;
        check(fstatat(base, "out/secret", &now, 0) == 0);
        check(now.st_nlink == 1 && now.st_ctim.tv_sec == outside.st_ctim.tv_sec &&
              now.st_ctim.tv_nsec == outside.st_ctim.tv_nsec);
        check(entries_of(base, ".") == 1 && entries_of(base, "out") == 1);
        return 0;
}

/* Half of the time the fuzzer's own changes, else ones that know what a layer is; see tar_mutator.h. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
        mut_state = seed;
        if (size < 1 || size > PLAIN_MAX || mut_next() % 2)
                return LLVMFuzzerMutate(data, size, max);
        if (!(data[0] & 4))
                return 1 + mut_tar(data + 1, size - 1, max - 1);
        size_t n, made = 0;
        enum pc_codec_kind kind = pc_codec_detect(data + 1, size - 1);
        if (kind == PC_CODEC_NONE)
                return LLVMFuzzerMutate(data, size, max);
        static uint8_t room[PLAIN_MAX];
        uint8_t *tar = plain(data + 1, size - 1, &n);
        memcpy(room, tar, n);
        free(tar);
        n = mut_tar(room, n, PLAIN_MAX);
        made = mut_compress(mut_next() % 4 ? kind : PC_CODEC_GZIP + mut_next() % 2, room, n, data + 1, max - 1);
        return made ? 1 + made : LLVMFuzzerMutate(data, size, max);
}
