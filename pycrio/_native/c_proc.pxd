# What csrc/proc/proc.h says.
from pycrio._native.c_common cimport pc_err

cdef extern from "proc/proc.h" nogil:
    cdef struct pc_spawn_fd:
        int child
        int parent

    enum:
        PC_SPAWN_SESSION
        PC_SPAWN_CGROUP
        PC_SPAWN_OOM

    # struct and function have one name; the tag is renamed on our side
    cdef struct pc_spawn_args "pc_spawn":
        const char *path
        char **argv
        char **envp
        const pc_spawn_fd *fds
        size_t n_fds
        const char *cwd
        const int *procs_fds
        size_t n_procs_fds
        int cgroup_fd
        int oom_score_adj
        int pdeathsig
        unsigned flags

    int pc_spawn(const pc_spawn_args *s, int *ret_pid, int *ret_pidfd, pc_err *reterr)
    int pc_find_program(const char *name, const char *path, char *ret_path, size_t size, pc_err *reterr)

    cdef struct pc_exit:
        int code
        int signal

    int pc_wait(int pidfd, bint nohang, pc_exit *ret_exit, pc_err *reterr)
    int pc_signal(int pidfd, int sig, pc_err *reterr)
    int pc_signal_group(int pidfd, int pid, int sig, pc_err *reterr)

    int pc_copy_fd(int pidfd, int fd, int *ret_fd, pc_err *reterr)

    cdef struct pc_stat:
        char state
        int ppid
        long threads
        unsigned long long start_time

    int pc_read_stat(int pid, pc_stat *ret_stat, pc_err *reterr)
    int pc_alive(int pid, unsigned long long start_time, pc_err *reterr)
