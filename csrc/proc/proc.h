/* Processes: start one with an exact descriptor table, wait by pidfd, signal a group, recognise it later.
 *
 * Safe in a process with any number of threads: between clone and exec the child makes bare system calls only, on
 * arguments prepared by the parent. Nothing here looks at the environment or installs a handler. */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>

struct pc_spawn_fd {
        int child;  /* number that the program sees */
        int parent; /* our descriptor; stays ours, open */
};

#define PC_SPAWN_MAX_FDS 256

enum {
        PC_SPAWN_SESSION = 1, /* own session and process group, number = pid */
        PC_SPAWN_CGROUP = 2,  /* cgroup_fd is meant */
        PC_SPAWN_OOM = 4,     /* oom_score_adj is meant */
};

struct pc_spawn {
        const char *path;              /* the program; no search, see pc_find_program */
        char *const *argv;             /* NULL terminated */
        char *const *envp;             /* NULL terminated */
        const struct pc_spawn_fd *fds; /* the whole table: any other descriptor is closed, 0, 1 and 2 included */
        size_t n_fds;
        const char *cwd;      /* NULL: ours */
        const int *procs_fds; /* open cgroup.procs files (cgroup v1): the child joins each */
        size_t n_procs_fds;
        int cgroup_fd; /* cgroup v2 directory: the child is born there */
        int oom_score_adj;
        int pdeathsig; /* signal when the *thread* that called pc_spawn ends; 0: none */
        unsigned flags;
};

/* Returns once the program runs (0) or has failed to; a failure leaves no process. Signals are at their defaults and
 * none is blocked in the program. reterr->step tells what failed in the child as well ("exec", "chdir", …). */
int pc_spawn(const struct pc_spawn *s, int *ret_pid, int *ret_pidfd, struct pc_err *reterr);

/* execvp's search, done beforehand: name with a slash is taken as it is; path is a PATH value. Unlike other results,
 * ret_path is scribbled on when there is none. */
int pc_find_program(const char *name, const char *path, char *ret_path, size_t size, struct pc_err *reterr);

struct pc_exit {
        int code;   /* 0..255, when signal is 0 */
        int signal; /* the signal that ended it */
};

/* Reap: 1 and *ret_exit, or 0 when nohang and it still runs. When something else in this process has reaped the child,
 * a kernel from 6.15 on still tells how it ended; on an older one that is -ECHILD. */
int pc_wait(int pidfd, bool nohang, struct pc_exit *ret_exit, struct pc_err *reterr);

/* 0, or -ESRCH when it is gone. The group variant is for a group led by pid; before Linux 6.9 it is free of races only
 * while the leader has not been reaped. */
int pc_signal(int pidfd, int sig, struct pc_err *reterr);
int pc_signal_group(int pidfd, int pid, int sig, struct pc_err *reterr);

/* A copy (close-on-exec) of a descriptor of another process, without opening anything anew. -EBADF: it has none such.
 */
int pc_copy_fd(int pidfd, int fd, int *ret_fd, struct pc_err *reterr);

struct pc_stat {
        char state;
        int ppid;
        long threads;
        unsigned long long start_time; /* clock ticks after boot */
};

int pc_parse_stat(const char *text, size_t n, struct pc_stat *ret_stat); /* /proc/<pid>/stat; -EBADMSG */
int pc_read_stat(int pid, struct pc_stat *ret_stat, struct pc_err *reterr);

/* 1 when the process that started then still lives; 0 when it is absent, dead, or its number is another's. */
int pc_alive(int pid, unsigned long long start_time, struct pc_err *reterr);
