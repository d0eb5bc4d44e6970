/* The OCI runtime's command line and start. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"

struct command {
        const char **v;
        int n;
};

static void add(struct command *c, const char *word) {
        c->v[c->n++] = word;
}

static void build(const struct pc_mon *m, struct command *c, const char *console) {
        const struct pc_args *a = m->args;
        add(c, a->runtime);
        if (!a->exec && a->systemd_cgroup)
                add(c, "--systemd-cgroup");
        for (int i = 0; i < a->runtime_args.n; i++)
                add(c, a->runtime_args.v[i]);
        if (a->exec) {
                add(c, "exec");
                add(c, "--pid-file");
                add(c, m->pidfile);
                add(c, "--process");
                add(c, a->exec_process_spec);
                add(c, "--detach");
        } else {
                add(c, a->restore ? "restore" : "create");
                add(c, "--bundle");
                add(c, m->bundle);
                add(c, "--pid-file");
                add(c, m->pidfile);
                if (a->no_pivot)
                        add(c, "--no-pivot");
                if (a->no_new_keyring)
                        add(c, "--no-new-keyring");
                if (a->restore) {
                        add(c, "--detach");
                        add(c, "--image-path");
                        add(c, a->restore);
                        add(c, "--work-path");
                        add(c, m->bundle);
                }
        }
        for (int i = 0; i < a->runtime_opts.n; i++)
                add(c, a->runtime_opts.v[i]);
        if (console) {
                add(c, "--console-socket");
                add(c, console);
        }
        add(c, a->cid);
        c->v[c->n] = NULL;
}

/* In the child: nothing but system calls on prepared arguments. */
struct child {
        char **argv, **envp;
        char *listen_pid; /* the value part of LISTEN_PID=, to be filled with our pid; NULL: leave it */
        int stdio[3];     /* -1: leave */
        int start_pipe;
        const struct pc_mon *m;
        pid_t parent;
};

static _Noreturn void run_child(const struct child *c) {
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != c->parent)
                _exit(127);
        for (int i = 0; i < 3; i++)
                if (c->stdio[i] >= 0) {
                        if (dup2(c->stdio[i], i) < 0)
                                _exit(127);
                        if (c->stdio[i] != c->m->null)
                                (void) fchmod(i, 0777); /* so that any user in the container may open /dev/stdout */
                }
        if (c->listen_pid)
                c->listen_pid[pc_decimal(c->listen_pid, getpid())] = '\0';
        if (c->start_pipe >= 0) { /* exec with attach: the client must be there before there is output */
                char buf[64];
                ssize_t n;
                do
                        n = read(c->start_pipe, buf, sizeof buf);
                while (n < 0 && errno == EINTR);
                if (n < 0)
                        _exit(127);
        }
        if (c->m->old_oom_adj[0]) {
                int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
                if (fd >= 0)
                        (void) !write(fd, c->m->old_oom_adj, strlen(c->m->old_oom_adj));
        }
        (void) signal(SIGPIPE, SIG_DFL);
        (void) sigprocmask(SIG_SETMASK, &c->m->old_mask, NULL);
        (void) execve(c->argv[0], c->argv, c->envp);
        static const char why[] = "cannot execute the OCI runtime: ";
        const char *text = strerror(errno);
        (void) !write(STDERR_FILENO, why, sizeof why - 1);
        (void) !write(STDERR_FILENO, text, strlen(text));
        (void) !write(STDERR_FILENO, "\n", 1);
        _exit(127);
}

/* socket activation: LISTEN_PID must name the runtime when it named us, or in any case with --replace-listen-pid. */
static int listen_pid(const struct pc_mon *m, char **envp, char text[40], char **ret_value, struct pc_err *reterr) {
        const char *value = getenv("LISTEN_PID");
        *ret_value = NULL;
        if (!value)
                return 0;
        char *end;
        long pid = strtol(value, &end, 10);
        if (pid <= 0 || *end)
                return pc_fail(reterr, EINVAL, "Invalid LISTEN_PID", value);
        if (!m->args->replace_listen_pid && pid != getpid())
                return 0;
        memcpy(text, "LISTEN_PID=", 11);
        *ret_value = text + 11;
        for (char **e = envp; *e; e++)
                if (strncmp(*e, "LISTEN_PID=", 11) == 0)
                        *e = text;
        return 0;
}

int pc_runtime_start(struct pc_mon *m, struct pc_err *reterr) {
        const struct pc_args *a = m->args;
        const char *words[a->runtime_args.n + a->runtime_opts.n + 24];
        struct command c = {words, 0};
        char console[PATH_MAX];
        if (m->console_dir)
                (void) pc_join(console, sizeof console, (const char *const[]){m->console_dir, "/s"}, 2);
        build(m, &c, m->console_dir ? console : NULL);
        if (m->level == PC_LEVEL_TRACE)
                for (int i = 0; i < c.n; i++)
                        pc_say(m, PC_LEVEL_TRACE, "runtime argument", c.v[i], 0);

        int nenv = 0;
        while (environ[nenv])
                nenv++;
        char *envp[nenv + 1], text[40];
        memcpy(envp, environ, (size_t) (nenv + 1) * sizeof *envp);
        struct child child = {.argv = (char **) c.v, .envp = envp, .stdio = {-1, -1, -1}, .start_pipe = -1, .m = m};
        int r = listen_pid(m, envp, text, &child.listen_pid, reterr);
        if (r < 0)
                return r;
        if (!m->log.passthrough)
                for (int i = 0; i < 3; i++)
                        child.stdio[i] = m->worker[i] >= 0 ? m->worker[i] : m->null;
        if (a->exec_attach)
                child.start_pipe = m->start_pipe;
        child.parent = getpid();
        m->hold = true;
        m->runtime = fork();
        m->runtime_started = m->runtime > 0;
        if (m->runtime < 0)
                return pc_fail_errno(reterr, "fork", a->runtime);
        if (m->runtime == 0)
                run_child(&child);
        for (int i = 0; i < 3; i++)
                pc_closep(&m->worker[i]);
        pc_closep(&m->start_pipe);
        return 0;
}

/* The error text: what the runtime wrote to stderr, as much as one buffer. */
size_t pc_runtime_text(struct pc_mon *m, char out[PC_TEXT]) {
        struct pc_stream_in *in = &m->in[PC_STDERR];
        if (in->fd >= 0) {
                ssize_t n;
                while (in->len < PC_TEXT && (n = read(in->fd, in->buf + in->len, PC_STREAM_CAP - in->len)) > 0)
                        in->len += (size_t) n;
        }
        size_t n = in->len < PC_TEXT - 1 ? in->len : PC_TEXT - 1;
        memcpy(out, in->buf, n);
        out[n] = '\0';
        return strlen(out);
}
