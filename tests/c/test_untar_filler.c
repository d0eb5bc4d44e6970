// SRC: csrc/untar/*.c
// LIBS: -lisal -lzstd -lcrypto -lbz2 -llzma
/* Files are made by one thread and filled by another: what comes later in the archive must not see them half done, and
 * what goes wrong while they are filled is told as it is. */
#include "common/fd.h"
#include "common/io.h"
#include "scratch.h"
#include "tap.h"
#include "untar/untar.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/test_filler.XXXXXX";

struct what {
        char type;
        const char *link;
        unsigned mode, mtime;
        size_t n;
        uint8_t seed;
};

static void put(int fd, const char *name, struct what w) {
        static uint8_t to[512 + (3 << 20)];
        unsigned sum = 0;
        memset(to, 0, 512);
        (void) snprintf((char *) to, 100, "%s", name);
        (void) snprintf((char *) to + 100, 8, "%07o", w.mode);
        memcpy(to + 108, "0000000\0000000000", 15);
        (void) snprintf((char *) to + 124, 12, "%011zo", w.n);
        (void) snprintf((char *) to + 136, 12, "%011o", w.mtime);
        to[156] = (uint8_t) w.type;
        (void) snprintf((char *) to + 157, 100, "%s", w.link ? w.link : "");
        memcpy(to + 257, "ustar\00000", 8);
        memset(to + 148, ' ', 8);
        for (int i = 0; i < 512; i++)
                sum += to[i];
        (void) snprintf((char *) to + 148, 8, "%06o", sum);
        memset(to + 512, w.seed, w.n);
        memset(to + 512 + w.n, 0, -w.n & 511);
        if (pc_write_all(fd, to, 512 + w.n + (-w.n & 511)) < 0)
                abort();
}

static int begin(void) {
        return memfd_create("tar", MFD_CLOEXEC);
}

static void end(int fd) {
        static const uint8_t zeros[1024];
        if (pc_write_all(fd, zeros, sizeof zeros) < 0 || lseek(fd, 0, SEEK_SET) != 0)
                abort();
}

static int extract(int tar, int target, struct pc_untar_result *r, struct pc_err *err) {
        struct pc_untar_opts o = {.src_fd = tar, .target_fd = target, .split_fd = -1, .cancel_fd = -1};
        *err = (struct pc_err){0};
        return pc_untar(&o, r, err);
}

static bool is(int at, const char *name, struct what w, nlink_t links) {
        struct stat st;
        _cleanup_fd_ int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        bool good = fd >= 0 && fstat(fd, &st) == 0 && st.st_size == (off_t) w.n && (st.st_mode & 07777) == w.mode &&
                    st.st_mtim.tv_sec == w.mtime && st.st_nlink == links;
        uint8_t block[4096];
        for (ssize_t got; good && (got = read(fd, block, sizeof block)) > 0;)
                for (ssize_t i = 0; i < got; i++)
                        good = good && block[i] == w.seed;
        if (!good)
                printf("# %s is not as it should be\n", name);
        return good;
}

enum { MANY = 700 };

static struct what file(int i) {
        return (struct what){'0', NULL, 0640, (unsigned) (1000 + i), (size_t) (i * 37 % 3000), (uint8_t) i};
}

/* A further name directly behind its file, with a mode and time of its own: the last word counts. */
static void links(void) {
        int tar = begin();
        struct pc_untar_result r;
        struct pc_err err;
        put(tar, "d/", (struct what){'5', NULL, 0755, 5, 0, 0});
        put(tar, "s", (struct what){'2', "d", 0777, 5, 0, 0});
        for (int i = 0; i < MANY; i++) {
                char name[32], other[32];
                (void) snprintf(name, sizeof name, "d/f%d", i);
                (void) snprintf(other, sizeof other, "l%d", i);
                put(tar, name, file(i));
                /* Every other one by way of a link to the directory: it is the file that is waited for, not its name.
                 */
                if (i % 2)
                        name[0] = 's';
                put(tar, other, (struct what){'1', name, 0600, (unsigned) (5000 + i), 0, 0});
        }
        end(tar);
        _cleanup_fd_ int target = fresh(dir, "links");
        bool good = extract(tar, target, &r, &err) == 0 && r.split_complete;
        for (int i = 0; good && i < MANY; i++) {
                char name[32];
                struct what w = file(i);
                w.mode = 0600;
                w.mtime = (unsigned) (5000 + i);
                (void) snprintf(name, sizeof name, "l%d", i);
                good = is(target, name, w, 2);
        }
        struct stat st;
        ok(good, "hard links directly behind their files");
        ok(fstatat(target, "d", &st, 0) == 0 && st.st_mtim.tv_sec == 5, "the directory's time comes last");
        pc_untar_result_done(&r);
        (void) close(tar);
}

/* Every name twice, at once; an empty first one loses nothing, one with content does. */
static void twice(bool empty) {
        int tar = begin();
        struct pc_untar_result r;
        struct pc_err err;
        for (int i = 0; i < MANY; i++) {
                char name[32];
                (void) snprintf(name, sizeof name, "f%d", i);
                put(tar, name, (struct what){'0', NULL, 0600, 3, empty ? 0 : 2000, 'x'});
                put(tar, name, file(i));
        }
        end(tar);
        _cleanup_fd_ int target = fresh(dir, empty ? "twice-empty" : "twice");
        bool good = extract(tar, target, &r, &err) == 0 && r.split_complete == empty;
        for (int i = 0; good && i < MANY; i++) {
                char name[32];
                (void) snprintf(name, sizeof name, "f%d", i);
                good = is(target, name, file(i), 1);
        }
        ok(good, empty ? "every name twice, first without content" : "every name twice");
        pc_untar_result_done(&r);
        (void) close(tar);
}

