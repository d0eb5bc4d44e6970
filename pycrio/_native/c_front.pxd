# What csrc/front/front.h says.
from libc.stdint cimport uint64_t
from pycrio._native.c_common cimport pc_err

cdef extern from "front/front.h" nogil:
    cdef struct pc_front:
        pass

    cdef struct pc_front_options:
        int listen_fd
        int handover_fd
        const char *http_target
        unsigned header_timeout_ms
        unsigned max_connections

    cdef struct pc_front_handed:
        int fd
        unsigned head_len
        char head[16]

    # struct and function have one name; the tag is renamed on our side
    cdef struct pc_front_counters "pc_front_stats":
        uint64_t accepted
        uint64_t grpc
        uint64_t http
        uint64_t active
        uint64_t rejected
        uint64_t paused

    int pc_front_new(const pc_front_options *o, pc_front **ret_front, pc_err *reterr)
    int pc_front_start(pc_front *f, pc_err *reterr)
    void pc_front_drain(pc_front *f)
    void pc_front_stop(pc_front *f)
    void pc_front_stats(const pc_front *f, pc_front_counters *ret_stats)
    pc_front *pc_front_free(pc_front *f)
