// SRC: csrc/logmux/sink.c csrc/logmux/frame.c
/* The log file: limits, replacement, rotation, allowed directories, full disk, directory gone. Nothing is ever torn. */
#include "common/fd.h"
#include "logmux/sink.h"
#include "tap.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char dir[64] = "/tmp/test_sink.XXXXXX";
static char work[64 << 10];
static char text[8 << 20];
static const char head[] = "2026-01-02T03:04:05.000000006+00:00 stdout F ";

static const char *at(const char *name) {
        static char path[8][128];
        static int i;
        i = (i + 1) % 8;
        snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
        return path[i];
}

/* Content of a file in text; -1 when it is not there. */
static long slurp(const char *path) {
        FILE *f = fopen(path, "r");
        if (!f)
                return -1;
        size_t n = fread(text, 1, sizeof text - 1, f);
        text[n] = '\0';
        fclose(f);
        return (long) n;
}

/* Every line whole, numbered in order; how many. */
static int whole(const char *path, int from) {
        if (slurp(path) < 0)
                return -1;
        int n = 0;
        for (char *p = text; *p; n++) {
                char want[80];
                int k = snprintf(want, sizeof want, "%sline %05d\n", head, from + n);
                if (strncmp(p, want, (size_t) k) != 0)
                        return -2;
                p += k;
        }
        return n;
}

#define LINE_LEN 56 /* 45 + "line 00000\n" */

static int put_as(struct pc_sink *s, enum pc_put how, int from, int n, struct pc_err *err) {
        static char in[1 << 16];
        size_t k = 0, used = 0;
        for (int i = 0; i < n; i++)
                k += (size_t) snprintf(in + k, sizeof in - k, "line %05d\n", from + i);
        int r = pc_sink_put(s, head, in, k, how, &used, err);
        if (used != k)
                printf("# used %zu of %zu\n", used, k);
        return used == k ? r : -1000;
}

static int put(struct pc_sink *s, int from, int n, struct pc_err *err) {
        return put_as(s, PC_PUT_LINES, from, n, err);
}

static void plain(void) {
        struct pc_sink s;
        struct pc_sink_limits none = {0};
        struct pc_err err;
        struct stat st;
        ok(pc_sink_open(&s, at("plain"), &none, work, sizeof work, &err) == 0 && stat(at("plain"), &st) == 0 &&
               (st.st_mode & 07777) == 0640,
           "a new file has mode 0640");
        ok(put(&s, 0, 3000, &err) == 0 && whole(at("plain"), 0) == 3000, "3000 lines through 64 KiB of work");
        pc_sink_close(&s);
        ok(pc_sink_open(&s, at("plain"), &none, work, sizeof work, &err) == 0 && s.written == 3000 * LINE_LEN,
           "an existing file is counted");
        ok(put(&s, 3000, 1, &err) == 0 && whole(at("plain"), 0) == 3001, "and appended to");
        rename(at("plain"), at("old"));
        ok(pc_sink_reopen(&s, &err) == 0 && put(&s, 0, 2, &err) == 0, "reopened after the file was moved away");
        ok(whole(at("plain"), 0) == 2 && whole(at("old"), 0) == 3001 && access(at("plain.tmp"), F_OK) < 0,
           "the new lines are in the new file, the old ones untouched");
        ok(pc_sink_sync(&s, &err) == 0, "synced");
        size_t used = 9;
        ok(pc_sink_put(&s, head, "abc", 3, PC_PUT_LINES, &used, &err) == 0 && used == 0, "a tail stays");
        ok(pc_sink_put(&s, head, "abc", 3, PC_PUT_ALL, &used, &err) == 0 && used == 3, "until flushed");
        ok(slurp(at("plain")) == 2 * LINE_LEN + 45 + 4 && strstr(text, " stdout P abc\n"), "as a P line");
        pc_sink_close(&s);
        pc_sink_close(&s);
        ok(pc_sink_open(&s, at("no/such"), &none, work, sizeof work, &err) == -ENOENT && strstr(err.path, "no/such"),
           "a missing directory is told");
        struct pc_sink never = PC_SINK_NONE;
        ok(pc_sink_reopen(&never, &err) == 0 && pc_sink_sync(&never, &err) == 0,
           "a sink never opened can be used and closed");
        pc_sink_close(&never);
}

