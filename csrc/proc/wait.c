/* Waiting, signalling, and recognising a process by its number and start time. */
#include "common/fd.h"
#include "common/io.h"
#include "proc/child.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#define SIGNAL_PROCESS_GROUP 4U /* pidfd_send_signal, Linux 6.9 */

/* The first version of the kernel's struct pidfd_info (6.13); the exit code is filled from 6.15 on. */
struct pidfd_info_v0 {
        uint64_t mask, cgroupid;
        uint32_t pid, tgid, ppid, ids[8];
        int32_t exit_code;
};
#define INFO_EXIT (1ULL << 3)
#define GET_INFO _IOWR(0xFF, 11, struct pidfd_info_v0)

static void decode_status(int status, struct pc_exit *ret) {
        *ret = (struct pc_exit){.code = WIFEXITED(status) ? WEXITSTATUS(status) : 0,
                                .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0};
}

/* Somebody else reaped it (a handler that waits for any child, or SIGCHLD is ignored). It is no longer our child a
 * moment before the kernel files its exit; during that moment the call succeeds without the answer. */
static bool ask_kernel(int pidfd, struct pc_exit *ret) {
        for (int i = 0; i < 1000; i++) {
                struct pidfd_info_v0 info = {.mask = INFO_EXIT};
                if (ioctl(pidfd, GET_INFO, &info) < 0)
                        return false;
                if (info.mask & INFO_EXIT) {
                        decode_status(info.exit_code, ret);
                        return true;
                }
                (void) sched_yield();
        }
        return false;
}

int pc_wait(int pidfd, bool nohang, struct pc_exit *ret_exit, struct pc_err *reterr) {
        siginfo_t info = {.si_pid = 0};
        int r;
        do
                r = waitid((idtype_t) P_PIDFD, (id_t) pidfd, &info, WEXITED | (nohang ? WNOHANG : 0));
        while (r < 0 && errno == EINTR);
        if (r < 0) {
                int code = errno;
                if (code != ECHILD)
                        return pc_fail(reterr, code, "waitid", NULL);
                struct pollfd p = {.fd = pidfd, .events = POLLIN};
                int n;
                do
                        n = poll(&p, 1, nohang ? 0 : -1);
                while (n < 0 && errno == EINTR);
                if (n == 0)
                        return 0;
                return ask_kernel(pidfd, ret_exit) ? 1 : pc_fail(reterr, ECHILD, "waitid", NULL);
        }
        if (info.si_pid == 0)
                return 0;
        if (info.si_code == CLD_EXITED)
                *ret_exit = (struct pc_exit){.code = info.si_status};
        else
                *ret_exit = (struct pc_exit){.signal = info.si_status};
        return 1;
}

int pc_signal(int pidfd, int sig, struct pc_err *reterr) {
        if (pc_pidfd_send_signal(pidfd, sig) < 0)
                return pc_fail_errno(reterr, "pidfd_send_signal", NULL);
        return 0;
}

int pc_copy_fd(int pidfd, int fd, int *ret_fd, struct pc_err *reterr) {
        int copy = (int) syscall(SYS_pidfd_getfd, pidfd, fd, 0);
        if (copy < 0)
                return pc_fail_errno(reterr, "pidfd_getfd", NULL);
        *ret_fd = copy;
        return 0;
}

int pc_signal_group(int pidfd, int pid, int sig, struct pc_err *reterr) {
        if (pid <= 1) /* kill(-1) would be everybody */
                return pc_fail(reterr, EINVAL, "kill", NULL);
        if (syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, SIGNAL_PROCESS_GROUP) == 0)
                return 0;
        if (errno != EINVAL)
                return pc_fail_errno(reterr, "pidfd_send_signal", NULL);
        if (kill(-pid, sig) < 0)
                return pc_fail_errno(reterr, "kill", NULL);
        return 0;
}

/* Decimal at *at, as field of /proc/<pid>/stat: steps over the digits and one blank. */
static bool field(const char **at, const char *end, bool negative_ok, unsigned long long *ret) {
        const char *p = *at;
        unsigned long long v = 0;
        bool minus = negative_ok && p < end && *p == '-';
        p += minus;
        const char *digits = p;
        for (; p < end && *p >= '0' && *p <= '9'; p++)
                if (__builtin_mul_overflow(v, 10ULL, &v) || __builtin_add_overflow(v, (unsigned) (*p - '0'), &v))
                        return false;
        if (p == digits || p == end || *p != ' ')
                return false;
        *at = p + 1;
        *ret = minus ? 0 : v; /* no field that we keep is negative when it means something */
        return true;
}

int pc_parse_stat(const char *text, size_t n, struct pc_stat *ret_stat) {
        /* "pid (comm) S ppid …": comm may hold anything, blanks and brackets too; nothing after it has a bracket. */
        const char *end = text + n, *at = memrchr(text, ')', n);
        if (!at || end - at < 4 || at[1] != ' ' || at[2] < 'A' || at[2] > 'z' || at[3] != ' ')
                return -EBADMSG;
        struct pc_stat st = {.state = at[2]};
        at += 4;
        for (int i = 4; i <= 22; i++) { /* numbering of proc_pid_stat(5) */
                unsigned long long v;
                if (!field(&at, end, i != 22, &v))
                        return -EBADMSG;
                if (i == 4 && v <= INT32_MAX)
                        st.ppid = (int) v;
                else if (i == 20 && v <= INT32_MAX)
                        st.threads = (long) v;
                else if (i == 22)
                        st.start_time = v;
        }
        *ret_stat = st;
        return 0;
}

int pc_read_stat(int pid, struct pc_stat *ret_stat, struct pc_err *reterr) {
        char path[32] = "/proc/", text[2048];
        memcpy(path + 6 + pc_decimal(path + 6, pid), "/stat", sizeof "/stat");
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return pc_fail(reterr, errno == ENOENT ? ESRCH : errno, "open", path);
        ssize_t n = pc_read_all(fd, text, sizeof text);
        if (n < 0)
                return pc_fail(reterr, (int) -n, "read", path);
        int r = pc_parse_stat(text, (size_t) n, ret_stat);
        return r < 0 ? pc_fail(reterr, r, "parse", path) : 0;
}

int pc_alive(int pid, unsigned long long start_time, struct pc_err *reterr) {
        struct pc_stat st;
        struct pc_err err;
        int r = pid > 0 ? pc_read_stat(pid, &st, &err) : -ESRCH;
        if (r == -ESRCH)
                return 0;
        if (r < 0)
                return pc_fail(reterr, err.code, err.step, err.path);
        if (st.start_time != start_time || st.state == 'X' || st.state == 'x')
                return 0;
        /* A first thread that has ended shows as a zombie while the others run on. */
        return st.state == 'Z' && st.threads <= 1 ? 0 : 1;
}
