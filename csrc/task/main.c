/* pycrio-task: stands for a container that a containerd shim runs, as the process that a container monitor watches.
 *
 * A monitor starts it as it starts an OCI runtime ("--root=DIR create --bundle … --pid-file FILE ID"). It has the shim
 * create the container (the message is in DIR/ID/create, the shim's address in DIR/ID/address), leaves a child behind
 * and writes the child's pid into the pid file. The child carries input, output and terminal sizes between the monitor
 * and the shim's fifos, waits for the container's end and ends with its exit code. So the monitor, and with it log,
 * attach and exit file, are the same as with an OCI runtime, and none of it needs the daemon. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"
#include "task/task.h"

#ifndef PC_VERSION
#define PC_VERSION "dev"
#endif

#define CHUNK (64u << 10)
#define ANSWERS_CAP (PC_RPC_MAX + PC_RPC_HEADER)
#define QUIET_MS 2000 /* after the end: how long to wait for output of whoever still holds the fifos */
#define KILLED 137
enum { STREAM_CREATE = 1, STREAM_WAIT = 3, STREAM_FIRST_FREE = 5 };
enum { WAITED_EXIT_STATUS = 1 };

struct task {
        const char *root, *id, *pid_file, *console;
        char service[64];
        int shim, out[2], in, signals; /* in: our end of the fifo for input */
        bool tty, reading;             /* reading: there may be more input */
        uint32_t next;
        char *answers; /* ANSWERS_CAP */
        size_t held;
        char *input; /* CHUNK */
        size_t input_n, input_off;
        int code; /* -1: runs */
};

static _Noreturn void die(const struct pc_err *e) {
        fprintf(stderr, "%s%s%s: %s\n", e->step, e->path[0] ? " " : "", e->path, strerror(e->code));
        exit(1);
}

static _Noreturn void usage(void) {
        fprintf(stderr, "usage: pycrio-task --root=DIR [--systemd-cgroup] create --bundle DIR --pid-file FILE "
                        "[--console-socket PATH] ID\n");
        exit(1);
}

/* --- command line ------------------------------------------------------------------------------------------------- */

static void parse(struct task *t, int argc, char **argv) {
        static const struct option options[] = {
            {"root", required_argument, NULL, 'r'},
            {"systemd-cgroup", no_argument, NULL, 'i'},
            {"bundle", required_argument, NULL, 'i'},
            {"pid-file", required_argument, NULL, 'p'},
            {"no-pivot", no_argument, NULL, 'i'},
            {"no-new-keyring", no_argument, NULL, 'i'},
            {"console-socket", required_argument, NULL, 'c'},
            {"version", no_argument, NULL, 'v'},
            {NULL, 0, NULL, 0},
        };
        int c;
        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                if (c == 'r')
                        t->root = optarg;
                else if (c == 'p')
                        t->pid_file = optarg;
                else if (c == 'c')
                        t->console = optarg;
                else if (c == 'v') {
                        printf("pycrio-task version %s\n", PC_VERSION);
                        exit(0);
                } else if (c != 'i')
                        usage();
        }
        if (argc - optind != 2 || strcmp(argv[optind], "create") != 0)
                usage();
        t->id = argv[optind + 1];
        if (!t->root || !t->pid_file || strlen(t->id) > PC_ID_MAX || strchr(t->id, '/'))
                usage();
}

/* --- the shim ----------------------------------------------------------------------------------------------------- */

static int read_service(struct task *t, struct pc_err *reterr) {
        _cleanup_fd_ int file = open("service", O_RDONLY | O_CLOEXEC);
        ssize_t n = file < 0 ? -1 : pc_read_all(file, t->service, sizeof t->service - 1);
        return n > 0 ? 0 : pc_fail(reterr, ENOENT, "read the name of the shim's service", NULL);
}

