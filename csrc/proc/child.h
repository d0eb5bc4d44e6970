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

/* Text of v without terminator; ret has room for 11 characters. Instead of stdio, which the monitor does not carry. */
static inline size_t pc_decimal(char *ret, int v) {
        char rev[10];
        size_t digits = 0, n = 0;
        unsigned u = v < 0 ? 0U - (unsigned) v : (unsigned) v;
        do
                rev[digits++] = (char) ('0' + u % 10);
        while ((u /= 10) > 0);
        if (v < 0)
                ret[n++] = '-';
        while (digits > 0)
                ret[n++] = rev[--digits];
        return n;
}

int pc_child_main(void *child); /* never returns */
