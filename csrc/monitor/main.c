/* pycrio-monitor: one per container. Starts the OCI runtime, owns the container's stdio, writes its log, serves attach
 * and resize, records the exit. This file is the order of events; the facts are conmon's. */
#include <fcntl.h>
#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"
#include "monitor/monitor.h"

#ifndef PC_VERSION
#define PC_VERSION "dev"
#endif
#define CONMON_VERSION "2.2.1" /* whose command line and protocols these are; callers probe for it */

static void put(int fd, const char *const parts[], int n) {
        for (int i = 0; i < n; i++)
                (void) !write(fd, parts[i], strlen(parts[i]));
}
#define PUT(fd, ...)                                                                                                   \
        put(fd, (const char *const[]){__VA_ARGS__}, (int) (sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)))

static _Noreturn void refuse(const char *prefix, const char *text) {
        PUT(STDERR_FILENO, prefix, text, "\n");
        _exit(1);
}

static _Noreturn void show_help(void) {
        PUT(STDOUT_FILENO, "Usage:\n  conmon [OPTION…] - container monitor (pycrio-monitor)\n\nOptions:\n");
        const char *name, *help;
        char letter;
        for (int i = 0; (help = pc_args_help(i, &name, &letter)); i++) {
                if (!*help)
                        continue;
                const char pad[] = "                                 ";
                char dash[] = {'-', letter, ',', ' ', '\0'};
                size_t n = strlen(name) + (letter ? 4 : 0);
                PUT(STDOUT_FILENO, "  ", letter ? dash : "", "--", name, pad + (n < 32 ? n : 32), help, "\n");
        }
        _exit(0);
}

static void init(struct pc_mon *m, const struct pc_args *a, char *memory, struct pc_client *clients) {
        *m = (struct pc_mon){.args = a};
        m->epoll = m->signals = m->start_pipe = m->sync_pipe = m->attach_pipe = m->null = m->attach_listen =
            m->stdin_fd = -1;
        m->ctl = m->winsz = m->console = m->oom = m->oom_control = m->notify = m->notify_host = m->container_pidfd = -1;
        m->relay[0] = m->relay[1] = -1;
        for (int i = 0; i < 3; i++)
                m->worker[i] = -1;
        for (int i = 0; i < 2; i++)
                m->in[i] = (struct pc_stream_in){.fd = -1, .buf = memory + (size_t) i * PC_STREAM_CAP};
        m->work = memory + 2 * PC_STREAM_CAP;
        m->stdin_buf = m->work + PC_WORK_CAP;
        m->sink = PC_SINK_NONE;
        m->runtime = m->container = -1;
        m->clients = clients;
        pc_fan_init(&m->fan, clients);
        pc_say_init(m);
}

static _Noreturn void die(struct pc_mon *m, const struct pc_err *e) {
        pc_say_err(m, PC_LEVEL_ERROR, e);
        pc_finish(m, 1);
}

/* Everything that is checked before the caller lets us go; its stderr is still ours. */
static void prepare(struct pc_mon *m) {
        static char cwd[PATH_MAX], pidfile[PATH_MAX];
        const struct pc_args *a = m->args;
        struct pc_err err;
        m->bundle = a->bundle;
        m->pidfile = a->container_pidfile;
        if ((!m->bundle && !a->exec) || !m->pidfile) {
                if (!getcwd(cwd, sizeof cwd)) {
                        (void) pc_fail_errno(&err, "Failed to get working directory", NULL);
                        die(m, &err);
                }
                if (!m->bundle && !a->exec)
                        m->bundle = cwd;
                if (!m->pidfile && pc_join(pidfile, sizeof pidfile, (const char *const[]){cwd, "/pidfile-", a->cid}, 3))
                        m->pidfile = pidfile;
        }
        if (!m->pidfile) {
                (void) pc_fail(&err, ENAMETOOLONG, "pid file", a->cid);
                die(m, &err);
        }
        if (pc_setup_log(m, &err) < 0 || pc_setup_env(m, &err) < 0)
                die(m, &err);
        if (a->no_partial_field && !m->log.journal)
                pc_say(m, PC_LEVEL_WARN, "--no-container-partial-message has no effect without journald log driver",
                       NULL, 0);
}

