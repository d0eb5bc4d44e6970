# cython: language_level=3
"""Namespaces of pods: make, configure, pin, look into, remove (csrc/ns). Call in the pool "mount".

Every function blocks without the GIL and, join_mount apart, changes nothing about the calling thread. Failures raise NativeError whose
``step`` says what was being done; nothing that was made before the failure remains.
"""

import dataclasses as _dataclasses
import errno as _errno
import os as _os
from typing import NamedTuple as _NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.types cimport pid_t
from pycrio._native cimport c_ns as c
from pycrio._native.base cimport native_error
from pycrio._native.c_common cimport pc_err

from pycrio._native.base import Fd, NativeError


_KINDS = {
    "user": c.PC_NS_USER,
    "net": c.PC_NS_NET,
    "uts": c.PC_NS_UTS,
    "ipc": c.PC_NS_IPC,
    "mnt": c.PC_NS_MNT,
    "cgroup": c.PC_NS_CGROUP,
    "pid": c.PC_NS_PID,
}
_NAMES = {number: name for name, number in _KINDS.items()}


@_dataclasses.dataclass(frozen=True, slots=True)
class LinkStats:
    """Counters of one network link since it was made; bytes and packets, seen from inside the namespace."""

    name: str
    index: int
    up: bool
    mtu: int
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class Keeper(_NamedTuple):
    """First process of a pid namespace: a child of the caller, who owns the pidfd."""

    pid: int
    pidfd: Fd


cdef bytes _text(value):
    cdef bytes b = _os.fsencode(value)
    if b"\0" in b:
        raise ValueError("embedded null byte")
    return b


cdef class _Maps:
    """A sequence of (container, host, size) as the C array."""

    cdef c.pc_ns_map *items
    cdef size_t n

    def __cinit__(self, maps):
        rows = list(maps)
        self.n = len(rows)
        self.items = <c.pc_ns_map *> calloc(self.n + 1, sizeof(c.pc_ns_map))
        if self.items == NULL:
            raise MemoryError()
        for i, (container, host, size) in enumerate(rows):
            self.items[i].container = container
            self.items[i].host = host
            self.items[i].size = size

    def __dealloc__(self):
        free(self.items)


cdef class _Strings:
    """A NULL-terminated array of C strings, and the bytes that they point into."""

    cdef const char **items
    cdef list kept

    def __cinit__(self, values):
        self.kept = [_text(v) for v in values]
        self.items = <const char **> calloc(len(self.kept) + 1, sizeof(char *))
        if self.items == NULL:
            raise MemoryError()
        for i, b in enumerate(self.kept):
            self.items[i] = PyBytes_AS_STRING(b)

    def __dealloc__(self):
        free(self.items)


cdef object _create(pins, sysctls, hostname, bint loopback_up, maps, int userns, keeper):
    cdef c.pc_ns_spec spec
    cdef pc_err err
    cdef pid_t pid = -1
    cdef int pidfd = -1, r
    cdef bytes name
    memset(&spec, 0, sizeof(spec))
    kept = []
    for kind, path in pins.items():
        if kind not in _KINDS:
            raise ValueError(f"no such kind of namespace: {kind!r}")
        name = _text(path)
        kept.append(name)
        spec.pins[<int> _KINDS[kind]] = PyBytes_AS_STRING(name)
    cdef _Maps uids = _Maps(maps[0])
    cdef _Maps gids = _Maps(maps[1])
    cdef _Strings settings = _Strings([text for pair in sysctls for text in pair])
    cdef _Strings argv = _Strings(keeper)
    spec.userns = userns
    spec.uids = uids.items
    spec.n_uids = uids.n
    spec.gids = gids.items
    spec.n_gids = gids.n
    spec.sysctls = settings.items
    spec.n_sysctls = len(settings.kept) // 2
    spec.loopback_up = loopback_up
    if hostname is not None:
        name = _text(hostname)
        kept.append(name)
        spec.hostname = PyBytes_AS_STRING(name)
    if argv.kept:
        spec.keeper = argv.items
    with nogil:
        r = c.pc_ns_create(&spec, &pid, &pidfd, &err)
    if r < 0:
        raise native_error(&err)
    return Keeper(pid, Fd(pidfd)) if argv.kept else None


def create(pins, *, sysctls=(), hostname=None, loopback_up=True, uid_map=(), gid_map=(), userns_fd=-1):
    """Make one namespace per entry of ``pins`` (kind to path) and bind it on a new file of mode 0 at that path.

    Kinds: net, uts, ipc, mnt, cgroup, user. With "user", the others belong to the new user namespace, whose maps are
    (container, host, size) rows; with ``userns_fd`` they belong to that existing one. ``sysctls`` are (name, value)
    pairs, dots or slashes; each must be of a kind that is made here. ``loopback_up`` counts when "net" is asked for.
    """
    _create(pins, sysctls, hostname, loopback_up, (uid_map, gid_map), userns_fd, ())


def create_kept(pins, keeper, *, sysctls=(), hostname=None, loopback_up=True, uid_map=(), gid_map=(), userns_fd=-1):
    """Like create(), with a "pid" pin: ``keeper`` (an argument vector, full path first) runs as its first process.

    It runs with an empty environment, /dev/null as its standard streams and a session of its own, and is a child of
    the calling process. Ending it ends the pid namespace.
    """
    return _create(pins, sysctls, hostname, loopback_up, (uid_map, gid_map), userns_fd, keeper)