static int connect_shim(struct task *t, struct pc_err *reterr) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        _cleanup_fd_ int file = open("socket", O_RDONLY | O_CLOEXEC);
        ssize_t n = file < 0 ? -1 : pc_read_all(file, to.sun_path, sizeof to.sun_path);
        if (n <= 0 || n == sizeof to.sun_path)
                return pc_fail(reterr, n == sizeof to.sun_path ? ENAMETOOLONG : ENOENT, "read address of the shim",
                               NULL);
        t->shim = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        /* A path, or a name of the abstract namespace, which begins with NUL. */
        socklen_t length = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + (size_t) n);
        if (t->shim < 0 || connect(t->shim, (struct sockaddr *) &to, length) < 0)
                return pc_fail_errno(reterr, "connect to the shim", to.sun_path);
        return 0;
}

static int send_call(struct task *t, uint32_t stream, const char *method, struct pc_bytes payload) {
        size_t cap = payload.n + PC_RPC_CALL_EXTRA;
        _cleanup_free_ char *call = malloc(cap);
        size_t n = call ? pc_rpc_call(call, cap, stream, (const char *const[2]){t->service, method}, payload) : 0;
        return n ? pc_write_all(t->shim, call, n) : -E2BIG;
}

/* Read what there is; 0 at the end of the connection. */
static ssize_t read_answers(struct task *t) {
        ssize_t n;
        do
                n = read(t->shim, t->answers + t->held, ANSWERS_CAP - t->held);
        while (n < 0 && errno == EINTR);
        if (n > 0)
                t->held += (size_t) n;
        return n;
}

static void drop_answer(struct task *t, int64_t n) {
        t->held -= (size_t) n;
        memmove(t->answers, t->answers + n, t->held);
}

/* Have the shim create the container; its words when it does not. */
static int create(struct task *t, struct pc_err *reterr) {
        struct stat st;
        _cleanup_fd_ int file = open("create", O_RDONLY | O_CLOEXEC);
        if (file < 0 || fstat(file, &st) < 0)
                return pc_fail_errno(reterr, "open the message", "create");
        _cleanup_free_ char *payload = malloc((size_t) st.st_size + 1);
        ssize_t n = payload ? pc_read_all(file, payload, (size_t) st.st_size) : -ENOMEM;
        if (n < 0)
                return pc_fail(reterr, (int) -n, "read the message", "create");
        int r = send_call(t, STREAM_CREATE, "Create", (struct pc_bytes){payload, (size_t) n});
        if (r < 0)
                return pc_fail(reterr, r, "call the shim", NULL);
        for (;;) {
                struct pc_answer a;
                int64_t length = pc_rpc_answer(t->answers, t->held, &a);
                if (length < 0)
                        return pc_fail(reterr, (int) -length, "read the shim's answer", NULL);
                if (length > 0 && a.is_answer && a.stream == STREAM_CREATE) {
                        if (a.code != 0) {
                                fprintf(stderr, "%.*s\n", (int) a.message.n, a.message.p);
                                exit(1);
                        }
                        drop_answer(t, length);
                        return 0;
                }
                if (length > 0)
                        drop_answer(t, length);
                else if (read_answers(t) <= 0)
                        return pc_fail(reterr, ECONNRESET, "wait for the shim's answer", NULL);
        }
}

/* Whether the connection is of use still. */
static bool take_answers(struct task *t) {
        ssize_t got = read_answers(t);
        for (;;) {
                struct pc_answer a;
                int64_t length = pc_rpc_answer(t->answers, t->held, &a);
                if (length < 0)
                        return false;
                if (length == 0)
                        return got > 0;
                if (a.is_answer && a.stream == STREAM_WAIT && t->code < 0) {
                        uint64_t status = 0; /* a zero is not sent */
                        (void) pc_rpc_number(a.payload, WAITED_EXIT_STATUS, &status);
                        if (a.code != 0)
                                return false; /* it knows nothing of the container: whatever is left of it is to end */
                        t->code = (int) (status & 0xff);
                }
                drop_answer(t, length);
        }
}

/* --- input, output, terminal ---------------------------------------------------------------------------------------
 */

