# What csrc/common/err.h says.
cdef extern from "common/err.h":
    cdef struct pc_err:
        int code
        const char *step
        char path[256]
