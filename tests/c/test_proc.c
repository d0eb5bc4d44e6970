// SRC: csrc/proc/*.c
/* The proc unit from C: what a program finds (descriptors, signals, session), failures of every step, reaping. */
#include "common/fd.h"
#include "common/io.h"
#include "proc/child.h"
#include "tap.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[] = "/tmp/test_proc.XXXXXX";
static char *no_env[] = {NULL};

static int shell(const char *script, const struct pc_spawn *base, const struct pc_spawn_fd *fds, size_t n) {
        char *argv[] = {"sh", "-c", (char *) script, NULL};
        struct pc_spawn s = *base;
        s.path = "/bin/sh";
        s.argv = argv;
        if (!s.envp)
                s.envp = no_env;
        s.fds = fds;
        s.n_fds = n;
        struct pc_err err;
        struct pc_exit end;
        int pid, pidfd;
        if (pc_spawn(&s, &pid, &pidfd, &err) < 0)
                return -err.code;
        int r = pc_wait(pidfd, false, &end, &err);
        close(pidfd);
        return r < 0 ? r : end.signal ? 128 + end.signal : end.code;
}

/* What the script wrote to descriptor 1. */
static const char *output(const char *script, const struct pc_spawn *base) {
        static char text[8192];
        int p[2];
        if (pipe2(p, O_CLOEXEC) < 0)
                return "pipe";
        struct pc_spawn_fd fds[] = {{1, p[1]}, {0, p[0]}, {2, 2}};
        int r = shell(script, base, fds, 3);
        close(p[1]);
        ssize_t n = pc_read_all(p[0], text, sizeof text - 1);
        close(p[0]);
        if (r != 0 || n < 0)
                return "failed";
        text[n] = '\0';
        return text;
}

static int spawn_errno(const struct pc_spawn *s, const char *step) {
        struct pc_err err = {.code = 0};
        int pid = -7, pidfd = -7;
        int r = pc_spawn(s, &pid, &pidfd, &err);
        if (r >= 0 || r != -err.code || strcmp(err.step, step) != 0 || pid != -7 || pidfd != -7) {
                printf("# r=%d step=%s\n", r, r < 0 ? err.step : "none");
                return 0;
        }
        return err.code;
}

static int write_file(const char *name, const char *text, mode_t mode, char *ret_path) {
        snprintf(ret_path, PATH_MAX, "%s/%s", dir, name);
        int fd = open(ret_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0 || pc_write_all(fd, text, strlen(text)) < 0 || fchmod(fd, mode) < 0)
                return -1;
        close(fd);
        return 0;
}

static void test_exit(void) {
        struct pc_spawn base = {.flags = PC_SPAWN_SESSION};
        ok(shell("exit 0", &base, NULL, 0) == 0, "exit code 0");
        ok(shell("exit 255", &base, NULL, 0) == 255, "exit code 255");
        ok(shell("kill -SEGV $$", &base, NULL, 0) == 128 + SIGSEGV, "signal is told apart");
}

static void test_fds(void) {
        struct pc_spawn base = {.flags = 0};
        int many[200];
        for (int i = 0; i < 200; i++)
                many[i] = open("/dev/null", O_RDWR); /* on purpose not close-on-exec */
        ok(strcmp(output("echo /proc/self/fd/*", &base),
                  "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n") == 0,
           "nothing is inherited beyond the table (3 is the shell's own directory handle)");
        int a[2], b[2];
        if (pipe2(a, O_CLOEXEC) < 0 || pipe2(b, O_CLOEXEC) < 0)
                abort();
        /* Swap: every number is source of one entry and target of another. */
        struct pc_spawn_fd swap[] = {{a[1], b[1]}, {b[1], a[1]}, {a[0], 0 + many[0]}, {1000, a[1]}};
        char script[200];
        snprintf(script, sizeof script,
                 "printf A >/proc/self/fd/%d; printf B >/proc/self/fd/%d; printf C >/proc/self/fd/1000", a[1], b[1]);
        int r = shell(script, &base, swap, 4);
        char got[4] = "", got2[4] = "";
        close(a[1]);
        close(b[1]);
        (void) pc_read_all(a[0], got, 3);
        (void) pc_read_all(b[0], got2, 3);
        ok(r == 0 && !strcmp(got, "BC") && !strcmp(got2, "A"), "a table that permutes its own sources");
        close(a[0]);
        close(b[0]);
        for (int i = 0; i < 200; i++)
                close(many[i]);
}

