# What csrc/untar/untar.h says.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from pycrio._native.c_common cimport pc_err

cdef extern from "untar/untar.h":
    ctypedef bint c_bool "bool"

    cdef struct pc_idmap:
        uint32_t container, host, size

    cdef struct pc_untar_limits:
        uint64_t entries, bytes, path, depth, special, sparse, window_log

    cdef struct pc_untar_opts:
        int src_fd, target_fd, split_fd, cancel_fd
        const pc_idmap *uid_map
        const pc_idmap *gid_map
        size_t n_uid_map, n_gid_map
        c_bool userxattr, keep_root
        pc_untar_limits limits

    cdef struct pc_untar_result:
        uint8_t compressed_sha[32]
        uint8_t diff_sha[32]
        uint64_t compressed_size, diff_size, entries, xattrs_skipped
        const char *compression
        c_bool split_complete
        uint32_t *uids
        uint32_t *gids
        size_t n_uids, n_gids

    int pc_untar(const pc_untar_opts *opts, pc_untar_result *ret, pc_err *reterr) nogil
    void pc_untar_result_done(pc_untar_result *r) nogil
    int pc_tarsplit_assemble(const int *fds, uint8_t *ret_sha, uint64_t *ret_size, pc_err *reterr) nogil
