# cython: language_level=3
"""inotify (man 7 inotify): file events without polling. Descriptors are non-blocking and close-on-exec."""

import os as _os
from libc.errno cimport errno
from pycrio._native.base import NativeError

cdef extern from "sys/inotify.h":
    int inotify_init1(int flags) nogil
    int inotify_add_watch(int fd, const char *path, unsigned int mask) nogil
    int inotify_rm_watch(int fd, int wd) nogil
    int IN_NONBLOCK_ "IN_NONBLOCK"
    int IN_CLOEXEC_ "IN_CLOEXEC"

CREATE, DELETE, MODIFY, CLOSE_WRITE = 0x100, 0x200, 0x2, 0x8
MOVED_FROM, MOVED_TO, ATTRIB = 0x40, 0x80, 0x4
DELETE_SELF, MOVE_SELF, IGNORED, Q_OVERFLOW = 0x400, 0x800, 0x8000, 0x4000


def init():
    """A new inotify descriptor; the caller owns it."""
    cdef int fd = inotify_init1(IN_NONBLOCK_ | IN_CLOEXEC_)
    if fd < 0:
        raise NativeError(errno, "inotify_init1", None)
    return fd


def add(int fd, path, unsigned int mask):
    """Watch a path; the watch descriptor."""
    raw = _os.fsencode(path)
    cdef int wd = inotify_add_watch(fd, raw, mask)
    if wd < 0:
        raise NativeError(errno, "inotify_add_watch", _os.fsdecode(raw))
    return wd


def remove(int fd, int wd):
    """End a watch; one that is gone already is fine."""
    inotify_rm_watch(fd, wd)


def read(int fd):
    """Events that are there now, as (watch, mask, name) with name "" for the watched path itself; [] when none."""
    try:
        data = _os.read(fd, 65536)
    except BlockingIOError:
        return []
    out = []
    cdef Py_ssize_t at = 0
    while at + 16 <= len(data):
        wd = int.from_bytes(data[at:at + 4], "little", signed=True)
        mask = int.from_bytes(data[at + 4:at + 8], "little")
        size = int.from_bytes(data[at + 12:at + 16], "little")
        out.append((wd, mask, _os.fsdecode(data[at + 16:at + 16 + size].rstrip(b"\0"))))
        at += 16 + size
    return out