static void test_bad_table(void) {
        char *argv[] = {"true", NULL};
        struct pc_spawn_fd twice[] = {{1, 1}, {1, 2}}, negative[] = {{1, -1}}, closed[] = {{1, 999}};
        struct pc_spawn_fd many[PC_SPAWN_MAX_FDS + 1];
        struct pc_spawn s = {.path = "/bin/true", .argv = argv, .envp = no_env, .fds = twice, .n_fds = 2};
        for (int i = 0; i <= PC_SPAWN_MAX_FDS; i++)
                many[i] = (struct pc_spawn_fd){i, 0};
        ok(spawn_errno(&s, "descriptor table") == EINVAL, "one target twice is EINVAL");
        s.fds = negative, s.n_fds = 1;
        ok(spawn_errno(&s, "descriptor table") == EINVAL, "a negative source is EINVAL");
        s.fds = closed;
        ok(spawn_errno(&s, "dup") == EBADF, "a closed source is EBADF from the child");
        s.fds = many, s.n_fds = PC_SPAWN_MAX_FDS + 1;
        ok(spawn_errno(&s, "descriptor table") == E2BIG, "too many entries are E2BIG");
        s.n_fds = PC_SPAWN_MAX_FDS;
        int pid, pidfd = -1;
        struct pc_exit end = {.code = 1};
        ok(pc_spawn(&s, &pid, &pidfd, NULL) == 0 && pc_wait(pidfd, false, &end, NULL) == 1 && end.code == 0,
           "the full number of entries works");
        close(pidfd);
}

/* In a forked copy, because it loses its own standard descriptors. */
static void test_closed_stdio(void) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
                close(0), close(1), close(2);
                (void) open("/dev/null", O_RDWR | O_CLOEXEC); /* is 0 now; the pipe will be 1 and 2 */
                struct pc_spawn base = {.flags = PC_SPAWN_SESSION};
                _exit(strcmp(output("echo hello", &base), "hello\n") == 0 ? 0 : 1);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        ok(status == 0, "works where 0, 1 and 2 are closed and become the pipe's numbers");
}

/* A seccomp filter as container hosts have it: clone3 "does not exist". */
static void test_no_clone3(void) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
                struct sock_filter code[] = {
                    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 435, 0, 1),
                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                };
                struct sock_fprog filter = {sizeof code / sizeof *code, code};
                if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
                        _exit(3);
                struct pc_spawn base = {.flags = PC_SPAWN_SESSION}, bad = {.flags = PC_SPAWN_CGROUP, .cgroup_fd = 999};
                bool good = shell("exit 42", &base, NULL, 0) == 42 && shell("exit 0", &bad, NULL, 0) == -EBADF;
                _exit(good ? 0 : 1);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        ok(status == 0, "works where clone3 is hidden");
}

static void on_signal(int sig) {
        (void) sig;
}

