// SRC: csrc/monitor/parse.c
/* The monitor's pure parts: control lines, notify filter, cgroup texts, JSON strings. */
#include "monitor/parse.h"
#include "tap.h"
#include <stdio.h>
#include <string.h>

static unsigned short rows, cols;

static enum pc_control control(const char *line, bool winsz) {
        rows = cols = 7777;
        return pc_control_parse(line, strlen(line), winsz, &rows, &cols);
}

static void control_lines(void) {
        ok(control("1 24 80", false) == PC_CONTROL_RESIZE && rows == 24 && cols == 80, "resize");
        ok(control("2 0 0", false) == PC_CONTROL_REOPEN, "reopen");
        ok(control("24 80", true) == PC_CONTROL_RESIZE && rows == 24 && cols == 80, "resize on the other fifo");
        ok(control("  1\t24   80 more\r", false) == PC_CONTROL_RESIZE && cols == 80,
           "blanks and what follows do not matter");
        ok(control("1 0 1000", false) == PC_CONTROL_RESIZE && cols == 1000, "the range is 0 to 1000");
        ok(control("1 1001 1", false) == PC_CONTROL_BAD && control("1 1 -1", false) == PC_CONTROL_BAD && rows == 7777,
           "beyond it");
        ok(control("1 99999999999999999999999 1", false) == PC_CONTROL_BAD, "far beyond it");
        ok(control("", false) == PC_CONTROL_BAD && control("1", false) == PC_CONTROL_BAD &&
               control("1 2", false) == PC_CONTROL_BAD && control("24", true) == PC_CONTROL_BAD,
           "too few numbers");
        ok(control("3 1 1", false) == PC_CONTROL_BAD && control("0 1 1", false) == PC_CONTROL_BAD &&
               control("-1 1 1", false) == PC_CONTROL_BAD,
           "unknown types");
        ok(control("x 1 1", false) == PC_CONTROL_BAD && control("1 - 1", false) == PC_CONTROL_BAD, "no numbers");
}

struct seen {
        int n;
        char text[16][128];
        size_t len[16];
};

static void collect(void *user, const char *text, size_t n) {
        struct seen *s = user;
        if (s->n < 16) {
                memcpy(s->text[s->n], text, n);
                s->text[s->n][n] = '\0';
                s->len[s->n] = n;
        }
        s->n++;
}

static void control_feed(void) {
        struct pc_control_line l = {.len = 0};
        struct seen s = {.n = 0};
        const char *parts[] = {"1 2", "4 80\n2 0", " 0\n", "\n"};
        for (int i = 0; i < 4; i++)
                pc_control_feed(&l, parts[i], strlen(parts[i]), collect, &s);
        ok(s.n == 3 && strcmp(s.text[0], "1 24 80") == 0 && strcmp(s.text[1], "2 0 0") == 0 && s.len[2] == 0,
           "half lines are joined");
        char garbage[5000];
        memset(garbage, '1', sizeof garbage);
        s.n = 0;
        for (int i = 0; i < 10; i++)
                pc_control_feed(&l, garbage, sizeof garbage, collect, &s);
        ok(s.n == 0 && l.len <= sizeof l.text, "garbage without a newline is bounded");
        pc_control_feed(&l, "\n2 0 0\n", 7, collect, &s);
        ok(s.n == 2 && s.len[0] == 0 && strcmp(s.text[1], "2 0 0") == 0, "and costs one line only");
}

static bool filtered(const char *in, const char *want) {
        char buf[512];
        size_t n = strlen(in);
        memcpy(buf, in, n);
        n = pc_notify_filter(buf, n);
        return n == strlen(want) && memcmp(buf, want, n) == 0;
}

