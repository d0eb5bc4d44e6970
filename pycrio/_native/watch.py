"""Directory watching for asyncio: inotify events as a callback on the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from pycrio._native import inotify
from pycrio._native.base import count_handle

CHANGES = inotify.CREATE | inotify.DELETE | inotify.CLOSE_WRITE | inotify.MOVED_FROM | inotify.MOVED_TO
NEW_NAMES = inotify.CREATE | inotify.MOVED_TO
ARRIVALS = inotify.CREATE | inotify.CLOSE_WRITE | inotify.MOVED_TO


class DirectoryWatch:
    """Calls ``on_event(directory, name)`` for events in directories; ``name`` is "" when events were lost (overflow) or
    a directory itself went away, and then the whole directory should be read anew."""

    def __init__(self, on_event: Callable[[str, str], None], mask: int = CHANGES) -> None:
        self._on_event = on_event
        self._mask = mask
        self._fd = inotify.init()
        self._paths: dict[int, str] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ready)
        count_handle("DirectoryWatch", 1)

    def add(self, path: str) -> None:
        """Watch a directory too; NativeError when it cannot be watched."""
        self._paths[inotify.add(self._fd, path, self._mask)] = path

    def clear(self) -> None:
        """End every watch."""
        for wd in self._paths:
            inotify.remove(self._fd, wd)
        self._paths.clear()

    def _ready(self) -> None:
        for wd, mask, name in inotify.read(self._fd):
            if mask & inotify.Q_OVERFLOW:
                for path in dict.fromkeys(self._paths.values()):
                    self._on_event(path, "")
            elif mask & inotify.IGNORED:
                path = self._paths.pop(wd, "")
                if path:
                    self._on_event(path, "")
            elif wd in self._paths:
                self._on_event(self._paths[wd], name)

    def close(self) -> None:
        """Stop watching; harmless when done already."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            count_handle("DirectoryWatch", -1)
