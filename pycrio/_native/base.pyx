# cython: language_level=3
"""What every binding shares: the error that a C unit reports, and the owner of a descriptor."""

import os as _os
import warnings as _warnings
from pycrio._native.c_common cimport pc_err


class NativeError(OSError):
    """A step of the compiled core failed.

    ``errno``, ``strerror`` and ``filename`` are those of OSError; ``step`` names the step (a system call or a
    phase), so that a message can say what was being done and to what. ``detail`` is what the kernel said about it in
    words, where it does (mounts); else empty.
    """

    step: str
    detail: str = ""

    def __init__(self, code, step, path=None):
        super().__init__(code, _os.strerror(code), path or None)
        self.step = step

    def __str__(self):
        where = f" {self.filename!r}" if self.filename else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.step}{where}: {self.strerror}{detail}"

    def __reduce__(self):
        return (NativeError, (self.errno, self.step, self.filename))


cdef object native_error(pc_err *e):
    step = (<bytes>e.step).decode("utf-8", "replace") if e.step != NULL else "unknown step"
    path = (<bytes>e.path).decode("utf-8", "surrogateescape")
    return NativeError(e.code, step, path)


_live = {}


def live_handles():
    """Open native handles per class name (tests assert that it is empty after tear-down)."""
    return {k: v for k, v in _live.items() if v}


def count_handle(kind, delta):
    """Book a native handle of the given kind in (+1) or out (-1)."""
    _live[kind] = _live.get(kind, 0) + delta


class Fd:
    """Owner of one descriptor: closes it once, forgets the number on close, warns when collected while open.

    ``take()`` hands the number on and leaves the owner empty; using a closed owner raises ValueError.
    """

    __slots__ = ("_fd",)

    def __init__(self, int fd):
        if fd < 0:
            raise ValueError("a descriptor is not negative")
        self._fd = fd
        count_handle("Fd", 1)

    def fileno(self):
        if self._fd < 0:
            raise ValueError("descriptor is closed")
        return self._fd

    @property
    def closed(self):
        return self._fd < 0

    def take(self):
        """The number; the caller owns it from now on."""
        fd = self.fileno()
        self._fd = -1
        count_handle("Fd", -1)
        return fd

    def close(self):
        if self._fd >= 0:
            _os.close(self.take())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        if getattr(self, "_fd", -1) >= 0:
            _warnings.warn(f"descriptor {self._fd} was collected while open", ResourceWarning, source=self)
            self.close()

    def __repr__(self):
        return f"<Fd {self._fd}>" if self._fd >= 0 else "<Fd closed>"


cdef extern from *:
    """
    #include <stdlib.h>
    #if defined(__GLIBC__)
    #include <malloc.h>
    static int pc_bound_malloc(int arenas, int trim) {
        return mallopt(M_ARENA_MAX, arenas) && mallopt(M_TRIM_THRESHOLD, trim);
    }
    static int pc_trim_malloc(void) {
        return malloc_trim(0);
    }
    #else
    static int pc_bound_malloc(int arenas, int trim) {
        (void) arenas;
        (void) trim;
        return 0;
    }
    static int pc_trim_malloc(void) {
        return 0;
    }
    #endif
    """
    int pc_bound_malloc(int arenas, int trim) nogil
    int pc_trim_malloc() nogil


def bound_malloc(int arenas, int trim):
    """Keep the C library's allocator small (mallopt(3)): at most ``arenas`` heaps for all threads, and more than
    ``trim`` free bytes at the top of one go back to the kernel. False where the C library has no such knobs."""
    return bool(pc_bound_malloc(arenas, trim))


def trim_malloc():
    """Give the free pages in the middle of the C library's heaps back to the kernel, too (malloc_trim(3)). Takes some
    milliseconds in a grown process. True when there was something to give."""
    cdef int given
    with nogil:
        given = pc_trim_malloc()
    return bool(given)


cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/openat2.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int pc_open_child(int directory, const char *name) {
        struct open_how how = {
            .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
            .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
        };
        int fd = (int) syscall(SYS_openat2, directory, name, &how, sizeof how);
        return fd < 0 ? -errno : fd;
    }
    """
    int pc_open_child(int directory, const char *name) nogil


def open_child(int directory, name):
    """A descriptor of the directory ``name`` in ``directory``, unless something is mounted on it (openat2(2)): OSError
    with EXDEV then, even where it is a bind mount of the same file system."""
    cdef bytes encoded = _os.fsencode(name)
    cdef const char *text = encoded
    cdef int fd
    with nogil:
        fd = pc_open_child(directory, text)
    if fd < 0:
        raise OSError(-fd, _os.strerror(-fd), name)
    return fd