static void notify(void) {
        ok(filtered("READY=1", "READY=1") && filtered("READY=1\nSTATUS=all well\n", "READY=1\nSTATUS=all well"),
           "known lines pass");
        ok(filtered("MAINPID=1\nREADY=1\nFDSTORE=1\nNOTIFYACCESS=all", "READY=1"), "dangerous ones do not");
        ok(filtered("READY=0", "") && filtered("READY=11", "") && filtered("", "") && filtered("\n\n\r", ""),
           "nor what only looks alike");
        ok(filtered("STOPPING=1\r\nERRNO=2\nWATCHDOG=1\nWATCHDOG=trigger\nMONOTONIC_USEC=5",
                    "STOPPING=1\nERRNO=2\nWATCHDOG=1\nWATCHDOG=trigger\nMONOTONIC_USEC=5"),
           "carriage returns end lines too");
}

static void cgroups(void) {
        char out[64];
        const char *v1 = "9:name=systemd:/\n4:memory:/kube/pod\n2:cpu,cpuacct:/x\n0::/unified\n";
        ok(pc_cgroup_path(v1, false, out, sizeof out) == 15 && strcmp(out, "memory/kube/pod") == 0,
           "v1 memory controller");
        ok(pc_cgroup_path(v1, true, out, sizeof out) == 8 && strcmp(out, "/unified") == 0, "v2 line of a mixed host");
        ok(pc_cgroup_path("5:cpu,memory:/a:b\n", false, out, sizeof out) > 0 && strcmp(out, "cpu,memory/a:b") == 0,
           "mounted together, a colon in the path");
        ok(pc_cgroup_path("4:memory2:/a\n5:xmemory:/b", false, out, sizeof out) == 0, "other names are not it");
        ok(pc_cgroup_path("", true, out, sizeof out) == 0 && pc_cgroup_path("0:\n::\n0", true, out, sizeof out) == 0,
           "garbage");
        ok(pc_cgroup_path(v1, false, out, 10) == 0, "too long for the room");
        ok(pc_cgroup_count("low 0\noom 3\noom_kill 12\n", "oom", -1) == 3 &&
               pc_cgroup_count("low 0\noom 3\noom_kill 12", "oom_kill", -1) == 12,
           "counters by their whole name");
        ok(pc_cgroup_count("oom_kill 12\n", "oom", -1) == -1 && pc_cgroup_count("oom x\n", "oom", -1) == -1, "none");
}

static void json(void) {
        char out[64];
        const char *in = "a\"b\\c/d\ne\r\t\b\f\x01\x7f\xc3\xa9";
        size_t n = pc_json_escape(in, strlen(in), out, sizeof out);
        static const char want[] = "a\\\"b\\\\c\\/d\\ne\\r\\t\\b\\f\\u0001\\u007f\xc3\xa9";
        ok(n == sizeof want - 1 && memcmp(out, want, n) == 0,
           "quotes, slashes, controls escaped; other bytes as they are");
        ok(pc_json_escape("ab\ncd", 5, out, 3) == 2 && pc_json_escape("\x01", 1, out, 5) == 0,
           "nothing is cut in the middle");
        ok(pc_json_escape("a\0b", 3, out, sizeof out) == 1, "a NUL ends it");
        char text[24];
        ok(pc_decimal(text, INT64_MIN) == 20 && memcmp(text, "-9223372036854775808", 20) == 0 &&
               pc_decimal(text, 0) == 1,
           "decimals");
        ok(pc_join(text, 4, (const char *const[]){"ab", "c"}, 2) == 3 && strcmp(text, "abc") == 0 &&
               pc_join(text, 3, (const char *const[]){"ab", "c"}, 2) == 0,
           "joined text fits or is nothing");
}

static void pids(void) {
        static const struct {
                const char *text;
                int pid;
        } rows[] = {{"1", 1},          {"4194304\n", 4194304},
                    {"12 34", 12},     {"", 0},
                    {"\n12", 0},       {"-5", 0},
                    {"+5", 0},         {"2147483647", 2147483647},
                    {"2147483648", 0}, {"99999999999999999999", 0},
                    {"0", 0}};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
                ok(pc_pid_parse(rows[i].text, strlen(rows[i].text)) == rows[i].pid, "pid file");
        ok(pc_pid_parse("123", 2) == 12, "... and no byte beyond its length");
}

int main(void) {
        control_lines();
        control_feed();
        notify();
        cgroups();
        json();
        pids();
        return done_testing();
}