/* Sockets, fifos and pipes, then the runtime. */
static int start(struct pc_mon *m, struct pc_err *reterr) {
        const struct pc_args *a = m->args;
        int r = pc_loop_open(m, reterr);
        if (r == 0 && a->sdnotify_socket && m->bundle)
                r = pc_notify_open(m, reterr);
        if (r == 0 && a->terminal)
                r = pc_console_open(m, reterr);
        if (r == 0 && !m->log.passthrough)
                r = pc_setup_stdio(m, reterr);
        if (r == 0 && m->bundle && !m->log.passthrough) {
                r = pc_attach_open(m, reterr);
                if (r == 0)
                        r = pc_control_open(m, reterr);
                if (r == 0 && m->attach_pipe >= 0) {
                        int sync = m->sync_pipe;
                        m->sync_pipe = m->attach_pipe;
                        pc_report(m, 0, NULL, 0);
                        m->sync_pipe = sync;
                        pc_closep(&m->attach_pipe);
                }
        }
        if (r == 0)
                r = pc_runtime_start(m, reterr);
        if (r == 0 && m->log.passthrough)
                pc_disconnect_stdio(m);
        pc_stream_watch(m, true);
        return r;
}

static bool runtime_ended(const struct pc_mon *m) {
        return m->runtime_done;
}

static bool container_ended(const struct pc_mon *m) {
        return m->container_done || m->timed_out;
}

static int exit_status(int status) {
        return WIFEXITED(status) ? WEXITSTATUS(status) : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : -1;
}

static _Noreturn void start_failed(struct pc_mon *m, const char *why, const char *fallback) {
        char text[PC_TEXT];
        size_t n = pc_runtime_text(m, text);
        if (n == 0 && fallback) {
                n = strlen(fallback);
                memcpy(text, fallback, n);
        }
        pc_report(m, -1, text, n);
        pc_say(m, PC_LEVEL_ERROR, why, NULL, 0);
        pc_finish(m, 1);
}