static void test_signals(void) {
        struct sigaction ign = {.sa_handler = SIG_IGN}, handler = {.sa_handler = on_signal},
                         dfl = {.sa_handler = SIG_DFL};
        sigset_t block, before, after;
        sigaction(SIGPIPE, &ign, NULL);
        sigaction(SIGUSR1, &handler, NULL);
        sigaction(SIGRTMIN + 3, &ign, NULL);
        sigfillset(&block);
        pthread_sigmask(SIG_SETMASK, &block, &before);
        struct pc_spawn base = {.flags = PC_SPAWN_SESSION};
        const char *text = output("sed -n '/^Sig[BIC]/p' /proc/self/status", &base);
        ok(!strcmp(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n"),
           "no signal is blocked, ignored or caught in the program");
        sigset_t now;
        pthread_sigmask(SIG_SETMASK, NULL, &now);
        ok(sigismember(&now, SIGUSR2) == 1 && sigismember(&now, SIGTERM) == 1, "our own mask is put back");
        pthread_sigmask(SIG_SETMASK, &before, &after);
        sigaction(SIGPIPE, &dfl, NULL);
        sigaction(SIGUSR1, &dfl, NULL);
        sigaction(SIGRTMIN + 3, &dfl, NULL);
}

static void test_place(void) {
        struct pc_spawn base = {.flags = PC_SPAWN_SESSION | PC_SPAWN_OOM, .oom_score_adj = 321, .cwd = "/usr"};
        ok(!strcmp(
               output(
                   "set -- $(cat /proc/$$/stat); echo $(($6 == $$)) $(($5 == $$)); pwd; cat /proc/self/oom_score_adj",
                   &base),
               "1 1\n/usr\n321\n"),
           "session, group, working directory and OOM score");
        ok(!strcmp(output("cat /proc/self/oom_score_adj", &(struct pc_spawn){.flags = 0}), "0\n"),
           "our own OOM score has not moved");
        int fd = open("/dev/null", O_WRONLY | O_CLOEXEC), bad = open("/dev/null", O_RDONLY | O_CLOEXEC);
        struct pc_spawn procs = {.procs_fds = &fd, .n_procs_fds = 1};
        ok(shell("exit 0", &procs, NULL, 0) == 0, "cgroup.procs files are written");
        procs.procs_fds = &bad;
        ok(shell("exit 0", &procs, NULL, 0) == -EBADF, "a cgroup that refuses is an error");
        close(fd);
        close(bad);
        struct pc_spawn death = {.pdeathsig = SIGTERM};
        ok(shell("exit 0", &death, NULL, 0) == 0, "parent death signal can be set");
}

static void test_exec_errors(void) {
        char path[PATH_MAX];
        char *argv[] = {"x", NULL};
        struct pc_spawn s = {.path = "/nonexistent/x", .argv = argv, .envp = no_env};
        ok(spawn_errno(&s, "exec") == ENOENT, "ENOENT");
        s.path = "/etc/passwd";
        ok(spawn_errno(&s, "exec") == EACCES, "EACCES");
        s.path = path;
        write_file("noexec", "no interpreter line\n", 0755, path);
        ok(spawn_errno(&s, "exec") == ENOEXEC, "ENOEXEC is reported, not handed to a shell");
        write_file("lost", "#!/nonexistent/interpreter\n", 0755, path);
        ok(spawn_errno(&s, "exec") == ENOENT, "a missing interpreter");
        s.path = "/bin/true";
        s.cwd = "/nonexistent";
        ok(spawn_errno(&s, "chdir") == ENOENT, "a missing working directory");
        s.cwd = NULL;
        s.flags = PC_SPAWN_CGROUP;
        s.cgroup_fd = 999;
        ok(spawn_errno(&s, "clone") == EBADF, "a cgroup descriptor that is none");
        s.flags = PC_SPAWN_OOM;
        s.oom_score_adj = 5000;
        ok(spawn_errno(&s, "oom_score_adj") == EINVAL, "an OOM score out of range");
        ok(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "no failure has left a process");
}

static void test_huge(void) {
        static char *env[1001];
        char *big = malloc(100001); /* one string may have 128 KiB */
        memset(big, 'x', 100000);
        big[0] = 'A', big[1] = '=', big[100000] = '\0';
        for (int i = 0; i < 10; i++)
                env[i] = big;
        struct pc_spawn base = {.envp = env};
        ok(shell("test ${#A} = 99998", &base, NULL, 0) == 0, "an environment of a megabyte");
        for (int i = 0; i < 1000; i++)
                env[i] = big;
        ok(shell("exit 0", &base, NULL, 0) == -E2BIG, "one that is too large is E2BIG");
        free(big);
}

static void *writer(void *path) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        int *ready = malloc(sizeof *ready);
        *ready = fd;
        return ready;
}