static int open_fifos(struct task *t, struct pc_err *reterr) {
        static const char *const names[2] = {"stdout", "stderr"};
        for (int i = 0; i < 2; i++) {
                t->out[i] = open(names[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
                if (t->out[i] < 0 && errno != ENOENT)
                        return pc_fail_errno(reterr, "open fifo", names[i]);
        }
        /* For both: so it can be opened before the shim reads it, and writing never fails for want of a reader. */
        t->in = open("stdin", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (t->in < 0 && errno != ENOENT)
                return pc_fail_errno(reterr, "open fifo", "stdin");
        t->reading = t->in >= 0;
        return 0;
}

/* A terminal of our own as standard input and output; its other side goes to the monitor. */
static int open_terminal(struct task *t, struct pc_err *reterr) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        struct termios raw;
        int master, slave;
        if (strlen(t->console) >= sizeof to.sun_path)
                return pc_fail(reterr, ENAMETOOLONG, "connect to the console socket", t->console);
        memcpy(to.sun_path, t->console, strlen(t->console) + 1);
        if (openpty(&master, &slave, NULL, NULL, NULL) < 0)
                return pc_fail_errno(reterr, "open a terminal", NULL);
        _cleanup_fd_ int ours = slave, theirs = master;
        /* The container's own terminal edits lines and echoes; this one must not do it once more. */
        if (tcgetattr(ours, &raw) < 0)
                return pc_fail_errno(reterr, "tcgetattr", NULL);
        cfmakeraw(&raw);
        if (tcsetattr(ours, TCSANOW, &raw) < 0)
                return pc_fail_errno(reterr, "tcsetattr", NULL);
        _cleanup_fd_ int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (socket_fd < 0 || connect(socket_fd, (struct sockaddr *) &to, sizeof to) < 0)
                return pc_fail_errno(reterr, "connect to the console socket", t->console);
        int r = pc_send_fd(socket_fd, theirs);
        if (r < 0)
                return pc_fail(reterr, r, "send the terminal", NULL);
        for (int i = 0; i < 3; i++)
                if (dup2(ours, i) < 0)
                        return pc_fail_errno(reterr, "dup2", NULL);
        t->tty = true;
        return 0;
}

static void copy_output(struct task *t, int which, short events) {
        char buf[CHUNK];
        ssize_t n = events & POLLIN ? read(t->out[which], buf, sizeof buf) : 0;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) { /* the shim has closed it */
                pc_closep(&t->out[which]);
                return;
        }
        /* Without a monitor nobody wants it, but the container must not stand still. */
        (void) pc_write_all(which == 0 || t->tty ? STDOUT_FILENO : STDERR_FILENO, buf, (size_t) n);
}

/* The shim holds the fifo open as well; told to, it lets go when it has read what is in there. */
static void end_input(struct task *t) {
        char message[PC_ID_MAX + 16];
        size_t n = pc_rpc_close_stdin(message, sizeof message, t->id);
        t->reading = false;
        pc_closep(&t->in);
        if (n && t->shim >= 0)
                (void) send_call(t, t->next, "CloseIO", (struct pc_bytes){message, n});
        t->next += 2;
}

static void flush_input(struct task *t) {
        while (t->input_off < t->input_n) {
                ssize_t n = write(t->in, t->input + t->input_off, t->input_n - t->input_off);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return; /* full: poll tells */
                t->input_off += (size_t) n;
        }
        t->input_n = t->input_off = 0;
}

static void copy_input(struct task *t) {
        ssize_t n = read(STDIN_FILENO, t->input, CHUNK);
        if (n < 0 && errno == EINTR)
                return;
        if (n > 0) {
                t->input_n = (size_t) n;
                flush_input(t);
        } else if (t->tty)
                t->reading = false; /* the monitor is gone; a terminal has no end of input */
        else
                end_input(t);
}

static void tell_size(struct task *t) {
        struct winsize size;
        char message[PC_ID_MAX + 32];
        if (t->shim < 0 || ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
                return;
        size_t n = pc_rpc_resize(message, sizeof message, t->id, size.ws_col, size.ws_row);
        if (n)
                (void) send_call(t, t->next, "ResizePty", (struct pc_bytes){message, n});
        t->next += 2;
}

static void take_signal(struct task *t) {
        struct signalfd_siginfo info;
        if (read(t->signals, &info, sizeof info) == sizeof info && t->tty)
                tell_size(t);
}

/* --- the child ---------------------------------------------------------------------------------------------------- */

/* One round. False when the container has ended and nothing of its output is to come. */
static bool turn(struct task *t) {
        enum { SHIM, OUT, ERR, FROM, TO, SIGNALS, N };
        bool full = t->input_n > t->input_off;
        struct pollfd p[N] = {
            [SHIM] = {.fd = t->code < 0 ? t->shim : -1, .events = POLLIN},
            [OUT] = {.fd = t->out[0], .events = POLLIN},
            [ERR] = {.fd = t->out[1], .events = POLLIN},
            [FROM] = {.fd = t->reading && !full ? STDIN_FILENO : -1, .events = POLLIN},
            [TO] = {.fd = full ? t->in : -1, .events = POLLOUT},
            [SIGNALS] = {.fd = t->signals, .events = POLLIN},
        };
        if (t->code >= 0 && t->out[0] < 0 && t->out[1] < 0)
                return false;
        int r = poll(p, N, t->code < 0 ? -1 : QUIET_MS);
        if (r < 0)
                return errno == EINTR;
        if (r == 0)
                return false;
        if (p[OUT].revents)
                copy_output(t, 0, p[OUT].revents);
        if (p[ERR].revents)
                copy_output(t, 1, p[ERR].revents);
        if (p[SIGNALS].revents)
                take_signal(t);
        if (p[TO].revents)
                flush_input(t);
        if (p[FROM].revents)
                copy_input(t);
        if (p[SHIM].revents && !take_answers(t) && t->code < 0) {
                pc_closep(&t->shim);
                t->code = pc_dead_shim();
        }
        return true;
}

static void open_signals(struct task *t) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGWINCH);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        t->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        (void) signal(SIGPIPE, SIG_IGN); /* the monitor may be killed; the container goes on */
        (void) signal(SIGHUP, SIG_IGN);
}