static pid_t read_pid(struct pc_mon *m, struct pc_err *reterr) {
        _cleanup_fd_ int fd = open(m->pidfile, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return pc_fail_errno(reterr, "Failed to read pidfile", m->pidfile);
        char text[24];
        ssize_t n = pc_read_all(fd, text, sizeof text - 1);
        int pid = n > 0 ? pc_pid_parse(text, (size_t) n) : 0;
        return pid > 0 ? pid : pc_fail(reterr, EINVAL, "No pid in pidfile", m->pidfile);
}

/* The runtime has ended: is there a container? */
static void meet_container(struct pc_mon *m) {
        const struct pc_args *a = m->args;
        if (a->terminal && m->console >= 0)
                pc_console_event(m); /* it may have come together with the runtime's end */
        if (!a->exec && exit_status(m->runtime_status) != 0)
                start_failed(m, "Failed to create container", NULL);
        if (a->terminal && m->in[PC_STDOUT].fd < 0) {
                static const char why[] = "Runtime did not set up terminal";
                pc_report(m, -1, why, sizeof why - 1);
                pc_say(m, PC_LEVEL_ERROR, why, NULL, 0);
                pc_finish(m, 1);
        }
        struct pc_err err;
        pid_t pid = read_pid(m, &err);
        if (pid < 0) {
                char text[PC_ERR_PATH + 128];
                if (!pc_join(text, sizeof text,
                             (const char *const[]){err.step, " ", err.path, ": ", strerror(err.code)}, 5))
                        text[0] = '\0';
                start_failed(m, "Failed to read pidfile", text);
        }
        m->container = pid;
        int status;
        pid_t r = waitpid(pid, &status, WNOHANG);
        if (r == pid) {
                m->container_status = status;
                m->container_done = true;
        } else if (r < 0) { /* not ours to reap: watch it from outside */
                m->container_pidfd = pc_pidfd_open(pid, 0);
                m->container_status = -1; /* which nobody can tell us */
                if (m->container_pidfd < 0 || pc_watch(m, m->container_pidfd, 1 /* EPOLLIN */, EV_PIDFD, 0) < 0)
                        m->container_done = true;
        }
        if (a->api_version || !a->exec)
                pc_report(m, pid, NULL, 0);
}

static void serve(struct pc_mon *m) {
        if (!m->container_done)
                pc_oom_open(m);
        if (m->container_done)
                m->container = -1;
        m->hold = false;
        for (int i = 0; i < 2; i++) {
                pc_stream_show(m, i);
                pc_stream_emit(m, i, m->in[i].fd < 0 ? PC_PUT_ALL : PC_PUT_LINES);
        }
        if (m->in[0].len || m->in[1].len)
                m->tail_deadline = pc_now_ms();
        if (m->args->timeout > 0)
                m->kill_deadline = pc_now_ms() + (int64_t) m->args->timeout * 1000;
        /* Naps are tens of microseconds; the default slack would double them. Set after the runtime's start, because
         * children inherit it. */
        (void) prctl(PR_SET_TIMERSLACK, 5000UL, 0, 0, 0);
#ifdef __GLIBC__
        (void) malloc_trim(0);
#endif
        pc_trim_stack();
        pc_loop_run(m, container_ended);
        pc_oom_final(m);
        pc_stream_drain(m);
        struct pc_err err;
        if (!m->args->no_sync_log && pc_sink_sync(&m->sink, &err) < 0)
                pc_say_err(m, PC_LEVEL_WARN, &err);
}

static _Noreturn void conclude(struct pc_mon *m) {
        static const char late[] = "command timed out";
        struct pc_err err;
        int status;
        bool killed = m->timed_out && m->container > 0;
        if (killed) {
                /* The group, unless that would be everybody. */
                pid_t group = getpgid(m->container);
                (void) kill(group > 1 ? -group : m->container, SIGKILL);
                status = -1;
        } else
                status = exit_status(m->container_status);
        for (unsigned i = 0; i < m->fan.used; i++)
                if (m->fan.clients[i].fd >= 0)
                        (void) pc_fan_flush(&m->fan, (int) i);
        pc_close_foreign(m);
        int r = pc_report_exit(m, status, &err);
        if (m->args->exec)
                pc_report(m, status, late, killed ? sizeof late - 1 : 0);
        pc_attach_finish(m);
        pc_finish(m, r < 0 ? 1 : status);
}

int main(int argc, char **argv) {
        struct pc_args args;
        const char *pool[argc + 1];
        char text[PC_ARGS_TEXT];
        if (pc_args_parse(argc, argv, pool, &args, text) < 0)
                refuse("conmon: option parsing failed: ", text);
        if (args.help)
                show_help();
        if (args.version) {
                PUT(STDOUT_FILENO, "conmon version " CONMON_VERSION "\ncommit: pycrio-" PC_VERSION "\n");
                return 0;
        }
        if (args.log_max_files < 0)
                refuse("conmon: ", "log-max-files must be non-negative");
        if (args.log_rotate && args.log_max_files == 0)
                refuse("conmon: ", "log-max-files must be at least 1 when log-rotate is enabled");
        if (!args.cid)
                refuse("conmon: ", "Container ID not provided. Use --cid");
        if (pc_args_check(&args, text) < 0)
                refuse("[conmon:e]: ", text);

        /* The buffers cost nothing until they are used, and are given back when they are not. */
        static struct pc_mon mon;
        static struct pc_client clients[PC_CLIENTS_MAX];
        char *memory = mmap(NULL, 2 * PC_STREAM_CAP + PC_WORK_CAP + PC_STDIN_CAP, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
                refuse("[conmon:e]: ", "out of memory");
        struct pc_mon *m = &mon;
        struct pc_err err;
        init(m, &args, memory, clients);
        if (access(args.runtime, X_OK) < 0) {
                (void) pc_fail_errno(&err, "Runtime path is not valid:", args.runtime);
                die(m, &err);
        }
        if (pc_args_check_job(&args, text) < 0 || pc_args_log(&args, &m->log, text) < 0)
                refuse("[conmon:e]: ", text);

        (void) umask(022);
        prepare(m);
        pc_oom_adjust(m);
        (void) signal(SIGPIPE, SIG_IGN);
        if (pc_setup_start_wait(m, &err) < 0)
                die(m, &err);
        int r = pc_setup_daemon(m, &err);
        if (r > 0)
                return 0; /* the caller's child: its work is done */
        if (r < 0 || start(m, &err) < 0) {
                /* The caller waits for a report and no longer reads our stderr. */
                char why[PC_ERR_PATH + 128];
                size_t n = pc_join(why, sizeof why,
                                   (const char *const[]){err.step, " ", err.path, ": ", strerror(err.code)}, 5);
                pc_report(m, -1, why, n);
                die(m, &err);
        }

        pc_loop_run(m, runtime_ended);
        meet_container(m);
        serve(m);
        conclude(m);
}