static void *close_soon(void *fd) {
        int gap[1] = {*(int *) fd};
        struct pollfd none = {.fd = -1};
        (void) poll(&none, 1, 5); /* lets the child see ETXTBSY; if it starts later the test passes as well */
        close(gap[0]);
        return NULL;
}

static void test_text_busy(void) {
        char path[PATH_MAX];
        char *argv[] = {"x", NULL};
        write_file("busy", "#!/bin/sh\nexit 9\n", 0755, path);
        int *fd = writer(path);
        struct pc_spawn s = {.path = path, .argv = argv, .envp = no_env};
        ok(spawn_errno(&s, "exec") == ETXTBSY, "a program that stays open for writing is ETXTBSY");
        pthread_t t;
        pthread_create(&t, NULL, close_soon, fd);
        int pid, pidfd = -1;
        struct pc_exit end = {.code = 0};
        bool good = pc_spawn(&s, &pid, &pidfd, NULL) == 0 && pc_wait(pidfd, false, &end, NULL) == 1 && end.code == 9;
        pthread_join(t, NULL);
        ok(good, "one that is closed meanwhile runs");
        close(pidfd);
        free(fd);
}

static void *spawn_many(void *arg) {
        (void) arg;
        char *argv[] = {"true", NULL};
        struct pc_spawn s = {.path = "/bin/true", .argv = argv, .envp = no_env, .flags = PC_SPAWN_SESSION};
        for (int i = 0; i < 50; i++) {
                int pid, pidfd;
                struct pc_exit end;
                if (pc_spawn(&s, &pid, &pidfd, NULL) < 0 || pc_wait(pidfd, false, &end, NULL) != 1 || end.code != 0)
                        return "failed";
                close(pidfd);
        }
        return NULL;
}

static void test_threads(void) {
        pthread_t t[8];
        bool good = true;
        for (int i = 0; i < 8; i++)
                pthread_create(&t[i], NULL, spawn_many, NULL);
        for (int i = 0; i < 8; i++) {
                void *r;
                pthread_join(t[i], &r);
                good = good && !r;
        }
        ok(good, "eight threads start programs at once");
}

static int sleeper(int *ret_pid) {
        char *argv[] = {"sleep", "1000", NULL};
        struct pc_spawn s = {.path = "/bin/sleep", .argv = argv, .envp = no_env, .flags = PC_SPAWN_SESSION};
        int pidfd = -1;
        return pc_spawn(&s, ret_pid, &pidfd, NULL) < 0 ? -1 : pidfd;
}

static bool info_supported(void) {
        struct pc_exit end;
        int pid, pidfd = sleeper(&pid);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        int r = pc_wait(pidfd, false, &end, NULL);
        close(pidfd);
        ok((r == 1 && end.signal == SIGKILL) || r == -ECHILD, "a child reaped by another: its end, or ECHILD");
        return r == 1;
}

static void test_wait(void) {
        struct pc_exit end = {.code = 77};
        struct pc_err err;
        int pid, pidfd = sleeper(&pid);
        ok(pc_wait(pidfd, true, &end, &err) == 0 && end.code == 77, "nohang says that it runs");
        ok(pc_signal(pidfd, SIGTERM, &err) == 0 && pc_wait(pidfd, false, &end, &err) == 1 && end.signal == SIGTERM,
           "a signal by pidfd");
        ok(pc_signal(pidfd, SIGTERM, &err) == -ESRCH && err.code == ESRCH, "and none after the reaping");
        close(pidfd);
        bool told = info_supported();
        struct sigaction ign = {.sa_handler = SIG_IGN}, dfl = {.sa_handler = SIG_DFL};
        sigaction(SIGCHLD, &ign, NULL);
        struct pc_spawn base = {.flags = 0};
        ok(shell("exit 7", &base, NULL, 0) == (told ? 7 : -ECHILD), "where SIGCHLD is ignored: its end, or ECHILD");
        char *argv[] = {"x", NULL};
        struct pc_spawn s = {.path = "/nonexistent", .argv = argv, .envp = no_env};
        ok(spawn_errno(&s, "exec") == ENOENT, "a failed start where SIGCHLD is ignored");
        sigaction(SIGCHLD, &dfl, NULL);
        ok(pc_wait(0, true, &end, &err) == -EBADF || pc_wait(0, true, &end, &err) == -EINVAL, "not a pidfd");
}

