"""One change of the store at a time, and none that its caller loses sight of."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import TypeVar

from pycrio._native.pools import offload, submit
from pycrio.errors import Exhausted, StoreFailure

T = TypeVar("T")


def guarded(work: Callable[[], T]) -> T:
    """Run ``work``; what the system refuses becomes a failure of the store that names the file."""
    try:
        return work()
    except OSError as e:
        where = f" at {e.filename!r}" if e.filename else ""
        step = f"{e.step}: " if hasattr(e, "step") else ""
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Exhausted(f"no space left in the store{where}: free disk space or inodes") from e
        raise StoreFailure(f"the store refused an operation{where}: {step}{e.strerror or e}") from e


async def look(work: Callable[[], T]) -> T:
    """Run something that only reads in the pool "store"."""
    return await offload("store", guarded, work)


async def _finish(future: asyncio.Future[T]) -> None:
    """Wait for a call in a pool to end, however often the waiter is cancelled meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue


async def settle(future: asyncio.Future[T], undo: Callable[[T], object] | None = None) -> T:
    """The result of a pool call. A cancelled waiter still waits for the call's end, then has its work undone by
    ``undo(result)`` in the pool "store", and only then is cancelled: nothing is done that nobody knows of."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _finish(future)
        if undo is not None and not future.cancelled() and future.exception() is None:
            cleanup = submit("store", undo, future.result())
            await _finish(cleanup)
            cleanup.result()
        raise


class Turn:
    """Lets one writer into the pool "store" at a time.

    The store's locks exclude writers anyway. Waiting here instead of in a thread leaves the other threads of the pool
    to readers while another program holds a lock for long.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Run ``work`` in the pool when its turn has come."""
        async with self._lock:
            return await settle(submit("store", guarded, work), undo)
