/* What pycrio-exec says by its exit code and by the pid file, without system calls. */
#pragma once
#include <stddef.h>

enum { PC_EXEC_OURS = 125, PC_EXEC_NOT_RUN = 126, PC_EXEC_NOT_FOUND = 127 };

/* The exit code for a status of wait(2): the process's own, or 128 + the signal that ended it. */
static inline int pc_exec_code(int status) {
        int sig = status & 0x7f;
        return sig ? 128 + sig : (status >> 8) & 0xff;
}

/* What stands in the pid file instead of a process when the runtime could not be run: "-<errno>", without a newline
 * and without a terminator. error is 1 to 4095. Length. */
static inline size_t pc_exec_failure(char out[5], int error) {
        char digits[4];
        size_t n = 0, k = 0;
        do
                digits[n++] = (char) ('0' + error % 10);
        while ((error /= 10) > 0 && n < sizeof digits);
        out[k++] = '-';
        while (n > 0)
                out[k++] = digits[--n];
        return k;
}
