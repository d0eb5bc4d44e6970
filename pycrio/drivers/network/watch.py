"""Directories under watch that may vanish, come back, or be replaced by a link."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from pycrio._native.base import NativeError
from pycrio._native.watch import DirectoryWatch
from pycrio.obs import log as obslog

log = obslog.get("cni")


class Directories:
    """Calls ``on_change`` when something happens in one of the directories, or to one of them.

    Every directory is watched together with the nearest one above it that exists, where only its own name, or that of
    the next one on the way to it, counts.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._watch: DirectoryWatch | None = None
        self._paths: tuple[str, ...] = ()
        self._names: dict[str, set[str]] = {}
        self._whole: set[str] = set()
        self._stale = True

    def arm(self, paths: Iterable[str]) -> None:
        """Watch these directories. To be called again after every change, before they are read: then nothing that
        happens later is missed."""
        wanted = tuple(dict.fromkeys(os.path.abspath(p) for p in paths))
        if not self._stale and wanted == self._paths:
            return
        self.close()
        self._paths, self._stale = wanted, False
        self._names, self._whole = {}, set()
        self._watch = DirectoryWatch(self._event)
        for path in wanted:
            self._above(self._watch, path)
            # By its real path: two names of one directory share one watch.
            real = os.path.realpath(path)
            if self._add(self._watch, real):
                self._whole.add(real)

    def _above(self, watch: DirectoryWatch, path: str) -> None:
        while path != "/":
            above, name = os.path.split(path)
            real = os.path.realpath(above)
            if self._add(watch, real):
                self._names.setdefault(real, set()).add(name)
                return
            path = above

    def _add(self, watch: DirectoryWatch, path: str) -> bool:
        try:
            watch.add(path)
        except NativeError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                log.warning("Directory cannot be watched, changes need a restart", path=path, error=str(e))
            return False
        return True

    def _event(self, directory: str, name: str) -> None:
        to_one_of_them = not name or name in self._names.get(directory, ())
        self._stale = self._stale or to_one_of_them
        if to_one_of_them or directory in self._whole:
            self._on_change()

    def close(self) -> None:
        """Stop watching; harmless when done already."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._stale = True
