/* System calls by number, for calls younger than the libc of a build host and for places where libc must not be used.
 *
 * PC_SYS(name, args...) gives the result or -errno. Tests compile a unit with -DPC_FAULT=1 and define pc_fault_hit(),
 * so that the Nth such call fails and everything done before it can be seen to be undone. Calls that undo (close,
 * umount, unlink, wait) are made directly: what is injected is failure, not failure to clean up. */
#pragma once
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One number on every architecture that came after the tables were unified (5.1). */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_statmount
#define SYS_statmount 457
#endif

#ifdef PC_FAULT
int pc_fault_hit(const char *call); /* non-zero, with errno set: this call fails */
#else
#define pc_fault_hit(call) 0
#endif

static inline long pc_sysret(long r) {
        return r < 0 ? -errno : r;
}
#define PC_SYS(name, ...) pc_sysret(pc_fault_hit(#name) ? -1L : syscall(SYS_##name, __VA_ARGS__))
