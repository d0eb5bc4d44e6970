/* Results in the form of the Test Anything Protocol: a line a check, the count at the end. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int test_count, test_failed;

static void ok(bool good, const char *text) {
        printf("%s %d - %s\n", good ? "ok" : "not ok", ++test_count, text);
        (void) fflush(stdout); /* whatever ends the program then */
        test_failed += !good;
}

/* The same with the text made as printf(3) makes it. */
__attribute__((format(printf, 2, 3), unused)) static void okf(bool good, const char *format, ...) {
        char line[256];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(line, sizeof line, format, ap);
        va_end(ap);
        ok(good, line);
}

/* What main() returns. */
static int done_testing(void) {
        printf("1..%d\n", test_count);
        return test_failed ? 1 : 0;
}
