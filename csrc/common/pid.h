/* Pid files of OCI runtimes. No libc: programs without one read them, too. */
#pragma once
#include <stddef.h>

/* The number at the head of a pid file, as runtimes write it, with or without a newline; 0: there is none. */
static inline int pc_pid_parse(const char *text, size_t n) {
        int pid = 0;
        for (size_t i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
                if (__builtin_mul_overflow(pid, 10, &pid) || __builtin_add_overflow(pid, text[i] - '0', &pid))
                        return 0;
        return pid;
}