static void test_group(void) {
        int p[2], pid, pidfd = -1;
        if (pipe2(p, O_CLOEXEC) < 0)
                abort();
        char *argv[] = {"sh", "-c", "sleep 1000 & echo; sleep 1000", NULL};
        struct pc_spawn_fd fds[] = {{1, p[1]}};
        struct pc_spawn s = {
            .path = "/bin/sh", .argv = argv, .envp = no_env, .fds = fds, .n_fds = 1, .flags = PC_SPAWN_SESSION};
        bool good = pc_spawn(&s, &pid, &pidfd, NULL) == 0;
        close(p[1]);
        char c;
        good = good && pc_read_all(p[0], &c, 1) == 1 && pc_signal_group(pidfd, pid, SIGKILL, NULL) == 0;
        /* End of file only when the grandchild, which has the pipe, is dead too. */
        ok(good && pc_read_all(p[0], &c, 1) == 0, "the group signal reaches grandchildren");
        struct pc_exit end;
        ok(pc_wait(pidfd, false, &end, NULL) == 1 && end.signal == SIGKILL, "and the leader");
        ok(pc_signal_group(pidfd, 1, SIGKILL, NULL) == -EINVAL && pc_signal_group(pidfd, 0, SIGKILL, NULL) == -EINVAL,
           "no group of pid 0 or 1");
        close(p[0]);
        close(pidfd);
}

static int parse(const char *text, struct pc_stat *st) {
        return pc_parse_stat(text, strlen(text), st);
}

static void test_stat(void) {
        struct pc_stat st;
        const char *tail = " 7 7 7 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 987654321 99 5\n";
        char text[300];
        snprintf(text, sizeof text, "12 (a) R) 1 (\n) S 42%s", tail + 2);
        ok(parse(text, &st) == 0 && st.state == 'S' && st.ppid == 42 && st.threads == 3 && st.start_time == 987654321,
           "a name with brackets, blanks and a line end");
        ok(parse("", &st) == -EBADMSG && parse("1 (x", &st) == -EBADMSG && parse("1 (x)", &st) == -EBADMSG &&
               parse("1 (x) S", &st) == -EBADMSG && parse("1 (x) S 1 2 3 4", &st) == -EBADMSG,
           "truncated texts");
        ok(parse("1 (x) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 99999999999999999999 1", &st) == -EBADMSG &&
               parse("1 (x) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 -5 1", &st) == -EBADMSG,
           "a start time out of range");
        char d[12] = "";
        d[pc_decimal(d, INT_MIN)] = 0;
        ok(!strcmp(d, "-2147483648"), "decimal of the smallest int");
        memset(d, 0, sizeof d);
        d[pc_decimal(d, 0)] = 0;
        ok(!strcmp(d, "0"), "decimal of zero");
}

static void *stay(void *arg) {
        char c;
        (void) pc_read_all(*(int *) arg, &c, 1);
        return NULL;
}

static void test_alive(void) {
        struct pc_stat st;
        struct pc_err err;
        int pid, pidfd = sleeper(&pid);
        ok(pc_read_stat(pid, &st, &err) == 0 && st.ppid == getpid(), "stat of a child");
        ok(pc_alive(pid, st.start_time, &err) == 1, "it lives");
        ok(pc_alive(pid, st.start_time + 1, &err) == 0, "another of that number would not be it");
        (void) pc_signal(pidfd, SIGKILL, NULL);
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        poll(&p, 1, -1);
        ok(pc_alive(pid, st.start_time, &err) == 0, "a zombie is dead");
        struct pc_exit end;
        pc_wait(pidfd, false, &end, NULL);
        close(pidfd);
        ok(pc_alive(pid, st.start_time, &err) == 0, "an absent one is dead");
        ok(pc_alive(0, 0, &err) == 0 && pc_alive(-1, 0, &err) == 0, "no process has pid 0 or less");
        ok(pc_read_stat(pid, &st, &err) == -ESRCH && err.code == ESRCH, "stat of an absent one is ESRCH");

        int hold[2];
        if (pipe2(hold, O_CLOEXEC) < 0)
                abort();
        fflush(stdout);
        pid = fork();
        if (pid == 0) {
                pthread_t t;
                close(hold[1]);
                pthread_create(&t, NULL, stay, &hold[0]);
                (void) syscall(SYS_exit, 0); /* this thread only */
        }
        close(hold[0]);
        while (pc_read_stat(pid, &st, &err) == 0 && st.state != 'Z')
                sched_yield();
        ok(pc_alive(pid, st.start_time, &err) == 1, "a process whose first thread has ended lives");
        close(hold[1]);
        waitpid(pid, NULL, 0);
}

