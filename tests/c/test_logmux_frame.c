// SRC: csrc/logmux/frame.c csrc/logmux/clock.c
/* CRI framing as a pure function: stamps against the C library, pieces, tails, limits, parsing back. */
#include "logmux/clock.h"
#include "logmux/frame.h"
#include "tap.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char head_text[] = "2026-01-02T03:04:05.000000006+00:00 stdout F ";
#define HEAD "2026-01-02T03:04:05.000000006+00:00 stdout F "
#define PART "2026-01-02T03:04:05.000000006+00:00 stdout P "

static char out[1 << 20];

static size_t frame(const char *in, size_t n, bool flush, size_t cap, size_t stop, size_t *used) {
        struct pc_frame_limits l = {.cap = cap, .stop = stop, .flush = flush};
        memset(out, '#', sizeof out);
        return pc_frame(head_text, in, n, &l, out, used);
}

static bool framed(const char *in, size_t n, bool flush, const char *want, size_t want_used) {
        size_t used = 99, made = frame(in, n, flush, sizeof out, SIZE_MAX, &used);
        return made == strlen(want) && memcmp(out, want, made) == 0 && used == want_used && out[made] == '#';
}

static void stamps(void) {
        bool same = true;
        srand(1);
        for (int i = 0; i < 200000 && same; i++) {
                int64_t sec = ((int64_t) rand() << 8 ^ rand()) % 253402300799;
                if (i % 2)
                        sec = -sec % 62167219200;
                int32_t off = (rand() % (24 * 60) - 12 * 60) * 60;
                time_t local = sec + off;
                struct tm tm;
                char want[80], got[PC_STAMP_LEN + 1] = "";
                gmtime_r(&local, &tm);
                if (tm.tm_year + 1900 < 0 || tm.tm_year + 1900 > 9999)
                        continue;
                snprintf(want, sizeof want, "%04d-%02d-%02dT%02d:%02d:%02d.%09d%c%02d:%02d", tm.tm_year + 1900,
                         tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, i, off < 0 ? '-' : '+',
                         abs(off) / 3600, abs(off) / 60 % 60);
                pc_stamp(got, sec, (uint32_t) i, off);
                same = strcmp(want, got) == 0;
                if (!same)
                        printf("# %ld: %s != %s\n", (long) sec, got, want);
                char line[128];
                struct pc_line l;
                snprintf(line, sizeof line, "%s stderr P x", got);
                if (pc_line_parse(line, strlen(line), &l) < 0 || l.sec != sec || l.nsec != (uint32_t) i ||
                    l.gmtoff != off)
                        same = false;
        }
        ok(same, "200000 random stamps equal gmtime's and parse back to their second, fraction and offset");
        char got[PC_STAMP_LEN + 1] = "";
        pc_stamp(got, INT64_MAX, 999999999, 0);
        ok(strcmp(got, "9999-12-31T23:59:59.999999999+00:00") == 0, "a second beyond year 9999 is clamped");
        pc_stamp(got, INT64_MIN, 0, -3600);
        ok(strcmp(got, "0000-01-01T00:00:00.000000000-01:00") == 0, "a second before year 0 is clamped");
}

static void zones(void) {
        struct pc_clock c;
        char head[PC_HEAD_LEN + 1] = "";
        setenv("TZ", "XXX-5:45", 1);
        pc_clock_init(&c);
        pc_clock_head(&c, PC_STDERR, head);
        ok(memcmp(head + 29, "+05:45 stderr F ", 16) == 0, "the head has the zone's offset and the stream");
        struct pc_line l;
        ok(pc_line_parse(head, PC_HEAD_LEN, &l) == 0 && llabs(l.sec - time(NULL)) < 5, "and says what time it is");
}