def hold_userns(uid_map, gid_map):
    """A new user namespace with these maps, as a descriptor that keeps it alive (for id-mapped mounts)."""
    cdef c.pc_ns_spec spec
    cdef pc_err err
    cdef int fd = -1, r
    cdef _Maps uids = _Maps(uid_map)
    cdef _Maps gids = _Maps(gid_map)
    memset(&spec, 0, sizeof(spec))
    spec.uids = uids.items
    spec.n_uids = uids.n
    spec.gids = gids.items
    spec.n_gids = gids.n
    with nogil:
        r = c.pc_ns_hold_userns(&spec, &fd, &err)
    if r < 0:
        raise native_error(&err)
    return Fd(fd)


def pin(source, path):
    """Bind the namespace file ``source`` (a /proc/<pid>/ns file or a pin) on the new file ``path``."""
    cdef bytes from_ = _text(source), to = _text(path)
    cdef const char *cfrom = from_
    cdef const char *cto = to
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_ns_pin(cfrom, cto, &err)
    if r < 0:
        raise native_error(&err)


def unpin(path):
    """Detach and remove a pin. False when there is nothing at ``path``. Users of the namespace keep it alive."""
    cdef bytes name = _text(path)
    cdef const char *cname = name
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_ns_unpin(cname, &err)
    if r < 0:
        raise native_error(&err)
    return r > 0


def ns_inode(path):
    """Inode number of a namespace file, its identity on this host. ENXIO when it is another kind of file."""
    cdef bytes name = _text(path)
    cdef const char *cname = name
    cdef uint64_t inode = 0
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_ns_inode(cname, &inode, &err)
    if r < 0:
        raise native_error(&err)
    return inode


def is_pinned(path):
    """True when ``path`` is a namespace file, False when it is absent or anything else (a stale pin, say)."""
    try:
        ns_inode(path)
    except NativeError as e:
        if e.errno in (_errno.ENOENT, _errno.ENXIO, _errno.ENOTDIR):
            return False
        raise
    return True


def join_mount(path):
    """Move this process, which must have one thread only, into a mount namespace. ENXIO: no file of one."""
    cdef bytes name = _text(path)
    cdef const char *cname = name
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_ns_join_mount(cname, &err)
    if r < 0:
        raise native_error(&err)


def sysctl_kind(name):
    """Kind of namespace ("net", "ipc", ...) that a sysctl belongs to. EPERM: none that a pod may set; EINVAL: no name."""
    cdef bytes text = _text(name)
    cdef char path[4096]
    cdef c.pc_ns_kind kind
    cdef pc_err err
    if c.pc_ns_sysctl(text, path, sizeof(path), &kind, &err) < 0:
        raise native_error(&err)
    return _NAMES[<int> kind]


def connect_in(netns, host, port, timeout_ms):
    """TCP connection made from inside a network namespace ("" = ours): a connected, non-blocking socket.

    ``host`` is an address, or "localhost": 127.0.0.1, then ::1. ETIMEDOUT after ``timeout_ms`` (-1: never).
    """
    cdef bytes ns = _text(netns), to = _text(host)
    cdef const char *cns = ns
    cdef const char *cto = to
    cdef uint16_t cport = port
    cdef int timeout = timeout_ms, fd = -1, r
    cdef pc_err err
    with nogil:
        r = c.pc_ns_connect(cns, cto, cport, timeout, &fd, &err)
    if r < 0:
        raise native_error(&err)
    return Fd(fd)


def link_stats(netns):
    """Counters of every link of a network namespace (a pin or /proc/<pid>/ns/net; "" = ours), loopback included."""
    cdef bytes ns = _text(netns)
    cdef const char *cns = ns
    cdef c.pc_ns_link *links = NULL
    cdef c.pc_ns_link *l
    cdef size_t n = 0, i
    cdef pc_err err
    cdef int r
    with nogil:
        r = c.pc_ns_links(cns, &links, &n, &err)
    if r < 0:
        raise native_error(&err)
    try:
        out = []
        for i in range(n):
            l = &links[i]
            out.append(
                LinkStats(
                    _os.fsdecode(<bytes> l.name), l.index, bool(l.flags & 1), l.mtu,
                    l.rx_bytes, l.rx_packets, l.rx_errors, l.rx_dropped,
                    l.tx_bytes, l.tx_packets, l.tx_errors, l.tx_dropped,
                )
            )
        return out
    finally:
        free(links)


def addresses(netns, ifname):
    """Addresses of one link of a network namespace, without prefix lengths, IPv4 first, link-local ones last.

    Empty when the link has none; ENODEV when there is no such link.
    """
    cdef bytes ns = _text(netns)
    cdef const char *cns = ns
    cdef c.pc_ns_addr *addrs = NULL
    cdef size_t n = 0, i
    cdef pc_err err
    cdef int r
    index = next((l.index for l in link_stats(netns) if l.name == ifname), None)
    if index is None:
        raise NativeError(_errno.ENODEV, "no such link", ifname)
    with nogil:
        r = c.pc_ns_addrs(cns, &addrs, &n, &err)
    if r < 0:
        raise native_error(&err)
    try:
        found = []
        for i in range(n):
            if addrs[i].index == index:
                found.append((addrs[i].scope == 253, addrs[i].family, i, (<bytes> addrs[i].text).decode("ascii")))
        return [text for _, _, _, text in sorted(found)]
    finally:
        free(addrs)
