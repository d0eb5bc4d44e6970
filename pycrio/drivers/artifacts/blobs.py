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

from pycrio._native.files import replace_file, write_all
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
            write_all(fd, chunk)
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


def replace_small(path: str, data: bytes) -> None:
    """Replace an index or the like, durably, under a temporary name that the sweep of the layout knows."""
    replace_file(path, data, f"{path}.tmp-{secrets.token_hex(8)}", mode=0o644, durable=True)


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
