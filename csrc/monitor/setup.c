/* From the caller's child to a process of its own: descriptors from the environment, start pipe, fork, session. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"

/* A descriptor number from the environment, -1 when the variable is not set. */
static int env_fd(const char *name, int *ret, struct pc_err *reterr) {
        const char *text = getenv(name);
        *ret = -1;
        if (!text)
                return 0;
        char *end;
        errno = 0;
        long v = strtol(text, &end, 10);
        if (errno || end == text || *end || v < 0 || v > INT32_MAX)
                return pc_fail(reterr, EINVAL, "unable to parse", name);
        if (fcntl((int) v, F_SETFD, FD_CLOEXEC) < 0)
                return pc_fail_errno(reterr, "unable to make CLOEXEC", name);
        *ret = (int) v;
        return 0;
}

int pc_setup_env(struct pc_mon *m, struct pc_err *reterr) {
        int r = env_fd("_OCI_STARTPIPE", &m->start_pipe, reterr);
        if (r == 0)
                r = env_fd("_OCI_SYNCPIPE", &m->sync_pipe, reterr);
        if (r == 0 && m->args->exec_attach) {
                r = env_fd("_OCI_ATTACHPIPE", &m->attach_pipe, reterr);
                if (r == 0 && m->attach_pipe < 0)
                        r = pc_fail(reterr, EINVAL, "--exec-attach needs _OCI_ATTACHPIPE", NULL);
        }
        return r;
}

/* The caller lets us go once it has put us into our cgroup. Any bytes or the end of the pipe will do. */
int pc_setup_start_wait(struct pc_mon *m, struct pc_err *reterr) {
        if (m->start_pipe < 0)
                return 0;
        char buf[256];
        ssize_t n;
        do
                n = read(m->start_pipe, buf, sizeof buf);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return pc_fail_errno(reterr, "start-pipe read failed", NULL);
        if (!m->args->exec_attach)
                pc_closep(&m->start_pipe);
        return 0;
}

/* Best effort: without the capability, the caller's score stays. */
void pc_oom_adjust(struct pc_mon *m) {
        _cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
        if (fd < 0)
                return;
        ssize_t n = read(fd, m->old_oom_adj, sizeof m->old_oom_adj - 1);
        m->old_oom_adj[n > 0 ? n : 0] = '\0';
        if (write(fd, "-1000", 5) < 0)
                m->old_oom_adj[0] = '\0'; /* nothing changed, nothing to put back */
}

void pc_disconnect_stdio(struct pc_mon *m) {
        (void) dup2(m->null, STDIN_FILENO);
        (void) dup2(m->null, STDOUT_FILENO);
        (void) dup2(m->null, STDERR_FILENO);
}

int pc_setup_daemon(struct pc_mon *m, struct pc_err *reterr) {
        m->null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (m->null < 0)
                return pc_fail_errno(reterr, "open", "/dev/null");
        if (!m->args->sync) {
                pid_t pid = fork();
                if (pid < 0)
                        return pc_fail_errno(reterr, "fork", NULL);
                if (pid > 0) {
                        char text[24];
                        int r = 0;
                        if (m->args->conmon_pidfile)
                                r = pc_write_atomic(m->args->conmon_pidfile, text, pc_decimal(text, pid), reterr);
                        return r < 0 ? r : 1;
                }
        }
        if (!m->log.passthrough)
                pc_disconnect_stdio(m);
        (void) setsid(); /* fails only when we lead a group already, with --sync */
        if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
                return pc_fail_errno(reterr, "Failed to set as subreaper", NULL);
        return 0;
}

static int make_pipe(int fds[2], int reader, struct pc_err *reterr) {
        if (pipe2(fds, O_CLOEXEC) < 0)
                return pc_fail_errno(reterr, "pipe2", NULL);
        /* Only our end may be non-blocking: the flag belongs to the open file, which each end has its own of. */
        (void) fcntl(fds[reader], F_SETFL, O_NONBLOCK);
        return 0;
}

int pc_setup_stdio(struct pc_mon *m, struct pc_err *reterr) {
        int p[2], r;
        if (!m->args->terminal) {
                if (m->args->stdin_pipe) {
                        if ((r = make_pipe(p, 1, reterr)) < 0)
                                return r;
                        m->worker[0] = p[0];
                        m->stdin_fd = p[1];
                }
                if ((r = make_pipe(p, 0, reterr)) < 0)
                        return r;
                m->in[PC_STDOUT].fd = p[0];
                m->worker[1] = p[1];
        }
        /* With a terminal too: it is where the runtime's own errors come. */
        if ((r = make_pipe(p, 0, reterr)) < 0)
                return r;
        m->in[PC_STDERR].fd = p[0];
        m->worker[2] = p[1];
        return 0;
}

int pc_setup_log(struct pc_mon *m, struct pc_err *reterr) {
        const struct pc_args *a = m->args;
        pc_clock_init(&m->clock);
        if (m->log.file) {
                struct pc_sink_limits l = {.size_max = a->log_size_max,
                                           .total_max = a->log_total_max,
                                           .rotate = a->log_rotate,
                                           .keep = a->log_max_files,
                                           .allow = a->log_allow.v,
                                           .nallow = a->log_allow.n};
                int r = pc_sink_open(&m->sink, m->log.path, &l, m->work, PC_WORK_CAP, reterr);
                if (r < 0)
                        return r;
        }
        if (m->log.journal) {
                struct pc_journal_fields f = {.id = a->cid,
                                              .name = a->name,
                                              .tag = a->log_tag,
                                              .labels = a->log_labels.v,
                                              .nlabels = a->log_labels.n,
                                              .no_partial_field = a->no_partial_field};
                return pc_journal_open(PC_JOURNAL_SOCKET, &f, &m->journal, reterr);
        }
        return 0;
}