static void size_limit(void) {
        struct pc_sink s;
        struct pc_sink_limits l = {.size_max = 10 * LINE_LEN};
        struct pc_err err;
        ok(pc_sink_open(&s, at("small"), &l, work, sizeof work, &err) == 0 && put(&s, 0, 10, &err) == 0 &&
               whole(at("small"), 0) == 10,
           "a file is filled to the byte");
        ok(put(&s, 10, 1, &err) == 0 && whole(at("small"), 10) == 1, "the next line replaces it");
        ok(put(&s, 11, 1000, &err) == 0, "1000 lines at once");
        ok(whole(at("small"), 1010) == 1, "leave the last file, whole");
        char big[2000];
        memset(big, 'z', sizeof big);
        big[sizeof big - 1] = '\n';
        size_t used;
        ok(pc_sink_put(&s, head, big, sizeof big, PC_PUT_LINES, &used, &err) == 0 && used == sizeof big &&
               slurp(at("small")) == 45 + 2000,
           "a line larger than the limit gets a file of its own");
        ok(put(&s, 0, 1, &err) == 0 && whole(at("small"), 0) == 1, "which the next line replaces");
        pc_sink_close(&s);
}

static void rotation(void) {
        struct pc_sink s;
        char names[4][8] = {"rot", "rot.1", "rot.2", "rot.3"};
        struct pc_sink_limits l = {.size_max = 10 * LINE_LEN, .rotate = true, .keep = 2};
        struct pc_err err;
        ok(pc_sink_open(&s, at("rot"), &l, work, sizeof work, &err) == 0 && put(&s, 0, 35, &err) == 0,
           "35 lines, 10 per file, 2 kept");
        ok(whole(at(names[0]), 30) == 5 && whole(at(names[1]), 20) == 10 && whole(at(names[2]), 10) == 10 &&
               access(at(names[3]), F_OK) < 0,
           "the youngest 25 lines are there, in order, in fit files");
        pc_sink_close(&s);

        mkdir(at("in"), 0755);
        mkdir(at("out"), 0755);
        (void) !symlink(at("out"), at("in/link"));
        const char *allow[] = {"/nonexistent", at("in")};
        l.allow = allow;
        l.nallow = 2;
        ok(pc_sink_open(&s, at("in/a"), &l, work, sizeof work, &err) == 0 && put(&s, 0, 15, &err) == 0 &&
               whole(at("in/a.1"), 0) == 10,
           "rotation inside an allowed directory");
        pc_sink_close(&s);
        char through[128];
        snprintf(through, sizeof through, "%s/in/link/a", dir);
        ok(pc_sink_open(&s, through, &l, work, sizeof work, &err) == 0 && put(&s, 0, 15, &err) == 0 &&
               whole(at("out/a"), 0) == 15 && access(at("out/a.1"), F_OK) < 0,
           "not through a link that leads out of it: the log goes on in the same file");
        ok(pc_sink_reopen(&s, &err) == -EPERM, "and asked to, it says so");
        pc_sink_close(&s);
}

static void total_limit(void) {
        struct pc_sink s;
        struct pc_sink_limits l = {.total_max = 10 * LINE_LEN - 5};
        struct pc_err err;
        ok(pc_sink_open(&s, at("total"), &l, work, sizeof work, &err) == 0 && put(&s, 0, 100, &err) == 0 &&
               whole(at("total"), 0) == 10,
           "what begins below the total is written");
        ok(put(&s, 100, 50, &err) == 0 && whole(at("total"), 0) == 10 && s.dropped == (90 + 50) * 11,
           "the rest is dropped and counted");
        pc_sink_close(&s);
}

static void full_disk(void) {
        struct pc_sink s;
        struct pc_sink_limits none = {0};
        struct pc_err err = {0};
        mkdir(at("full"), 0755);
        if (mount("tmpfs", at("full"), "tmpfs", 0, "size=64k") < 0) {
                ok(false, "tmpfs mounted");
                return;
        }
        ok(pc_sink_open(&s, at("full/log"), &none, work, sizeof work, &err) == 0 && put(&s, 0, 3000, &err) == -ENOSPC &&
               err.code == ENOSPC,
           "a full disk is told");
        int n = whole(at("full/log"), 0);
        printf("# %d lines\n", n);
        ok(n > 1000 && n < 1171, "and leaves whole lines only");
        uint64_t lost = s.dropped;
        ok(put(&s, 0, 1, &err) == 0 && s.failing == ENOSPC && whole(at("full/log"), 0) == n,
           "told once, not for every batch");
        ok(lost > 0 && s.dropped == lost + 11, "the loss is counted");
        (void) !truncate(at("full/log"), 0);
        ok(put(&s, 0, 10, &err) == 0 && whole(at("full/log"), 0) == 10, "with room again the log goes on");
        pc_sink_close(&s);
        (void) umount2(at("full"), MNT_DETACH);
}

