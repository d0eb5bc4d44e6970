/* Lines of the control fifos, parsed without I/O. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

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
