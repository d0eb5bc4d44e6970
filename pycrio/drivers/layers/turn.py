"""One change of the store at a time, and none that its caller loses sight of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pycrio._native.pools import submit

T = TypeVar("T")


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
            return await settle(submit("store", work), undo)
