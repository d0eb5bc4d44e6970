# cython: language_level=3
"""Mounts and paths inside roots (csrc/mounts). Call in the pool "mount": everything here blocks, without the GIL.

Failures raise NativeError: ``step`` is what was refused, ``filename`` which directory, option or target it was about,
``detail`` what the kernel said about it, if anything. A call that failed has left no mount behind.
"""

import os as _os

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from pycrio._native cimport c_mounts as c
from pycrio._native.base cimport native_error
from pycrio._native.c_common cimport pc_err

from pycrio._native.base import Fd


cdef bytes _text(value):
    cdef bytes b = _os.fsencode(value)
    if b"\0" in b:
        raise ValueError("embedded null byte")
    return b


cdef class _Strings:
    """An array of C strings, and the bytes that they point into."""

    cdef const char **items
    cdef size_t n
    cdef list kept

    def __cinit__(self, values):
        if isinstance(values, str):
            raise TypeError("a sequence of strings, not one string")
        self.kept = [_text(v) for v in values]
        self.n = len(self.kept)
        self.items = <const char **> calloc(self.n + 1, sizeof(char *))
        if self.items == NULL:
            raise MemoryError()
        for i, b in enumerate(self.kept):
            self.items[i] = PyBytes_AS_STRING(b)

    def __dealloc__(self):
        free(self.items)


cdef object _with_log(pc_err *err, c.pc_mount_log *log):
    error = native_error(err)
    error.detail = (<bytes> log.text).decode("utf-8", "replace")
    return error


def overlay(lowers, upper, work, target, options=(), *, bint classic=False):
    """Mount an overlay of ``lowers`` (uppermost first, 1 to 500) on the directory ``target``, privately propagated.

    Without upper and work (both None) it is read-only and needs two lowers. ``options`` are overlay options
    ("volatile", "metacopy=on", 'context="..."') or mount attributes ("nodev", "ro"). Any byte may occur in the paths. ``classic``: by mount(2) at once, for kernels
    that log every try of the newer way as an error (the probe's "lowerdir_plus" is False there).
    """
    cdef _Strings l = _Strings(lowers)
    cdef _Strings o = _Strings(options)
    cdef bytes up = b"" if upper is None else _text(upper)
    cdef bytes wk = b"" if work is None else _text(work)
    cdef bytes to = _text(target)
    cdef c.pc_overlay spec
    cdef c.pc_mount_log log
    cdef pc_err err
    cdef int r
    spec.lowers = l.items
    spec.n_lowers = l.n
    spec.upper = NULL if upper is None else PyBytes_AS_STRING(up)
    spec.work = NULL if work is None else PyBytes_AS_STRING(wk)
    spec.target = PyBytes_AS_STRING(to)
    spec.options = o.items
    spec.n_options = o.n
    spec.classic = classic
    log.text[0] = 0
    with nogil:
        r = c.pc_mount_overlay(&spec, &log, &err)
    if r < 0:
        raise _with_log(&err, &log)


cdef object _bind(source, target, bint recursive, bint readonly, propagation, attrs, int userns):
    cdef _Strings a = _Strings(attrs)
    cdef bytes from_ = _text(source), to = _text(target)
    cdef bytes prop = b"" if propagation is None else _text(propagation)
    cdef c.pc_bind spec
    cdef pc_err err
    cdef int r
    spec.source = PyBytes_AS_STRING(from_)
    spec.target = PyBytes_AS_STRING(to)
    spec.recursive = recursive
    spec.readonly = readonly
    spec.attrs = a.items
    spec.n_attrs = a.n
    spec.propagation = NULL if propagation is None else PyBytes_AS_STRING(prop)
    spec.userns = userns
    with nogil:
        r = c.pc_mount_bind(&spec, &err)
    if r < 0:
        raise native_error(&err)


def bind(source, target, *, recursive=False, readonly=False, propagation=None, attrs=()):
    """Bind ``source`` on ``target``. ``readonly`` and ``attrs`` are about the mount itself; an attribute with a leading
    r ("rro", "rnosuid") is about all mounts below it too. ``propagation``: "private", "rslave", "shared", ...
    """
    _bind(source, target, recursive, readonly, propagation, attrs, -1)


def idmapped_bind(source, target, int userns_fd, *, recursive=False, readonly=False, propagation=None, attrs=()):
    """Bind with the ids of the files shifted by the maps of a user namespace. EINVAL: the file system cannot do it."""
    if userns_fd < 0:
        raise ValueError("a descriptor is not negative")
    _bind(source, target, recursive, readonly, propagation, attrs, userns_fd)


