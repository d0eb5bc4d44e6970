"""registries.conf and its drop-ins under watch: whoever edits them need not send SIGHUP (auto_reload_registries)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from pycrio._native.base import NativeError
from pycrio._native.watch import DirectoryWatch
from pycrio.errors import ConfigError
from pycrio.obs import log as obslog

log = obslog.get("registry")
# Files are often written in several steps, or several at a time: what follows within this time is one change.
SETTLE = 0.1


class Follower:
    """Calls ``reload`` after something changed in a file or directory, either of which may not exist yet. A reload that
    fails keeps the old configuration, which is logged."""

    def __init__(self, file: str, directory: str, reload: Callable[[], Awaitable[None]]) -> None:
        self._file, self._directory = os.path.abspath(file), os.path.abspath(directory)
        self._reload = reload
        self._watch: DirectoryWatch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def open(self) -> None:
        """Begin to watch; needs a running event loop."""
        self._arm()

    def _arm(self) -> None:
        """Watch what exists now: the directory itself, and those above file and directory, where they may appear."""
        if self._watch is not None:
            self._watch.close()
        self._watch = DirectoryWatch(self._event)
        # Of several names for one directory the last one added counts, which must be the drop-in directory itself.
        for path in dict.fromkeys((os.path.dirname(self._file), os.path.dirname(self._directory), self._directory)):
            try:
                self._watch.add(path)
            except NativeError as e:
                log.debug("Directory of registry configuration is not watched", path=path, error=str(e))

    def _event(self, directory: str, name: str) -> None:
        path = os.path.join(directory, name) if name else directory
        dropped = directory == self._directory and (not name or name.endswith(".conf") or name.startswith("..data"))
        if dropped or path in (self._file, self._directory) or not name:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(SETTLE, self._due)

    def _due(self) -> None:
        self._timer = None
        self._arm()  # before the files are read: nothing that happens later is missed
        if self._task is not None and not self._task.done():
            self._again = True
            return
        self._task = asyncio.get_running_loop().create_task(self._take())

    async def _take(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            try:
                await self._reload()
            except ConfigError as e:
                log.error("Changed registry configuration is faulty, the old one stays in force", error=str(e))
            else:
                log.info("Registry configuration changed and was read again", path=self._file)

    async def close(self) -> None:
        """Stop watching; harmless when done already."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
