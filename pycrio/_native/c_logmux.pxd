# What csrc/logmux/frame.h and clock.h say.
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "logmux/frame.h" nogil:
    ctypedef int pc_stream "enum pc_stream"
    size_t PC_STAMP_LEN
    size_t PC_HEAD_LEN
    size_t PC_PIECE_MAX
    size_t PC_LINE_MAX
    struct pc_frame_limits:
        size_t cap
        size_t stop
        bint flush
    struct pc_line:
        int64_t sec
        uint32_t nsec
        int32_t gmtoff
        pc_stream stream
        bint partial
        const char *data
        size_t len
    void pc_head(char *out, int64_t sec, uint32_t nsec, int32_t gmtoff, pc_stream stream)
    size_t pc_frame(const char *head, const char *data, size_t n, const pc_frame_limits *l, char *out, size_t *ret_used)
    int pc_line_parse(const char *data, size_t n, pc_line *ret)
