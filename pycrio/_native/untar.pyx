# cython: language_level=3
"""Layer streams onto disk and back: one pass that decompresses, digests, unpacks and writes tar-split metadata."""

from dataclasses import dataclass as _dataclass
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from pycrio._native.base cimport native_error
from pycrio._native.c_common cimport pc_err
from pycrio._native cimport c_untar as c

_LIMITS = ("entries", "bytes", "path", "depth", "special", "sparse", "window_log")


@_dataclass(frozen=True, slots=True)
class Extracted:
    """What one layer turned out to be. Digests are "sha256:" and hex; sizes are bytes."""

    compressed_digest: str
    compressed_size: int
    diff_id: str
    diff_size: int
    compression: str
    entries: int
    uids: list
    gids: list
    xattrs_skipped: int
    split_complete: bool


@_dataclass(frozen=True, slots=True)
class Assembled:
    """The tar that was put together: digest as "sha256:" and hex, size in bytes."""

    digest: str
    size: int


cdef c.pc_idmap *_map(object rows, size_t *ret_n) except? NULL:
    cdef size_t i = 0
    rows = list(rows)
    ret_n[0] = len(rows)
    if not rows:
        return NULL
    cdef c.pc_idmap *v = <c.pc_idmap *> calloc(len(rows), sizeof(c.pc_idmap))
    if v == NULL:
        raise MemoryError
    try:
        for container, host, size in rows:
            if container + size > 1 << 32 or host + size > 1 << 32:
                raise ValueError("id map: a range ends beyond 32 bits")
            v[i].container = container
            v[i].host = host
            v[i].size = size
            i += 1
    except BaseException:
        free(v)
        raise
    return v


cdef str _hex(const uint8_t *sha):
    return "sha256:" + (<bytes> (<const char *> sha)[:32]).hex()


def extract(
    int src_fd,
    int target_dir_fd,
    *,
    int split_fd=-1,
    uid_map=(),
    gid_map=(),
    bint userxattr=False,
    bint keep_root=False,
    limits=None,
    int cancel_fd=-1,
):
    """Unpack the blob read from src_fd below target_dir_fd (see the stub for the arguments).

    Blocks without the GIL: call it in the pool "unpack". Raises NativeError: EBADMSG for a malformed or cut-off
    stream, EPERM for a name that leads out of the layer, EFBIG, E2BIG, ENAMETOOLONG beyond a limit, EOVERFLOW for an
    owner outside of the id maps, ECANCELED after a cancel, else the errno of the failing system call.
    """
    cdef c.pc_untar_opts o
    cdef c.pc_untar_result r
    cdef pc_err err
    cdef int code
    cdef c.pc_idmap *uids = NULL
    cdef c.pc_idmap *gids = NULL
    cdef size_t n_uids = 0, n_gids = 0
    given = dict(limits or {})
    unknown = sorted(set(given) - set(_LIMITS))
    if unknown:
        raise ValueError(f"unknown limit {unknown[0]!r}; there are {', '.join(_LIMITS)}")
    o.limits.entries = given.get("entries", 0)
    o.limits.bytes = given.get("bytes", 0)
    o.limits.path = given.get("path", 0)
    o.limits.depth = given.get("depth", 0)
    o.limits.special = given.get("special", 0)
    o.limits.sparse = given.get("sparse", 0)
    o.limits.window_log = given.get("window_log", 0)
    o.src_fd = src_fd
    o.target_fd = target_dir_fd
    o.split_fd = split_fd
    o.cancel_fd = cancel_fd
    o.userxattr = userxattr
    o.keep_root = keep_root
    try:
        uids = _map(uid_map, &n_uids)
        gids = _map(gid_map, &n_gids)
        o.uid_map = uids
        o.n_uid_map = n_uids
        o.gid_map = gids
        o.n_gid_map = n_gids
        with nogil:
            code = c.pc_untar(&o, &r, &err)
    finally:
        free(uids)
        free(gids)
    if code < 0:
        raise native_error(&err)
    try:
        return Extracted(
            _hex(r.compressed_sha),
            r.compressed_size,
            _hex(r.diff_sha),
            r.diff_size,
            (<bytes> r.compression).decode(),
            r.entries,
            [r.uids[i] for i in range(r.n_uids)],
            [r.gids[i] for i in range(r.n_gids)],
            r.xattrs_skipped,
            bool(r.split_complete),
        )
    finally:
        c.pc_untar_result_done(&r)


def assemble(int split_fd, int dir_fd, int out_fd, *, int cancel_fd=-1):
    """Write to out_fd the tar that the tar-split stream split_fd and the layer directory dir_fd describe.

    Blocks without the GIL. Raises NativeError with EBADMSG when a file is not what was unpacked or the metadata is
    damaged, ENOENT when a file is gone.
    """
    cdef int[4] fds
    cdef uint8_t[32] sha
    cdef uint64_t size = 0
    cdef pc_err err
    cdef int code
    fds[0] = split_fd
    fds[1] = dir_fd
    fds[2] = out_fd
    fds[3] = cancel_fd
    with nogil:
        code = c.pc_tarsplit_assemble(fds, sha, &size, &err)
    if code < 0:
        raise native_error(&err)
    return Assembled(_hex(sha), size)
