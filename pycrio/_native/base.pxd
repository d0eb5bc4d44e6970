from pycrio._native.c_common cimport pc_err

cdef object native_error(pc_err *e)
