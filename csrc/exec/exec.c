/* pycrio-exec: run an OCI runtime's "exec --detach" and end as the process does that it started.
 *
 *     pycrio-exec PIDFILE RUNTIME [ARG]...
 *
 * A runtime that stays with the process waits for the end of its pipes as well, and so for every daemon that the
 * process has left behind. One that detaches leaves an orphan, whose exit code only a parent gets: us, since we are the
 * subreaper of whatever the runtime starts (prctl(2)). We end with the process; its own orphans are init's then.
 *
 * When PIDFILE holds a process afterwards, as the runtime wrote it, the exit code is that one's. Else it is the
 * runtime's, which has failed, or ours, and stderr says why; "-<errno>" in PIDFILE: the runtime could not be run.
 *
 * No libc: there is one of us per probe, and starting is all that we cost. */
#include "exec/exec.h"
#include "common/pid.h"
#include "common/raw.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/wait.h>

#ifndef PC_VERSION
#define PC_VERSION "dev"
#endif

enum { SIG_KILL = 9 };

/* The status of a child (-1: any), or -errno. Only a debugger's doings interrupt us, who handle no signal. */
static long reap(long pid, int *ret_status) {
        long r;
        do
                r = raw5(__NR_wait4, pid, (long) ret_status, 0, 0, 0);
        while (r == -EINTR);
        return r;
}

static int process_in(const char *pidfile) {
        char text[16];
        long fd = raw5(__NR_openat, AT_FDCWD, (long) pidfile, O_RDONLY | O_CLOEXEC, 0, 0);
        if (fd < 0)
                return 0;
        long n = raw3(__NR_read, fd, (long) text, sizeof text);
        (void) raw3(__NR_close, fd, 0, 0);
        return n > 0 ? pc_pid_parse(text, (size_t) n) : 0;
}

static void forget(const char *pidfile) {
        (void) raw3(__NR_unlinkat, AT_FDCWD, (long) pidfile, 0);
}

static int fail(const char *what, int code) {
        (void) raw_say(2, "pycrio-exec: ");
        (void) raw_say(2, what);
        (void) raw_say(2, "\n");
        return code;
}

static int cannot_run(const char *pidfile, int error, int code) {
        char text[5];
        size_t n = pc_exec_failure(text, error);
        long fd = raw5(__NR_openat, AT_FDCWD, (long) pidfile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600, 0);
        if (fd >= 0)
                (void) raw3(__NR_write, fd, (long) text, (long) n);
        return fail("the runtime cannot be executed", code);
}

/* In the child. ETXTBSY: somebody still has the file open for writing, as when it is being replaced; see csrc/proc. */
static _Noreturn void become(const char *pidfile, char *const *argv, char *const *envp) {
        long r, pause[2] = {0, 100000};
        while ((r = raw3(__NR_execve, (long) argv[0], (long) argv, (long) envp)) == -ETXTBSY && pause[1] < 60000000) {
                (void) raw3(__NR_nanosleep, (long) pause, 0, 0);
                pause[1] *= 2;
        }
        raw_exit(cannot_run(pidfile, (int) -r, r == -ENOENT ? PC_EXEC_NOT_FOUND : PC_EXEC_NOT_RUN));
}

static int supervise(const char *pidfile, char *const *argv, char *const *envp) {
        long r = raw5(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        if (r < 0)
                return fail("orphans cannot be adopted", PC_EXEC_OURS);
        long runtime = raw_fork();
        if (runtime < 0)
                return cannot_run(pidfile, (int) -runtime, PC_EXEC_OURS);
        if (runtime == 0)
                become(pidfile, argv, envp);

        /* Nobody else's status yet: the process may end before the runtime has written down which one it is. */
        int status;
        if (reap(runtime, &status) < 0)
                return fail("the runtime's exit code is lost", PC_EXEC_OURS);
        int code = pc_exec_code(status), pid = process_in(pidfile);
        if (code != 0) {
                if (pid == 0)
                        return code;
                /* It failed or was killed behind its work: what it started counts as never begun. */
                if (raw5(__NR_wait4, pid, 0, WNOHANG, 0, 0) == 0)
                        (void) raw3(__NR_kill, pid, SIG_KILL, 0);
                forget(pidfile);
                return code;
        }
        if (pid == 0)
                return fail("the runtime has written no process to its pid file", PC_EXEC_OURS);
        while ((r = reap(-1, &status)) != pid) /* others: orphans of a process that shares the host's pid namespace */
                if (r < 0) {
                        forget(pidfile);
                        return fail("the runtime's process is no descendant of the runtime", PC_EXEC_OURS);
                }
        return pc_exec_code(status);
}

__attribute__((used)) int raw_main(const uintptr_t *stack) {
        char *const *argv = (char *const *) (stack + 1);
        size_t argc = stack[0];
        int code;
        if (argc >= 3)
                code = supervise(argv[1], argv + 2, argv + argc + 1);
        else if (argc == 2 && (raw_same(argv[1], "-v") || raw_same(argv[1], "--version")))
                code = raw_say(1, "pycrio-exec " PC_VERSION "\n") < 0;
        else
                (void) raw_say(2, "usage: pycrio-exec PIDFILE RUNTIME [ARG]...\n"), code = PC_EXEC_OURS;
        raw_exit(code);
}
