# What csrc/mounts/mounts.h says.
from libc.stdint cimport uint64_t
from posix.types cimport gid_t, uid_t
from pycrio._native.c_common cimport pc_err

cdef extern from "mounts/mounts.h" nogil:
    cdef struct pc_mount_log:
        char text[1024]
    cdef struct pc_overlay:
        const char *const *lowers
        size_t n_lowers
        const char *upper
        const char *work
        const char *target
        const char *const *options
        size_t n_options
        bint classic
    cdef struct pc_bind:
        const char *source
        const char *target
        bint recursive
        bint readonly
        const char *const *attrs
        size_t n_attrs
        const char *propagation
        int userns
    cdef struct pc_tmpfs:
        const char *target
        uint64_t size
        unsigned mode
        uid_t uid
        gid_t gid
        const char *label
        const char *const *attrs
        size_t n_attrs
    int pc_mount_overlay(const pc_overlay *spec, pc_mount_log *log, pc_err *reterr)
    int pc_mount_bind(const pc_bind *spec, pc_err *reterr)
    int pc_mount_tmpfs(const pc_tmpfs *spec, pc_mount_log *log, pc_err *reterr)
    int pc_umount(const char *target, bint detach, pc_err *reterr)
    int pc_mount_propagation(const char *target, const char *kind, bint recursive, pc_err *reterr)
    int pc_mount_is(const char *path, pc_err *reterr)
    int pc_mount_id(const char *path, uint64_t *ret_id, pc_err *reterr)
    int pc_mount_propagation_of(const char *path, const char **ret_kind, pc_err *reterr)
    int pc_open_in(const char *root, const char *path, int flags, unsigned mode, int *ret_fd, pc_err *reterr)
    int pc_resolve_in(const char *root, const char *path, char *ret_path, size_t size, pc_err *reterr)
    int pc_mkdirs_in(const char *root, const char *path, unsigned mode, uid_t uid, gid_t gid, char *ret_path,
                     size_t size, pc_err *reterr)
    const char *pc_mount_feature_name(int feature)
    int pc_mount_probe(const char *dir, int userns, uint64_t *ret_features, pc_err *reterr)
