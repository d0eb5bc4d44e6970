# cython: language_level=3
"""The server's side of gRPC connections (HTTP/2 by libnghttp2). Nothing here blocks, so the GIL is kept throughout."""

from libc.stddef cimport size_t

from pycrio._native.base cimport native_error
from pycrio._native.base import count_handle as _count_handle
from pycrio._native.c_common cimport pc_err
from pycrio._native.c_rpc cimport (
    PC_RPC_CANCEL, PC_RPC_OVER, PC_RPC_WANTS_WRITE, pc_rpc, pc_rpc_event, pc_rpc_finish, pc_rpc_flush, pc_rpc_free,
    pc_rpc_goaway, pc_rpc_limits, pc_rpc_new, pc_rpc_next, pc_rpc_pump, pc_rpc_send, pc_rpc_waiting,
)

WANTS_WRITE = PC_RPC_WANTS_WRITE
OVER = PC_RPC_OVER


cdef class Connection:
    """A connected non-blocking stream socket that speaks gRPC; ``head`` was read from it already.

    The descriptor is the connection's from then on. Limits: ``max_message`` bytes of a request, ``max_streams`` calls
    at a time, ``max_held`` bytes of requests that are not complete yet, ``max_unread`` bytes of answers that wait for
    the client to read them. Raises NativeError when memory or the limits
    do not allow it; the descriptor is then still the caller's.
    """

    cdef pc_rpc *_conn

    def __init__(self, int fd, bytes head, *, size_t max_message, size_t max_held, unsigned max_streams=1024,
                 size_t max_headers=65536, size_t max_unread=268435456):
        cdef pc_err err
        cdef pc_rpc_limits limits
        limits.max_message = max_message
        limits.max_held = max_held
        limits.max_headers = max_headers
        limits.max_unread = max_unread
        limits.max_streams = max_streams
        if self._conn != NULL:
            raise RuntimeError("the connection is initialised already")
        if pc_rpc_new(fd, head, len(head), &limits, &self._conn, &err) < 0:
            raise native_error(&err)
        _count_handle("RpcConnection", 1)

    cdef int _check(self) except -1:
        if self._conn == NULL:
            raise ValueError("the connection is closed")
        return 0

    def pump(self):
        """Read and write what goes now: (flags, events). Flags are of WANTS_WRITE and OVER.

        An event is (stream, path, message, timeout in seconds or None, metadata as bytes) for a call, (stream, None,
        None, None, None) for one whose caller has left.
        """
        cdef pc_rpc_event e
        self._check()
        cdef int flags = pc_rpc_pump(self._conn)
        cdef list events = []
        while pc_rpc_next(self._conn, &e):
            if e.kind == PC_RPC_CANCEL:
                events.append((e.stream, None, None, None, None))
            else:
                events.append((
                    e.stream, <bytes>e.path, (<const char *>e.message)[:e.message_len],
                    e.timeout_ns / 1e9 if e.timeout_ns >= 0 else None,
                    e.metadata[:e.metadata_len] if e.metadata_len else b"",
                ))
        return flags, events

    def flush(self):
        """Write what goes now; flags as of ``pump``."""
        self._check()
        return pc_rpc_flush(self._conn)

    def send(self, int stream, bytes message):
        """One message of an answer; the bytes of it and of those before that wait to be written. NativeError with
        ENOBUFS when too many wait already, of all the connection's answers."""
        cdef pc_err err
        cdef size_t waiting = 0
        self._check()
        if pc_rpc_send(self._conn, stream, <const char *>message, len(message), &waiting, &err) < 0:
            raise native_error(&err)
        return waiting

    def waiting(self, int stream):
        """Bytes of an answer that wait to be written."""
        self._check()
        return pc_rpc_waiting(self._conn, stream)

    def finish(self, int stream, unsigned status, bytes text=b""):
        """End a call with a status code and a text in UTF-8. Nothing when the call has gone."""
        cdef pc_err err
        self._check()
        if pc_rpc_finish(self._conn, stream, status, text, &err) < 0:
            raise native_error(&err)

    def goaway(self):
        """No call begins on this connection any more; when the last has ended it is over."""
        self._check()
        pc_rpc_goaway(self._conn)

    def close(self):
        """Close the socket; idempotent."""
        if self._conn != NULL:
            self._conn = pc_rpc_free(self._conn)
            _count_handle("RpcConnection", -1)

    def __dealloc__(self):
        if self._conn != NULL:
            self._conn = pc_rpc_free(self._conn)
