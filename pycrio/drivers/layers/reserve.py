"""A little space kept back, so that things can be removed from a disk that is full.

Removal rewrites lists and moves directories before it frees anything, which needs a few blocks and inodes. Without them
nothing could go from a full disk, and a creation that failed for want of space could not be undone.
"""

from __future__ import annotations

import contextlib
import errno
import os

from pycrio.drivers.layers.files import remove_tree

FILES = 16
FILE_SIZE = 64 << 10


class Reserve:
    """Some files at ``path``. All calls block; one at a time (they come with the store's turn)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._full = False

    def fill(self) -> None:
        """Set the space aside if it is not yet; a disk without it has no reserve."""
        if self._full:
            return
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            for number in range(FILES):
                fd = os.open(f"{self.path}/{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(fd, 0, FILE_SIZE)
                finally:
                    os.close(fd)
        except OSError as e:
            self.spend()
            if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            return
        self._full = True

    def spend(self) -> bool:
        """Give the space free; False when there was none."""
        self._full = False
        there = os.path.isdir(self.path)
        with contextlib.suppress(FileNotFoundError):
            remove_tree(self.path)
        return there
