/* The end: descriptors that were only held for others, the exit command, our own exit. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/sys.h"

/* Callers hand us descriptors that keep ports busy while the container runs. They, and ours that are no longer needed,
 * are closed before anybody hears of the exit. Kept: stdio, the sync pipe, clients with output to come. */
void pc_close_foreign(struct pc_mon *m) {
        unsigned from = 3;
        for (;;) {
                unsigned next = ~0u;
                if (m->sync_pipe >= (int) from)
                        next = (unsigned) m->sync_pipe;
                for (unsigned i = 0; i < m->fan.used; i++) {
                        int fd = m->fan.clients[i].fd;
                        if (fd >= (int) from && (unsigned) fd < next)
                                next = (unsigned) fd;
                }
                if (next == ~0u)
                        break;
                if (next > from)
                        (void) PC_SYS(close_range, from, next - 1, 0);
                from = next + 1;
        }
        (void) PC_SYS(close_range, from, ~0U, 0);
        m->epoll = m->signals = m->start_pipe = m->attach_pipe = m->null = m->in[0].fd = m->in[1].fd = -1;
        m->sink.fd = m->attach_listen = m->stdin_fd = m->ctl = m->winsz = m->console = m->oom = m->oom_control = -1;
        m->notify = m->notify_host = m->container_pidfd = -1;
        m->in[0].watched = m->in[1].watched = false;
        m->journal = NULL;
}

static _Noreturn void run_exit_command(struct pc_mon *m) {
        const struct pc_args *a = m->args;
        const char *argv[a->exit_args.n + 2];
        argv[0] = a->exit_command;
        for (int i = 0; i < a->exit_args.n; i++)
                argv[i + 1] = a->exit_args.v[i];
        argv[a->exit_args.n + 1] = NULL;
        if (a->exit_delay > 0) {
                struct timespec ts = {.tv_sec = a->exit_delay};
                while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
                        ;
        }
        if (m->old_oom_adj[0]) {
                _cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
                if (fd >= 0)
                        (void) !write(fd, m->old_oom_adj, strlen(m->old_oom_adj));
        }
        (void) signal(SIGPIPE, SIG_DFL);
        (void) sigprocmask(SIG_SETMASK, &m->old_mask, NULL);
        (void) execv(a->exit_command, (char **) argv);
        _exit(1);
}

void pc_finish(struct pc_mon *m, int code) {
        pc_console_close(m);
        pc_attach_remove(m);
        if (m->args->exit_command && m->runtime_started) {
                (void) PC_SYS(close_range, 3, ~0U, 0);
                /* The command must not become our child again when it forks away: we would be waited for. */
                (void) prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
                pid_t pid = fork();
                if (pid == 0)
                        run_exit_command(m);
                int status = 0;
                pid_t r;
                do
                        r = waitpid(pid, &status, 0);
                while (r < 0 && errno == EINTR);
                if (pid < 0 || (r == pid && status != 0))
                        code = pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        }
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
        _exit(code & 0xff);
}
