# cython: language_level=3
"""The front of the CRI socket: one listener for gRPC and HTTP/1.1, served by a native thread without the GIL."""

import os as _os
import warnings as _warnings

from libc.errno cimport EAGAIN, EPIPE, errno
from posix.unistd cimport read

from pycrio._native.base cimport native_error
from pycrio._native.base import count_handle as _count_handle
from pycrio._native.c_common cimport pc_err
from pycrio._native.c_front cimport (
    pc_front, pc_front_counters, pc_front_drain, pc_front_free, pc_front_handed, pc_front_new, pc_front_options,
    pc_front_start, pc_front_stats, pc_front_stop,
)


cdef bytes _address(target):
    cdef bytes raw = _os.fsencode(target)
    if b"\0" in raw:
        raise ValueError("a socket address contains a NUL byte")
    return raw


def take(int handover_fd):
    """The next connection that a front handed over: descriptor, which is the caller's, and the bytes that were read.

    None when there is none now. Raises OSError when the pipe cannot be read or its other end is closed.
    """
    cdef pc_front_handed h
    cdef ssize_t n = read(handover_fd, &h, sizeof(h))
    if n == <ssize_t>sizeof(h):
        return h.fd, h.head[:h.head_len]
    cdef int code = errno if n < 0 else EPIPE
    if code == EAGAIN:
        return None
    raise OSError(code, "connections cannot be taken over")


cdef class Front:
    """Accepts on a listening unix socket and passes each connection on by its protocol.

    What begins with the HTTP/2 preface is written to ``handover_fd``, a non-blocking pipe, for ``take`` at its other
    end. Anything else goes to ``http_target``: a unix socket path, "@name" for an abstract one; the listener there
    must belong to our own user. A connection that does not tell its protocol within ``header_timeout_ms`` is closed;
    at ``max_connections`` (without those handed over) accepting pauses. At most 128 KiB are held back per direction,
    nothing while a connection is idle. Both descriptors are duplicated (and ``listen_fd`` becomes non-blocking): the
    caller keeps its own and closes them.

    Raises NativeError: ENAMETOOLONG for an address, EINVAL when the socket does not listen, ENOTSOCK, EMFILE.
    """

    cdef pc_front *_front
    cdef pc_front_counters _last
    cdef bint _running

    def __init__(self, int listen_fd, int handover_fd, http_target, *, unsigned header_timeout_ms=5000,
                 unsigned max_connections=4096):
        cdef pc_err err
        cdef pc_front_options o
        cdef bytes http = _address(http_target)
        if self._front != NULL:
            raise RuntimeError("the front is initialised already")
        o.listen_fd = listen_fd
        o.handover_fd = handover_fd
        o.http_target = http
        o.header_timeout_ms = header_timeout_ms
        o.max_connections = max_connections
        if pc_front_new(&o, &self._front, &err) < 0:
            raise native_error(&err)
        _count_handle("Front", 1)

    cdef int _check(self) except -1:
        if self._front == NULL:
            raise ValueError("the front is stopped")
        return 0

    def start(self):
        """Start the thread; once. Raises NativeError (EALREADY, EAGAIN when no thread can be had)."""
        cdef pc_err err
        self._check()
        if pc_front_start(self._front, &err) < 0:
            raise native_error(&err)
        self._running = True

    def drain(self):
        """Accept no more; open connections live on until a side ends them. Returns at once; idempotent.

        Clients that connect as long as the caller has ``listen_fd`` open wait in its backlog.
        """
        if self._front != NULL:
            pc_front_drain(self._front)

    def stop(self):
        """End the thread and close every connection; idempotent. The statistics stay readable."""
        cdef pc_front *front = self._front
        if front == NULL:
            return
        self._front = NULL
        self._running = False
        with nogil:
            pc_front_stop(front)
            pc_front_stats(front, &self._last)
            pc_front_free(front)
        _count_handle("Front", -1)

    def stats(self):
        """Counters since the start, and ``active`` connections now; ``grpc`` and ``http`` were passed on,
        ``rejected`` were closed without one, ``paused`` is how often accepting paused (limit, no descriptors)."""
        if self._front != NULL:
            pc_front_stats(self._front, &self._last)
        cdef pc_front_counters s = self._last
        return {"accepted": s.accepted, "grpc": s.grpc, "http": s.http, "active": s.active, "rejected": s.rejected,
                "paused": s.paused}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def __del__(self):
        if self._running:
            _warnings.warn("a front was collected while running", ResourceWarning, source=self)
        self.stop()
