/* Namespaces of pods: made by a short-lived holder, configured inside it, pinned by bind mounts, removed by path.
 *
 * Safe in a process with many threads: no thread of the caller changes its namespaces (but by pc_ns_join_mount). All
 * calls block for milliseconds; whatever they made is gone again when they fail. Results and errors as in common/err.h.
 */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum pc_ns_kind { PC_NS_USER, PC_NS_NET, PC_NS_UTS, PC_NS_IPC, PC_NS_MNT, PC_NS_CGROUP, PC_NS_PID, PC_NS_KINDS };

struct pc_ns_map {
        uint32_t container, host, size;
};

struct pc_ns_spec {
        const char *pins[PC_NS_KINDS]; /* file to make and to bind the new namespace on; NULL: none of this kind */
        int userns;                    /* >= 0: an existing user namespace that is to own the new ones; else -1 */
        const struct pc_ns_map *uids, *gids; /* of the new user namespace */
        size_t n_uids, n_gids;
        const char *const *sysctls; /* name, value, name, value, ... */
        size_t n_sysctls;           /* pairs */
        const char *hostname;       /* NULL: inherited */
        bool loopback_up;
        const char *const *keeper; /* argument vector of the pid namespace's first process, which lives on */
};

/* Make, configure and pin. With a keeper, which PC_NS_PID needs: its pid and pidfd (a child of the caller). */
int pc_ns_create(const struct pc_ns_spec *spec, pid_t *ret_pid, int *ret_pidfd, struct pc_err *reterr);

/* A fresh user namespace with these maps, alive as long as the descriptor. */
int pc_ns_hold_userns(const struct pc_ns_spec *maps, int *ret_fd, struct pc_err *reterr);

int pc_ns_pin(const char *source, const char *path, struct pc_err *reterr);    /* -EEXIST when path exists */
int pc_ns_unpin(const char *path, struct pc_err *reterr);                      /* 1, or 0 when there was nothing */
int pc_ns_inode(const char *path, uint64_t *ret_inode, struct pc_err *reterr); /* -ENXIO: no namespace file */

/* Move the calling thread, which must be the only one, into a mount namespace; its root becomes the working directory.
 * -ENXIO: no file of a mount namespace. */
int pc_ns_join_mount(const char *path, struct pc_err *reterr);

/* File below /proc/sys of a sysctl name (dots or slashes, the first of them decides), and the kind it belongs to. */
int pc_ns_sysctl(const char *name, char *ret_path, size_t size, enum pc_ns_kind *ret_kind, struct pc_err *reterr);

/* A socket that lives in the given network namespace ("" or NULL: ours), wherever it is used. */
int pc_ns_socket(const char *netns, int domain, int type, int protocol, int *ret_fd, struct pc_err *reterr);
