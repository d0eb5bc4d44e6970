# What csrc/rpc/rpc.h says.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t
from pycrio._native.c_common cimport pc_err

cdef extern from "rpc/rpc.h" nogil:
    cdef struct pc_rpc:
        pass

    cdef struct pc_rpc_limits:
        size_t max_message
        size_t max_held
        size_t max_headers
        size_t max_unread
        unsigned max_streams

    enum:
        PC_RPC_WANTS_WRITE
        PC_RPC_OVER

    cdef enum pc_rpc_kind:
        PC_RPC_CALL
        PC_RPC_CANCEL

    cdef struct pc_rpc_event:
        pc_rpc_kind kind
        int32_t stream
        const char *path
        const char *metadata
        size_t metadata_len
        int64_t timeout_ns
        const void *message
        size_t message_len

    int pc_rpc_new(int fd, const char *head, size_t head_len, const pc_rpc_limits *limits, pc_rpc **ret_conn,
                   pc_err *reterr)
    int pc_rpc_pump(pc_rpc *c)
    int pc_rpc_flush(pc_rpc *c)
    bint pc_rpc_next(pc_rpc *c, pc_rpc_event *ret_event)
    int pc_rpc_send(pc_rpc *c, int32_t stream, const void *message, size_t n, size_t *ret_waiting, pc_err *reterr)
    size_t pc_rpc_waiting(pc_rpc *c, int32_t stream)
    int pc_rpc_finish(pc_rpc *c, int32_t stream, unsigned status, const char *text, pc_err *reterr)
    void pc_rpc_goaway(pc_rpc *c)
    pc_rpc *pc_rpc_free(pc_rpc *c)
