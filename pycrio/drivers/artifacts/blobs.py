"""Blobs of a layout as files: received from a pipe, written, locked against other writers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import select
import struct
from collections.abc import Iterator

from pycrio.errors import BadImage, Exhausted, StoreFailure, Unsupported
from pycrio.model.image import LayerDescriptor

CHUNK = 1 << 20
_FLOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class GivenUp(Exception):
    """The caller does not want the blob any more."""


def failure(error: OSError, what: str) -> StoreFailure | Exhausted:
    """The domain's class for a failed file operation on the artifact store."""
    text = f"artifact store: {what} failed: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
        return Exhausted(text)
    return StoreFailure(text)


def receive(layer: LayerDescriptor, source_fd: int, path: str, cancel_fd: int) -> None:
    """Write a pipe's content to a new file while its digest is computed. The file is on the disk afterwards; after a
    failure there is none. BadImage, Unsupported, GivenUp (``cancel_fd`` became readable), OSError."""
    algorithm, _, _ = layer.digest.partition(":")
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise Unsupported(f"blob {layer.digest} has a digest of an unknown kind, which cannot be verified")
    found = hashlib.new(algorithm)
    size = 0
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)  # whatever the umask: containers with other ids read it
        for chunk in _chunks(source_fd, cancel_fd):
            found.update(chunk)
            size += len(chunk)
            _write(fd, chunk)
        if layer.size >= 0 and size != layer.size:
            raise BadImage(f"blob {layer.digest} has {size} bytes instead of {layer.size}")
        if f"{algorithm}:{found.hexdigest()}" != layer.digest:
            raise BadImage(f"blob {layer.digest} came with digest {algorithm}:{found.hexdigest()}")
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _chunks(source_fd: int, cancel_fd: int) -> Iterator[bytes]:
    poller = select.poll()
    poller.register(source_fd, select.POLLIN)
    poller.register(cancel_fd, select.POLLIN)
    while True:
        if any(fd == cancel_fd for fd, _ in poller.poll()):
            raise GivenUp
        chunk = os.read(source_fd, CHUNK)
        if not chunk:
            return
        yield chunk


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_file(path: str, data: bytes) -> None:
    """Write a file atomically: a reader, and a crash at any point, sees the old or the new content."""
    temporary = f"{path}.tmp-{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.fchmod(fd, 0o644)
            _write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_file(path: str, limit: int) -> bytes:
    """A whole file; EFBIG beyond ``limit`` bytes."""
    with open(path, "rb") as f:
        data = f.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock file exclusively. The lock belongs to the open file, so it also keeps our own threads apart, and it
    conflicts with the POSIX locks that other programs take (man 2 fcntl, open file description locks)."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK)
        yield
    finally:
        os.close(fd)