static _Noreturn void stand_in(struct task *t) {
        char message[PC_ID_MAX + 16];
        (void) prctl(PR_SET_PDEATHSIG, 0);
        (void) prctl(PR_SET_NAME, "pycrio-task");
        (void) setsid();
        if (t->tty)
                (void) ioctl(STDIN_FILENO, TIOCSCTTY, 0);
        size_t n = pc_rpc_container(message, sizeof message, t->id);
        if (send_call(t, STREAM_WAIT, "Wait", (struct pc_bytes){message, n}) < 0)
                t->code = pc_dead_shim();
        if (t->tty)
                tell_size(t); /* one that was set before signals of it came to us */
        while (turn(t))
                ;
        _exit(t->code < 0 ? KILLED : t->code);
}

static int write_pid(const char *path, pid_t pid, struct pc_err *reterr) {
        char text[24];
        int n = snprintf(text, sizeof text, "%d", pid);
        _cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        int r = fd < 0 ? -errno : pc_write_all(fd, text, (size_t) n);
        return r < 0 ? pc_fail(reterr, r, "write the pid file", path) : 0;
}

static void enter(const struct task *t, struct pc_err *e) {
        _cleanup_fd_ int dir = open(t->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        _cleanup_fd_ int own = dir < 0 ? -1 : openat(dir, t->id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (own < 0 || fchdir(own) < 0) {
                (void) pc_fail_errno(e, "enter the directory of container", t->id);
                die(e);
        }
}

int main(int argc, char **argv) {
        struct task t = {.shim = -1, .out = {-1, -1}, .in = -1, .signals = -1, .next = STREAM_FIRST_FREE, .code = -1};
        struct pc_err e;
        parse(&t, argc, argv);
        t.answers = malloc(ANSWERS_CAP);
        t.input = malloc(CHUNK);
        if (!t.answers || !t.input) {
                (void) pc_fail(&e, ENOMEM, "allocate buffers", NULL);
                die(&e);
        }
        enter(&t, &e);
        if (read_service(&t, &e) < 0 || open_fifos(&t, &e) < 0 || connect_shim(&t, &e) < 0 || create(&t, &e) < 0)
                die(&e);
        if (t.console && open_terminal(&t, &e) < 0)
                die(&e);
        open_signals(&t);
        pid_t child = fork();
        if (child < 0) {
                (void) pc_fail_errno(&e, "fork", NULL);
                die(&e);
        }
        if (child == 0)
                stand_in(&t);
        if (write_pid(t.pid_file, child, &e) < 0) {
                (void) kill(child, SIGKILL);
                die(&e);
        }
        return 0;
}
