/* Ownership of descriptors and memory: cleanup attributes, transfer by steal, pidfd helpers. */
#pragma once
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

static inline void pc_closep(int *fd) {
        if (*fd >= 0)
                (void) close(*fd);
        *fd = -1;
}
static inline void pc_freep(void *p) {
        free(*(void **) p);
}
#define _cleanup_fd_ _cleanup_(pc_closep)
#define _cleanup_free_ _cleanup_(pc_freep)

/* Hand a descriptor on: the owner forgets the number. */
static inline int steal_fd(int *fd) {
        int r = *fd;
        *fd = -1;
        return r;
}
#define steal_ptr(p)                                                                                                   \
        ({                                                                                                             \
                __typeof__(p) _p = (p);                                                                                \
                (p) = NULL;                                                                                            \
                _p;                                                                                                    \
        })

static inline int pc_pidfd_open(int pid, unsigned flags) {
        return (int) syscall(SYS_pidfd_open, pid, flags);
}
static inline int pc_pidfd_send_signal(int pidfd, int sig) {
        return (int) syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0U);
}