def tmpfs(target, *, size=None, mode, attrs=("nosuid", "nodev", "noexec"), uid=0, gid=0, label=None):
    """Mount a tmpfs of ``size`` bytes (None: the kernel's default, half of memory), privately propagated."""
    cdef _Strings a = _Strings(attrs)
    cdef bytes to = _text(target)
    cdef bytes lab = b"" if label is None else _text(label)
    cdef c.pc_tmpfs spec
    cdef c.pc_mount_log log
    cdef pc_err err
    cdef int r
    if size is not None and size <= 0:
        raise ValueError("the size of a tmpfs is positive")
    spec.target = PyBytes_AS_STRING(to)
    spec.size = 0 if size is None else size
    spec.mode = mode
    spec.uid = uid
    spec.gid = gid
    spec.label = NULL if label is None else PyBytes_AS_STRING(lab)
    spec.attrs = a.items
    spec.n_attrs = a.n
    log.text[0] = 0
    with nogil:
        r = c.pc_mount_tmpfs(&spec, &log, &err)
    if r < 0:
        raise _with_log(&err, &log)


def umount(target, *, detach=True):
    """Unmount what is topmost at ``target``; a final symbolic link is not followed. False when it is no mount."""
    cdef bytes to = _text(target)
    cdef const char *cto = to
    cdef bint lazy = detach
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_umount(cto, lazy, &err)
    if r < 0:
        raise native_error(&err)
    return r > 0


def set_propagation(target, kind, recursive=True):
    """Make the mount at ``target`` "private", "slave", "shared" or "unbindable"; "rslave" etc. are always recursive."""
    cdef bytes to = _text(target), k = _text(kind)
    cdef const char *cto = to
    cdef const char *ck = k
    cdef bint deep = recursive
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_mount_propagation(cto, ck, deep, &err)
    if r < 0:
        raise native_error(&err)


def is_mountpoint(path):
    """True when ``path`` is the root of a mount. False when it is absent; a final link is not followed."""
    cdef bytes p = _text(path)
    cdef const char *cp = p
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_mount_is(cp, &err)
    if r < 0:
        raise native_error(&err)
    return r > 0


def mount_id(path):
    """Id of the mount that ``path`` is on, as the first field of mountinfo."""
    cdef bytes p = _text(path)
    cdef const char *cp = p
    cdef uint64_t found = 0
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_mount_id(cp, &found, &err)
    if r < 0:
        raise native_error(&err)
    return found


def propagation_of(path):
    """How the mount that ``path`` is on propagates: "shared" (also when it is a slave too), "slave", "private" or
    "unbindable".
    """
    cdef bytes p = _text(path)
    cdef const char *cp = p
    cdef const char *kind = NULL
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_mount_propagation_of(cp, &kind, &err)
    if r < 0:
        raise native_error(&err)
    return (<bytes> kind).decode("ascii")


def probe(dir="/", int userns_fd=-1):
    """What mounts can do on this kernel, and with the file system of ``dir``: feature name to True or False.

    Asked by trying, in a mount namespace that ends with the call. "idmap" and "overlay_idmap" need a user namespace
    (ns.hold_userns), else they are False.
    """
    cdef bytes p = _text(dir)
    cdef const char *cp = p
    cdef uint64_t found = 0
    cdef const char *name
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_mount_probe(cp, userns_fd, &found, &err)
    if r < 0:
        raise native_error(&err)
    features = {}
    for bit in range(64):
        name = c.pc_mount_feature_name(bit)
        if name == NULL:
            break
        features[(<bytes> name).decode("ascii")] = bool(found >> <int> bit & 1)
    return features


def open_in_root(root, path, int flags, unsigned int mode=0):
    """Open ``path`` with ``root`` as the root of every link and of every "..": nothing outside can be reached."""
    cdef bytes base = _text(root), p = _text(path)
    cdef const char *cbase = base
    cdef const char *cp = p
    cdef int fd = -1, r
    cdef pc_err err
    with nogil:
        r = c.pc_open_in(cbase, cp, flags, mode, &fd, &err)
    if r < 0:
        raise native_error(&err)
    return Fd(fd)


def resolve_in_root(root, path):
    """Host path of ``path`` below ``root``, all links followed inside. It must exist (ENOENT); true when looked at."""
    cdef bytes base = _text(root), p = _text(path)
    cdef const char *cbase = base
    cdef const char *cp = p
    cdef char out[4096]
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_resolve_in(cbase, cp, out, sizeof(out), &err)
    if r < 0:
        raise native_error(&err)
    return _os.fsdecode(<bytes> out)


def mkdirs_in_root(root, path, unsigned int mode, int uid, int gid):
    """Make the directories of ``path`` that are missing below ``root``, links (dangling ones too) followed inside.

    Those made get exactly ``mode`` and the owner. Gives the host path of the last one.
    """
    cdef bytes base = _text(root), p = _text(path)
    cdef const char *cbase = base
    cdef const char *cp = p
    cdef char out[4096]
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_mkdirs_in(cbase, cp, mode, uid, gid, out, sizeof(out), &err)
    if r < 0:
        raise native_error(&err)
    return _os.fsdecode(<bytes> out)
