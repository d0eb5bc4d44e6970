"""Per-object order, and joining of duplicate requests.

``Turns`` gives each object one lock, made when first wanted and dropped with its last user. ``Joined`` lets several
callers share one running operation: the second RunPodSandbox of a name, the second pull of an image. The operation
belongs to nobody's request: a caller that gives up leaves it running for the others, and (``abandon=True``) it is
cancelled when the last one has left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Turns:
    """Locks by key."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for one's turn on an object."""
        lock, users = self._locks.get(key, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

    def held(self, key: Hashable) -> bool:
        """True while somebody has or awaits the turn."""
        return key in self._locks


class Joined:
    """Running operations by key."""

    def __init__(self, *, abandon: bool = False) -> None:
        self._abandon = abandon
        self._running: dict[Hashable, tuple[asyncio.Task[Any], int]] = {}
        self._given_up: set[asyncio.Task[Any]] = set()

    def running(self, key: Hashable) -> bool:
        """True while an operation of that key goes on."""
        return key in self._running

    async def run(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Join the running operation of ``key`` or start it. One that was given up and still undoes what it did cannot
        be joined: its end is awaited first."""
        while (current := self._running.get(key)) is not None and current[0] in self._given_up:
            await asyncio.wait([current[0]])
        task, users = self._running.get(key, (None, 0))
        if task is None:
            task = asyncio.get_running_loop().create_task(start())
            task.add_done_callback(lambda done: self._finished(key, done))
        self._running[key] = (task, users + 1)
        try:
            result: T = await asyncio.shield(task)
            return result
        except asyncio.CancelledError:
            if task.cancelled() or not self._abandon:
                raise
            still = self._running.get(key)
            if still is not None and still[0] is task and still[1] == 1:
                self._given_up.add(task)
                task.add_done_callback(self._given_up.discard)
                task.cancel()
                await asyncio.wait([task])
            raise
        finally:
            still = self._running.get(key)
            if still is not None and still[0] is task:
                self._running[key] = (task, still[1] - 1)

    def _finished(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        current = self._running.get(key)
        if current is not None and current[0] is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # retrieved: a failure that every waiter gave up on is logged by its flow
