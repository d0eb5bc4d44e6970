"""Whole files: replaced completely or not at all, read up to a limit. Errors are OSErrors; callers translate."""

from __future__ import annotations

import contextlib
import errno
import os


def write_all(fd: int, data: bytes) -> None:
    """Write everything, however little the kernel takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_file(path: str, limit: int = 64 << 20) -> bytes:
    """A whole file of at most ``limit`` bytes; EFBIG beyond."""
    with open(path, "rb") as f:
        data = f.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


def replace_file(
    path: str,
    content: bytes,
    temporary: str,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    durable: bool = False,
) -> None:
    """Create or replace a file so that a reader, and a kill at any moment, finds the old content or the new, whole.

    ``temporary`` is where the content grows, in the same directory. The name is the caller's, since what a kill leaves
    under it is the caller's to find: a fixed one is taken away by the next call, of which there may be one at a time;
    a random one needs somebody who sweeps. ``mode`` holds whatever the umask; ``owner`` None: ours.

    ``durable``: the content reaches the disk before the name does. The directory is not synced: after a crash of the
    machine the old file may be back, but nothing between the two.
    """
    fd = _make(temporary, mode)
    try:
        try:
            write_all(fd, content)
            os.fchmod(fd, mode)
            if owner is not None:
                os.fchown(fd, *owner)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what is raised is the first failure
            os.unlink(temporary)
        raise


def _make(path: str, mode: int) -> int:
    """A new file of ours; whatever a kill left there, with other owners and links perhaps, goes first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, mode)
