/* Text in and out, without I/O: what others write to the monitor, and what it writes. */
#pragma once
#include "common/pid.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PC_WINSZ_MAX 1000

enum pc_control { PC_CONTROL_BAD, PC_CONTROL_RESIZE, PC_CONTROL_REOPEN };

/* One line without its newline: "<type> <rows> <cols>", or "<rows> <cols>" with winsz. */
enum pc_control pc_control_parse(const char *line, size_t n, bool winsz, unsigned short *ret_rows,
                                 unsigned short *ret_cols);

/* What came of a line so far: writers may send half lines, or garbage without end. */
struct pc_control_line {
        char text[96];
        unsigned len;
        bool skip;
};

/* Call line() for every whole line of l and in[0..n); one that is too long arrives empty. */
void pc_control_feed(struct pc_control_line *l, const char *in, size_t n,
                     void (*line)(void *user, const char *text, size_t n), void *user);

/* Which lines of a container's sd_notify message may reach the host's service manager: rewrites buf[0..n) in place to
 * the harmless lines of it; their length. */
size_t pc_notify_filter(char *buf, size_t n);

/* Directory below the mount point of a process's cgroup, from the text of /proc/<pid>/cgroup: "<controllers><path>" for
 * the v1 controller memory, "<path>" for v2. Length, or 0 when it is not listed or does not fit. */
size_t pc_cgroup_path(const char *text, bool v2, char *out, size_t cap);

/* The value of "<key> <number>" on a line of its own; fallback when there is none. */
long pc_cgroup_count(const char *text, const char *key, long fallback);

/* JSON string content of text up to its first NUL; stops before what does not fit whole. Bytes from 0x80 on pass as
 * they are. Length. */
size_t pc_json_escape(const char *text, size_t n, char *out, size_t cap);

size_t pc_decimal(char *out, int64_t v);                                      /* digits, no terminator */
size_t pc_join(char *out, size_t cap, const char *const parts[], int nparts); /* 0 when it does not fit */