static void file_limit(void) {
        struct pc_sink s;
        struct pc_sink_limits none = {0};
        struct pc_err err = {0};
        struct rlimit old, small = {100 * LINE_LEN + 20, RLIM_INFINITY};
        getrlimit(RLIMIT_FSIZE, &old);
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &small);
        ok(pc_sink_open(&s, at("limited"), &none, work, sizeof work, &err) == 0 && put(&s, 0, 300, &err) == -EFBIG,
           "a short write, then EFBIG");
        setrlimit(RLIMIT_FSIZE, &old);
        ok(whole(at("limited"), 0) == 100, "the torn line is cut off again");
        pc_sink_close(&s);
}

static void gone(void) {
        struct pc_sink s;
        struct pc_sink_limits l = {.size_max = 10 * LINE_LEN};
        struct pc_err err;
        mkdir(at("gone"), 0755);
        ok(pc_sink_open(&s, at("gone/log"), &l, work, sizeof work, &err) == 0 && put(&s, 0, 5, &err) == 0,
           "a log in a directory");
        unlink(at("gone/log"));
        rmdir(at("gone"));
        ok(put(&s, 0, 1000, &err) == 0, "that goes away: lines are taken");
        struct stat st;
        ok(fstat(s.fd, &st) == 0 && st.st_size <= 10 * LINE_LEN, "and the file that nobody sees keeps to its limit");
        ok(pc_sink_reopen(&s, &err) == -ENOENT && s.fd >= 0, "reopening fails and keeps the old file");
        mkdir(at("gone"), 0755);
        ok(pc_sink_reopen(&s, &err) == 0 && put(&s, 0, 3, &err) == 0 && whole(at("gone/log"), 0) == 3,
           "until it can be made");
        pc_sink_close(&s);
        (void) symlink("/etc/hostname", at("gone/log.tmp"));
        ok(pc_sink_open(&s, at("gone/log"), &l, work, sizeof work, &err) == 0 && pc_sink_reopen(&s, &err) == -ELOOP,
           "a link in the place of the new file is not followed");
        pc_sink_close(&s);
}

static off_t size_of(const char *path) {
        struct stat st;
        return stat(path, &st) == 0 ? st.st_size : -1;
}

/* While more is to come writes end before the end of a block; nothing is lost whatever comes next. */
static void held(void) {
        struct pc_sink s;
        struct pc_sink_limits none = {0}, some = {.size_max = 1 << 20};
        struct pc_err err;
        const int fit = 32768 / LINE_LEN; /* lines that end within a block */
        ok(pc_sink_open(&s, at("held"), &none, work, sizeof work, &err) == 0 && s.block == 32768,
           "a block for this room");
        ok(put_as(&s, PC_PUT_MORE, 0, 100, &err) == 0 && size_of(at("held")) == 0 && s.held == 100 * LINE_LEN,
           "less than a block is held");
        ok(put_as(&s, PC_PUT_MORE, 100, 900, &err) == 0 && whole(at("held"), 0) == fit &&
               s.held == (size_t) (1000 - fit) * LINE_LEN,
           "lines are written as far as whole blocks reach");
        ok(pc_sink_flush(&s, &err) == 0 && whole(at("held"), 0) == 1000 && s.held == 0, "flushed");
        ok(put_as(&s, PC_PUT_MORE, 1000, 10, &err) == 0 && put(&s, 1010, 10, &err) == 0 && whole(at("held"), 0) == 1020,
           "lines that must be written take along what is held");
        size_t used = 1;
        ok(put_as(&s, PC_PUT_MORE, 1020, 10, &err) == 0 &&
               pc_sink_put(&s, head, "abc", 3, PC_PUT_LINES, &used, &err) == 0 && used == 0 &&
               whole(at("held"), 0) == 1030,
           "also without a line of their own");
        ok(put_as(&s, PC_PUT_MORE, 1030, 5, &err) == 0 && rename(at("held"), at("held.old")) == 0 &&
               pc_sink_reopen(&s, &err) == 0 && whole(at("held.old"), 0) == 1035 && size_of(at("held")) == 0,
           "what is held goes into the file that it was framed for");
        ok(put_as(&s, PC_PUT_MORE, 0, 1000, &err) == 0 && s.held > 0 && pc_sink_sync(&s, &err) == 0 &&
               whole(at("held"), 0) == 1000,
           "synced with the rest");
        (void) put_as(&s, PC_PUT_MORE, 1000, 1, &err);
        pc_sink_close(&s);
        ok(whole(at("held"), 0) == 1001, "and written at the end");
        ok(pc_sink_open(&s, at("held"), &none, work, 2 * PC_LINE_MAX, &err) == 0 && s.block == 0 &&
               put_as(&s, PC_PUT_MORE, 1001, 3, &err) == 0 && whole(at("held"), 0) == 1004,
           "without room for two blocks nothing is held");
        pc_sink_close(&s);
        ok(pc_sink_open(&s, at("limits"), &some, work, sizeof work, &err) == 0 &&
               put_as(&s, PC_PUT_MORE, 0, 3, &err) == 0 && whole(at("limits"), 0) == 3,
           "nor with limits");
        pc_sink_close(&s);
}

