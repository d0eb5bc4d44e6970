// SRC: csrc/logmux/frame.c
/* The log file when the kernel refuses or does half: the Nth call fails, is interrupted or writes less, for every N,
 * while lines are written, the file is rotated, replaced and synced. No half line is ever left, lines keep their order
 * and come once, what is missing was counted, no descriptor leaks. The unit is compiled in with calls of our own. */
#include "logmux/sink.h"
#include "scratch.h"
#include "tap.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* code 0: a short write of one byte, -1: of half. From the Nth call on, for so many of them. */
static struct { int at, times, code, seen, hits; } fault;

static bool hit(void) {
        fault.seen++;
        bool now = fault.seen >= fault.at && fault.seen < fault.at + fault.times;
        fault.hits += now;
        if (now && fault.code > 0)
                errno = fault.code;
        return now;
}

static bool fails(void) {
        return hit() && fault.code > 0;
}

static ssize_t fault_write(int fd, const void *p, size_t n) {
        if (!hit())
                return write(fd, p, n);
        if (fault.code > 0)
                return -1;
        size_t some = fault.code == 0 ? 1 : n / 2;
        return write(fd, p, some ? some : 1);
}

#define FAULTY(call, ...) (fails() ? -1 : call(__VA_ARGS__))
#define write fault_write
#define open(...) FAULTY(open, __VA_ARGS__)
#define rename(...) FAULTY(rename, __VA_ARGS__)
#define fstat(...) FAULTY(fstat, __VA_ARGS__)
#define fsync(...) FAULTY(fsync, __VA_ARGS__)
#define access(...) FAULTY(access, __VA_ARGS__)
#include "logmux/sink.c" /* NOLINT: its system calls are ours */
#undef write
#undef open
#undef rename
#undef fstat
#undef fsync
#undef access

static char dir[] = "/dev/shm/test_sink_fault.XXXXXX", path[64], work[3 * PC_LINE_MAX + 4096];

enum { BATCHES = 12, PER_BATCH = 25, LINE = 8 };
enum kind { PLAIN, ROTATED, HELD, KINDS }; /* HELD: more is always to come */

static int batches(enum kind kind) {
        return kind == HELD ? 5 * BATCHES : BATCHES;
}

/* One life of a log: 300 lines in batches, 1500 where they are held; rotated, a file for about each 40 of them, asked
 * to reopen twice. False when opening failed. */
static bool live(struct pc_sink *s, enum kind kind) {
        bool rotate = kind == ROTATED;
        struct pc_sink_limits limits = {
            .size_max = rotate ? 40 * (PC_HEAD_LEN + LINE) : 0, .rotate = rotate, .keep = 1000};
        struct pc_err err;
        char head[PC_HEAD_LEN], text[PER_BATCH * LINE + 1];
        pc_head(head, 1767323045, 6, 0, PC_STDOUT);
        if (pc_sink_open(s, path, &limits, work, sizeof work, &err) < 0)
                return false;
        for (int b = 0; b < batches(kind); b++) {
                size_t used = 0;
                for (int i = 0; i < PER_BATCH; i++)
                        (void) snprintf(text + i * LINE, LINE + 1, "%07d\n", b * PER_BATCH + i);
                (void) pc_sink_put(s, head, text, PER_BATCH * LINE, kind == HELD ? PC_PUT_MORE : PC_PUT_LINES, &used,
                                   &err);
                if (used != PER_BATCH * LINE)
                        return false;
                if (rotate && (b == 3 || b == 8))
                        (void) pc_sink_reopen(s, &err);
        }
        (void) pc_sink_sync(s, &err);
        return true;
}

/* Lines of one file: whole, in order, beyond *last. Their number, or -1. */
static int read_file(const char *name, int *last) {
        char line[256];
        int n = 0;
        FILE *f = fopen(name, "re");
        if (!f)
                return errno == ENOENT ? 0 : -1;
        while (n >= 0 && fgets(line, sizeof line, f)) {
                struct pc_line l;
                size_t len = strlen(line);
                bool whole = len == PC_HEAD_LEN + LINE && line[len - 1] == '\n' && pc_line_parse(line, len, &l) == 0 &&
                             !l.partial && l.len == LINE - 1;
                int number = whole ? atoi(l.data) : -1;
                if (number <= *last) {
                        printf("# %s: after %d: %s\n", name, *last, line);
                        n = -1;
                } else {
                        *last = number;
                        n++;
                }
        }
        (void) fclose(f);
        return n;
}

/* Oldest first; what is there is removed. Lines in all, or -1. */
static int read_all(void) {
        int last = -1, total = 0;
        char name[80];
        for (int i = 60; i >= 0; i--) {
                (void) snprintf(name, sizeof name, i ? "%s.%d" : "%s", path, i);
                int n = read_file(name, &last);
                (void) unlink(name);
                if (n < 0)
                        return -1;
                total += n;
        }
        return total;
}

enum loss { NONE, COUNTED, ANY }; /* COUNTED: lines may be missing, as many as were counted at most */

static void every_call(const char *text, enum kind kind, int code, int times, enum loss loss) {
        bool good = true;
        int n = 1, lives = 0, before = entries("/proc/self/fd");
        for (; n < 2000 && good; n++) {
                struct pc_sink s = PC_SINK_NONE;
                fault.at = n;
                fault.times = times;
                fault.code = code;
                fault.seen = fault.hits = 0;
                bool lived = live(&s, kind);
                uint64_t dropped = s.dropped;
                bool met = fault.hits > 0;
                fault.at = 1 << 30;
                pc_sink_close(&s);
                int lines = read_all();
                int missing = lived ? batches(kind) * PER_BATCH - lines : 0;
                lives += lived;
                good = lines >= 0 && entries("/proc/self/fd") == before && entries(dir) == 0 && missing >= 0 &&
                       (loss == NONE      ? missing == 0 && dropped == 0
                        : loss == COUNTED ? (uint64_t) missing * LINE <= dropped
                                          : true);
                if (!good)
                        printf("# call %d: %d lines, dropped %d bytes, descriptors %d %d, files left %d\n", n, lines,
                               (int) dropped, before, entries("/proc/self/fd"), entries(dir));
                if (!met)
                        break;
        }
        printf("# %d calls, %d times the log was opened\n", n - 1, lives);
        ok(good && n > 12 && n < 2000 && lives >= n - 2, text);
}

int main(void) {
        static const char *const names[] = {"one file", "rotated", "held"};
        if (!mkdtemp(dir))
                return 1;
        (void) snprintf(path, sizeof path, "%s/log", dir);
        for (enum kind kind = PLAIN; kind < KINDS; kind++) {
                printf("# %s\n", names[kind]);
                every_call("no space, once", kind, ENOSPC, 1, COUNTED);
                every_call("no space, for a while", kind, ENOSPC, 9, kind == ROTATED ? ANY : COUNTED);
                every_call("an I/O error", kind, EIO, 1, COUNTED);
                every_call("quota, for good", kind, EDQUOT, 1 << 20, kind == ROTATED ? ANY : COUNTED);
                every_call("no descriptors", kind, EMFILE, 1, COUNTED);
                every_call("interrupted, once", kind, EINTR, 1, NONE);
                every_call("one byte at a time, often", kind, 0, 60, NONE);
                every_call("halves", kind, -1, 5, NONE);
        }
        ok(rmdir(dir) == 0, "cleaned up");
        return done_testing();
}
