/* pycrio-nsexec: join namespaces, then run a command there, or do one step. Single-threaded, which joining user and
 * mount namespaces demands and the daemon is not. Exit code: the command's; 125 when we fail, 126 when it cannot be
 * executed, 127 when it is not found. */
#include "common/fd.h"
#include "nsexec/args.h"
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PC_VERSION
#define PC_VERSION "dev"
#endif

enum { EXIT_OURS = 125, EXIT_NOT_RUN = 126, EXIT_NOT_FOUND = 127 };
static const char usage[] = "usage: pycrio-nsexec [OPTION]... [--] [COMMAND [ARG]...]\n"
                            "Join namespaces, then execute COMMAND.\n"
                            "  --net, --uts, --ipc, --user, --mnt, --pid, --cgroup FILE   namespace to join\n"
                            "  --lo-up        raise the loopback interface there\n"
                            "  --chroot DIR   change the root directory, after joining\n"
                            "  --cwd DIR      change the working directory, after that\n"
                            "  --version      print the version\n";

static int die(const struct pc_err *e) {
        fprintf(stderr, "pycrio-nsexec: %s%s%s: %s\n", e->step, e->path[0] ? " " : "", e->path, strerror(e->code));
        return EXIT_OURS;
}

/* Exit code of a request that is none to join and execute. */
static int answer(enum nsx_verdict v) {
        switch (v) {
        case NSX_SAY_VERSION:
                return puts("pycrio-nsexec " PC_VERSION) < 0 ? EXIT_OURS : EXIT_SUCCESS;
        case NSX_SAY_HELP:
                return fputs(usage, stdout) < 0 ? EXIT_OURS : EXIT_SUCCESS;
        case NSX_NOTHING_TO_DO:
                (void) fputs(usage, stderr);
                return EXIT_OURS;
        default: /* getopt_long has said why */
                return EXIT_OURS;
        }
}

static int prepare(const struct nsx_request *q, struct pc_err *reterr) {
        int r = nsx_join(q->paths, reterr);
        if (r == 0 && q->lo_up)
                r = nsx_loopback_up(reterr);
        if (r == 0 && q->root && (chroot(q->root) < 0 || chdir("/") < 0))
                r = pc_fail_errno(reterr, "chroot", q->root);
        if (r == 0 && q->cwd && chdir(q->cwd) < 0)
                r = pc_fail_errno(reterr, "chdir", q->cwd);
        return r;
}

static int execute(char **command) {
        (void) execvp(command[0], command);
        int code = errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN;
        fprintf(stderr, "pycrio-nsexec: exec %s: %s\n", command[0], strerror(errno));
        return code;
}

/* A pid namespace is for children only. The child goes when we do; what can be caught of signals to us is its. */
static int execute_in_child(char **command, struct pc_err *reterr) {
        sigset_t all, before;
        (void) sigfillset(&all);
        (void) sigprocmask(SIG_SETMASK, &all, &before);
        _cleanup_fd_ int self = pc_pidfd_open(getpid(), 0);
        if (self < 0)
                return pc_fail_errno(reterr, "pidfd_open", NULL);
        pid_t pid = fork();
        if (pid < 0)
                return pc_fail_errno(reterr, "fork", NULL);
        if (pid == 0) {
                struct pollfd gone = {.fd = self, .events = POLLIN};
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (poll(&gone, 1, 0) != 0) /* we were too late; getppid() is of no use across pid namespaces */
                        _exit(EXIT_OURS);
                (void) sigprocmask(SIG_SETMASK, &before, NULL);
                _exit(execute(command));
        }
        for (;;) {
                int status, sig = sigwaitinfo(&all, NULL);
                if (sig < 0 && errno != EINTR)
                        return pc_fail_errno(reterr, "sigwaitinfo", NULL);
                if (sig > 0 && sig != SIGCHLD)
                        (void) kill(pid, sig);
                if (waitpid(pid, &status, WNOHANG) != pid)
                        continue;
                return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
}

int main(int argc, char **argv) {
        struct nsx_request q;
        struct pc_err e;
        enum nsx_verdict v = nsx_parse(argc, argv, &q);
        if (v != NSX_RUN)
                return answer(v);
        if (prepare(&q, &e) < 0)
                return die(&e);
        if (!q.command[0])
                return EXIT_SUCCESS;
        if (!q.paths[NSX_PID])
                return execute(q.command);
        int r = execute_in_child(q.command, &e);
        return r < 0 ? die(&e) : r;
}