static void lines(void) {
        ok(framed("", 0, true, "", 0), "nothing gives nothing");
        ok(framed("a\n", 2, false, HEAD "a\n", 2), "a line");
        ok(framed("\n", 1, false, HEAD "\n", 1), "an empty line");
        ok(framed("a\nbc\n\nd\n", 8, false, HEAD "a\n" HEAD "bc\n" HEAD "\n" HEAD "d\n", 8), "many lines");
        ok(framed("a\nbc", 4, false, HEAD "a\n", 2), "an unterminated tail stays");
        ok(framed("a\nbc", 4, true, HEAD "a\n" PART "bc\n", 4), "or becomes a P piece when flushed");
        ok(framed("a\r\n", 3, false, HEAD "a\r\n", 3), "a carriage return is content");
        size_t used, made = frame("\0\xff\xfe\n", 4, false, sizeof out, SIZE_MAX, &used);
        ok(made == PC_HEAD_LEN + 4 && memcmp(out + PC_HEAD_LEN, "\0\xff\xfe\n", 4) == 0,
           "NUL and invalid UTF-8 pass unchanged");

        static char big[3 * PC_PIECE_MAX + 10];
        memset(big, 'x', sizeof big);
        made = frame(big, PC_PIECE_MAX, false, sizeof out, SIZE_MAX, &used);
        ok(made == 0 && used == 0, "a full piece without newline waits for the next byte");
        big[PC_PIECE_MAX] = '\n';
        made = frame(big, PC_PIECE_MAX + 1, false, sizeof out, SIZE_MAX, &used);
        ok(made == PC_LINE_MAX && out[PC_HEAD_LEN - 2] == 'F', "a line of exactly one piece is one F line");
        big[PC_PIECE_MAX] = 'x';
        made = frame(big, PC_PIECE_MAX + 1, false, sizeof out, SIZE_MAX, &used);
        ok(used == PC_PIECE_MAX && made == PC_LINE_MAX && out[PC_HEAD_LEN - 2] == 'P',
           "one byte more makes a P piece of it");
        big[sizeof big - 1] = '\n';
        made = frame(big, sizeof big, false, sizeof out, SIZE_MAX, &used);
        ok(used == sizeof big && made == 3 * PC_LINE_MAX + PC_HEAD_LEN + 10 && out[made - 10 - 2] == 'F',
           "a long line is P, P, P, F");
}

static void limits(void) {
        size_t used, made = frame("aa\nbb\n", 6, false, PC_HEAD_LEN + 3 + PC_HEAD_LEN + 2, SIZE_MAX, &used);
        ok(used == 3 && made == PC_HEAD_LEN + 3 && out[made] == '#', "no piece is begun that does not fit whole");
        made = frame("aa\nbb\n", 6, false, PC_HEAD_LEN + 2, SIZE_MAX, &used);
        ok(used == 0 && made == 0 && out[0] == '#', "not even the first");
        made = frame("aa\nbb\ncc\n", 9, false, sizeof out, 1, &used);
        ok(used == 3, "with stop 1 exactly one piece");
        made = frame("aa\nbb\ncc\n", 9, false, sizeof out, PC_HEAD_LEN + 4, &used);
        ok(used == 6, "a piece begun below stop is finished");
        made = frame("aa\n", 3, false, sizeof out, 0, &used);
        ok(used == 0 && made == 0, "stop 0 gives nothing");
}

static bool bad(const char *line) {
        struct pc_line l = {.sec = 42};
        return pc_line_parse(line, strlen(line), &l) == -EBADMSG && l.sec == 42;
}

static void parsing(void) {
        struct pc_line l;
        const char *s = "2026-11-23T20:45:52.5+01:00 stdout F hello world\n";
        ok(pc_line_parse(s, strlen(s), &l) == 0 && l.sec == 1795463152 && l.nsec == 500000000 && !l.partial &&
               l.stream == PC_STDOUT && l.len == 11 && memcmp(l.data, "hello world", 11) == 0,
           "a full line");
        s = "2026-11-23T19:45:52Z stderr P:x ";
        ok(pc_line_parse(s, strlen(s), &l) == 0 && l.sec == 1795463152 && l.nsec == 0 && l.partial &&
               l.stream == PC_STDERR && l.len == 0,
           "offset Z, no fraction, a further tag, no content");
        ok(bad("") && bad("\n") && bad("x"), "nothing and garbage");
        ok(bad("2026-13-23T19:45:52Z stdout F x") && bad("2026-11-23T24:45:52Z stdout F x"), "a date that is none");
        ok(bad("2026-11-23T19:45:52. stdout F x") && bad("2026-11-23T19:45:52.1234567890Z stdout F x"),
           "a wrong fraction");
        ok(bad("2026-11-23T19:45:52+1:00 stdout F x") && bad("2026-11-23T19:45:52 stdout F x"), "a wrong offset");
        ok(bad("2026-11-23T19:45:52Z stdin F x") && bad("2026-11-23T19:45:52Z stdout Q x"), "a wrong stream or tag");
        ok(bad("2026-11-23T19:45:52Z stdout F") && bad("2026-11-23T19:45:52Z stdout Fx y"), "no blank after the tag");
}

int main(void) {
        stamps();
        zones();
        lines();
        limits();
        parsing();
        return done_testing();
}