/* The disk fills up while lines are held. */
static void full_when_held(void) {
        struct pc_sink s;
        struct pc_sink_limits none = {0};
        struct pc_err err = {0};
        const int fit = 32768 / LINE_LEN;
        if ((mkdir(at("full"), 0755) < 0 && errno != EEXIST) ||
            mount("tmpfs", at("full"), "tmpfs", 0, "size=64k") < 0) {
                ok(false, "tmpfs mounted");
                return;
        }
        ok(pc_sink_open(&s, at("full/log"), &none, work, sizeof work, &err) == 0 &&
               put_as(&s, PC_PUT_MORE, 0, 1100, &err) == 0 && whole(at("full/log"), 0) == fit && s.held > 0,
           "lines are held");
        int fd = open(at("full/other"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ok(fd >= 0 && write(fd, text, 65536) > 0 && close(fd) == 0, "others take the rest");
        ok(pc_sink_flush(&s, &err) == -ENOSPC && s.held == 0, "they cannot be written");
        ok(whole(at("full/log"), 0) == fit && s.written == fit * LINE_LEN, "the one that was begun is cut off");
        ok(s.dropped >= (uint64_t) (1100 - fit) * 11, "the loss is counted");
        (void) unlink(at("full/other"));
        ok(put(&s, fit, 10, &err) == 0 && whole(at("full/log"), 0) == fit + 10, "and with room the log goes on");
        pc_sink_close(&s);
        (void) umount2(at("full"), MNT_DETACH);
}

/* Whoever looks at any moment finds whole lines. */
static bool ends_whole(const char *path) {
        char last = '\n';
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        off_t n = lseek(fd, 0, SEEK_END);
        return n == 0 || (n > 0 && pread(fd, &last, 1, n - 1) == 1 && last == '\n');
}

static unsigned dice(unsigned long *state, unsigned n) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        return (unsigned) (*state >> 33) % n;
}

/* Any order of puts, flushes and reopenings: the files together are what framing alone makes of the same input. */
static void any_order(unsigned seed) {
        static char in[40000], want[8 << 20];
        char path[128], old[128]; /* what at() gives does not last */
        (void) snprintf(path, sizeof path, "%s/any", dir);
        (void) snprintf(old, sizeof old, "%s/any.old", dir);
        struct pc_sink s;
        struct pc_sink_limits none = {0};
        struct pc_err err;
        size_t made = 0, compared = 0, len = 0;
        unsigned long state = seed * 2654435761u + 1;
        bool good = pc_sink_open(&s, path, &none, work, sizeof work, &err) == 0;
        for (int i = 0; i < 1500 && good; i++) {
                unsigned what = dice(&state, 40);
                if (what == 0)
                        good = pc_sink_flush(&s, &err) == 0 && s.held == 0;
                else if (what == 1 || i == 1499) {
                        (void) rename(path, old);
                        long n = pc_sink_reopen(&s, &err) == 0 ? slurp(old) : -1;
                        good = n == (long) (made - compared) && memcmp(text, want + compared, (size_t) n) == 0;
                        compared = made;
                } else {
                        enum pc_put how = what < 25 ? PC_PUT_MORE : what < 36 ? PC_PUT_LINES : PC_PUT_ALL;
                        size_t more = dice(&state, dice(&state, 4) ? 400 : 15000), used = 0, took = 0;
                        for (size_t k = 0; k < more; k++)
                                in[len++] = dice(&state, 60) ? 'x' : '\n';
                        struct pc_frame_limits l = {sizeof want - made, SIZE_MAX, how == PC_PUT_ALL};
                        made += pc_frame(head, in, len, &l, want + made, &took);
                        good = pc_sink_put(&s, head, in, len, how, &used, &err) == 0 && used == took &&
                               (how == PC_PUT_MORE || s.held == 0) && s.held <= s.block + PC_LINE_MAX &&
                               ends_whole(path);
                        len -= used;
                        memmove(in, in + used, len);
                }
        }
        if (!good)
                printf("# seed %u\n", seed);
        ok(good && compared == made && made > 1000000, "any order of calls");
        pc_sink_close(&s);
}

int main(void) {
        if (!mkdtemp(dir))
                return 1;
        plain();
        size_limit();
        rotation();
        total_limit();
        full_disk();
        file_limit();
        gone();
        held();
        full_when_held();
        for (unsigned seed = 1; seed <= 8; seed++)
                any_order(seed);
        char command[128];
        snprintf(command, sizeof command, "rm -rf %s", dir);
        (void) !system(command);
        return done_testing();
}