/* Larger than all rings, between small ones, and a directory in the place of a file just given. */
static void large(void) {
        int tar = begin();
        struct pc_untar_result r;
        struct pc_err err;
        struct what big = {'0', NULL, 04755, 77, (3 << 20) - 5, 'b'};
        for (int i = 0; i < 9; i++) {
                char name[32];
                (void) snprintf(name, sizeof name, "big%d", i);
                put(tar, name, big);
                (void) snprintf(name, sizeof name, "f%d", i);
                put(tar, name, file(i));
                (void) snprintf(name, sizeof name, "f%d/", i + 1);
                if (i % 3 == 0)
                        put(tar, name, (struct what){'5', NULL, 0711, 9, 0, 0});
        }
        end(tar);
        _cleanup_fd_ int target = fresh(dir, "large");
        bool good = extract(tar, target, &r, &err) == 0;
        for (int i = 0; good && i < 9; i++) {
                char name[32];
                (void) snprintf(name, sizeof name, "big%d", i);
                good = is(target, name, big, 1);
                (void) snprintf(name, sizeof name, "f%d", i);
                good = good && is(target, name, file(i), 1);
        }
        ok(good, "files larger than the rings");
        pc_untar_result_done(&r);
        (void) close(tar);
}

static void full_disk(void) {
        char path[200];
        struct pc_untar_result r;
        struct pc_err err;
        int before = entries("/proc/self/fd"), wrong = 0;
        (void) snprintf(path, sizeof path, "%s/full", dir);
        for (int round = 0; round < 20; round++) {
                int tar = begin();
                for (int i = 0; i < 400; i++) {
                        char name[32];
                        (void) snprintf(name, sizeof name, "f%d", i);
                        put(tar, name, (struct what){'0', NULL, 0600, 3, (size_t) (8000 + round * 1000), 'x'});
                }
                end(tar);
                if (mkdir(path, 0755) < 0 || mount("tmpfs", path, "tmpfs", 0, "size=1m") < 0)
                        abort();
                int target = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                int x = extract(tar, target, &r, &err);
                if (x != -ENOSPC || strcmp(err.step, "write file") != 0 || err.path[0] != 'f') {
                        printf("# %d: %s %s\n", x, err.step, err.path);
                        wrong++;
                }
                (void) close(target);
                (void) close(tar);
                (void) umount2(path, MNT_DETACH);
                (void) rmdir(path);
        }
        ok(wrong == 0, "a full disk is the error that is told, with the file");
        ok(entries("/proc/self/fd") == before, "and no descriptor stays");
}

static void few_descriptors(void) {
        struct pc_untar_result r;
        struct pc_err err;
        struct rlimit old, few;
        int tar = begin();
        for (int i = 0; i < MANY; i++) {
                char name[32];
                (void) snprintf(name, sizeof name, "d%d/f%d", i / 300, i);
                if (i % 300 == 200) { /* a directory with an entry of its own */
                        char other[32];
                        (void) snprintf(other, sizeof other, "d%d/e/", i / 300);
                        put(tar, other, (struct what){'5', NULL, 0755, 5, 0, 0});
                }
                put(tar, name, file(i));
        }
        end(tar);
        _cleanup_fd_ int target = fresh(dir, "few");
        getrlimit(RLIMIT_NOFILE, &old);
        few = (struct rlimit){(rlim_t) entries("/proc/self/fd") + 16, old.rlim_max};
        setrlimit(RLIMIT_NOFILE, &few);
        int x = extract(tar, target, &r, &err);
        setrlimit(RLIMIT_NOFILE, &old);
        if (x < 0)
                printf("# %d: %s %s\n", x, err.step, err.path);
        bool good = x == 0;
        for (int i = 0; good && i < MANY; i++) {
                char name[32];
                (void) snprintf(name, sizeof name, "d%d/f%d", i / 300, i);
                good = is(target, name, file(i), 1);
        }
        ok(good, "with few descriptors left it waits for those in use");
        if (x == 0)
                pc_untar_result_done(&r);
        (void) close(tar);
}

static void cut_off(void) {
        struct pc_untar_result r;
        struct pc_err err;
        int wrong = 0;
        for (int round = 0; round < 40; round++) {
                int tar = begin();
                for (int i = 0; i <= round; i++)
                        put(tar, "f", file(i + 1));
                off_t all = lseek(tar, 0, SEEK_END);
                char name[32];
                (void) snprintf(name, sizeof name, "cut%d", round);
                _cleanup_fd_ int target = fresh(dir, name);
                if (ftruncate(tar, all - 300) < 0 || lseek(tar, 0, SEEK_SET) < 0)
                        abort();
                int x = extract(tar, target, &r, &err);
                /* The last padding may be missing, data may not. */
                bool data = 37 * (round + 1) % 3000 % 512 > 212 || 37 * (round + 1) % 3000 % 512 == 0;
                wrong += data ? x != -EBADMSG || strcmp(err.step, "archive is cut off") != 0 : x != 0;
                if (x == 0)
                        pc_untar_result_done(&r);
                (void) close(tar);
        }
        ok(wrong == 0, "an archive that is cut off");
}

int main(void) {
        if (!mkdtemp(dir))
                return 1;
        links();
        twice(false);
        twice(true);
        large();
        full_disk();
        few_descriptors();
        cut_off();
        char command[100];
        (void) snprintf(command, sizeof command, "rm -rf %s", dir);
        (void) !system(command);
        return done_testing();
}
