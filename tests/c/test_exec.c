/* pycrio-exec's answers: exit codes for statuses of wait(2), and what takes a process's place in the pid file. What it
 * does with them is tried on real processes in tests/unit/_native/test_exec.py. */
#include "common/pid.h"
#include "exec/exec.h"
#include "tap.h"
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static bool written(int error, const char *want) {
        char *text = malloc(5); /* of its own, so that the sanitizer sees a byte too many */
        size_t n = text ? pc_exec_failure(text, error) : 0;
        bool good = n == strlen(want) && memcmp(text, want, n) == 0 && pc_pid_parse(text, n) == 0;
        free(text);
        return good;
}

int main(void) {
        bool good = true;
        for (int code = 0; code < 256; code++)
                good = good && pc_exec_code(W_EXITCODE(code, 0)) == code;
        ok(good, "each exit code is handed on");
        for (int sig = 1; sig <= 64; sig++)
                good = good && pc_exec_code(W_EXITCODE(0, sig)) == 128 + sig &&
                       pc_exec_code(W_EXITCODE(0, sig) | WCOREFLAG) == 128 + sig;
        ok(good, "each signal is, with and without a core file");
        ok(written(1, "-1") && written(2, "-2") && written(13, "-13") && written(110, "-110") && written(4095, "-4095"),
           "errors are no process");
        return done_testing();
}