static void test_find(void) {
        char path[PATH_MAX], found[PATH_MAX], search[PATH_MAX * 2];
        struct pc_err err;
        write_file("prog", "#!/bin/sh\n", 0644, path);
        snprintf(search, sizeof search, "/nonexistent:%s:", dir);
        ok(pc_find_program("prog", search, found, sizeof found, &err) == -EACCES && !strcmp(err.path, "prog"),
           "a file that may not run is EACCES");
        chmod(path, 0755);
        ok(pc_find_program("prog", search, found, sizeof found, &err) == 0 && !strcmp(found, path), "found along PATH");
        ok(pc_find_program("noprog", search, found, sizeof found, &err) == -ENOENT, "absent is ENOENT");
        ok(pc_find_program("", search, found, sizeof found, &err) == -ENOENT, "an empty name is ENOENT");
        ok(pc_find_program("./a/b", "", found, sizeof found, &err) == 0 && !strcmp(found, "./a/b"), "slash: as it is");
        ok(pc_find_program("/aaaaaaaaaaaaaaaa", "", found, 8, &err) == -ENAMETOOLONG, "too long for the caller");
        ok(pc_find_program("tmp", "/:/usr", found, sizeof found, &err) == -EACCES, "a directory is no program");
        if (chdir(dir) == 0)
                ok(pc_find_program("prog", "/nonexistent:", found, sizeof found, &err) == 0 && !strcmp(found, "./prog"),
                   "an empty element is the working directory");
        if (chdir("/") < 0)
                abort();
}

static int open_fds(void) {
        int n = 0;
        for (int i = 0; i < 4096; i++)
                n += fcntl(i, F_GETFD) >= 0;
        return n;
}

static void test_copy(void) {
        struct pc_err err;
        int p[2], pidfd = (int) syscall(SYS_pidfd_open, getpid(), 0), copy = -7;
        bool good = pidfd >= 0 && pipe(p) == 0 && pc_copy_fd(pidfd, p[1], &copy, &err) == 0 && copy != p[1];
        char c = 0;
        good = good && fcntl(copy, F_GETFD) == FD_CLOEXEC && write(copy, "x", 1) == 1 && read(p[0], &c, 1) == 1;
        ok(good && c == 'x', "a descriptor is copied from a process");
        (void) close(p[0]);
        (void) close(p[1]);
        (void) close(copy);
        int none = -7;
        ok(pc_copy_fd(pidfd, p[1], &none, &err) == -EBADF && none == -7, "one that it does not have is not");
        (void) close(pidfd);
}

int main(void) {
        if (!mkdtemp(dir))
                return 1;
        int before = open_fds();
        test_exit();
        test_fds();
        test_bad_table();
        test_closed_stdio();
        test_no_clone3();
        test_signals();
        test_place();
        test_exec_errors();
        test_huge();
        test_text_busy();
        test_threads();
        test_wait();
        test_group();
        test_copy();
        test_stat();
        test_alive();
        test_find();
        ok(open_fds() == before, "no descriptor is left open");
        char command[100];
        snprintf(command, sizeof command, "rm -rf %s", dir);
        ok(system(command) == 0, "clean-up");
        return done_testing();
}
