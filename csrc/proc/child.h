/* The child's half of pc_spawn; private to the unit. */
#pragma once
#include "proc/proc.h"
#include <signal.h>

struct pc_child {
        const struct pc_spawn *spawn;
        struct pc_spawn_fd *table; /* sorted by child number; the child overwrites the sources */
        char oom[16];
        size_t oom_len;
        bool join_cgroup; /* born outside: join through cgroup.procs */
        int parent_pid;

        /* The report: memory is shared and the parent sleeps until exec or exit, so no pipe is needed. */
        int code;
        const char *step;
        const char *path;
};

int pc_child_main(void *child); /* never returns */
