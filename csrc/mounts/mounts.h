/* Mounts through mount descriptors: made detached, attached whole. Falls back on mount(2) where the newer calls are
 * missing (seccomp filters that answer ENOSYS). Paths are the caller's own, except for the *_in_root functions.
 *
 * Results and errors as in common/err.h. log (may be NULL) receives what the kernel said about a refused file system.
 */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct pc_mount_log {
        char text[1024];
};

struct pc_overlay {
        const char *const *lowers; /* uppermost first */
        size_t n_lowers;
        const char *upper, *work; /* both or neither (read-only) */
        const char *target;
        const char *const *options; /* "volatile", "context=...", "nodev", ... */
        size_t n_options;
        bool classic; /* by mount(2) at once: before 6.7 the kernel logs every try of the newer way as an error */
};
#define PC_OVERLAY_LOWERS 500 /* the kernel's limit */

struct pc_bind {
        const char *source, *target;
        bool recursive, readonly;
        const char *const *attrs; /* "nosuid", "ro", ...; with a leading r ("rro") for the whole tree */
        size_t n_attrs;
        const char *propagation; /* "private", "rslave", ...; NULL: the kernel's choice */
        int userns;              /* >= 0: ids of this user namespace; else -1 */
};

struct pc_tmpfs {
        const char *target;
        uint64_t size; /* bytes; 0: the kernel's default */
        unsigned mode;
        uid_t uid;
        gid_t gid;
        const char *label;
        const char *const *attrs;
        size_t n_attrs;
};

int pc_mount_overlay(const struct pc_overlay *spec, struct pc_mount_log *log, struct pc_err *reterr);
int pc_mount_bind(const struct pc_bind *spec, struct pc_err *reterr);
int pc_mount_tmpfs(const struct pc_tmpfs *spec, struct pc_mount_log *log, struct pc_err *reterr);
int pc_umount(const char *target, bool detach, struct pc_err *reterr); /* 1, or 0: no mount there */
int pc_mount_propagation(const char *target, const char *kind, bool recursive, struct pc_err *reterr);

int pc_mount_is(const char *path, struct pc_err *reterr); /* 1 or 0 (also when absent) */
int pc_mount_id(const char *path, uint64_t *ret_id, struct pc_err *reterr);
int pc_mount_propagation_of(const char *path, const char **ret_kind, struct pc_err *reterr);

/* Below root, with every link and ".." kept inside; ret_path is the place on the host. */
int pc_open_in(const char *root, const char *path, int flags, unsigned mode, int *ret_fd, struct pc_err *reterr);
int pc_resolve_in(const char *root, const char *path, char *ret_path, size_t size, struct pc_err *reterr);
int pc_mkdirs_in(const char *root, const char *path, unsigned mode, uid_t uid, gid_t gid, char *ret_path, size_t size,
                 struct pc_err *reterr);

/* What this kernel and this file system can do: asked by trying, in a mount namespace of its own. */
enum pc_mount_feature {
        PC_MF_MOUNT_API,
        PC_MF_OVERLAY,
        PC_MF_LOWERDIR_PLUS,
        PC_MF_LOWERDIR_FD,
        PC_MF_VOLATILE,
        PC_MF_METACOPY,
        PC_MF_USERXATTR,
        PC_MF_IDMAP,
        PC_MF_OVERLAY_IDMAP,
        PC_MF_RECURSIVE_RO,
        PC_MF_STATMOUNT,
        PC_MF_COUNT
};
const char *pc_mount_feature_name(int feature); /* "overlay", ... ; NULL beyond the last */
/* One bit per feature. dir: an existing directory whose file system is asked. userns: for the idmap questions, or -1.
 */
int pc_mount_probe(const char *dir, int userns, uint64_t *ret_features, struct pc_err *reterr);
