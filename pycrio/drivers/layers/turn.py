"""One change of the store at a time, and none that its caller loses sight of."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import TypeVar

from pycrio._native.pools import offload, submit
from pycrio.drivers.layers.locks import Abandoned, Job
from pycrio.drivers.layers.removal import Trash
from pycrio.drivers.layers.reserve import Reserve
from pycrio.errors import Exhausted, StoreFailure
from pycrio.obs import log as obslog

log = obslog.get("store")
T = TypeVar("T")
_LAST_WAIT = 5.0


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
    to readers while another program holds a lock for long. What a writer deletes is removed from disk after its turn.
    """

    def __init__(self, trash: Callable[[], Trash], reserve: Reserve | None = None) -> None:
        self._trash = trash
        self._reserve = reserve
        self._lock = asyncio.Lock()
        self._emptying = asyncio.Lock()

    async def free(self, work: Callable[[Trash], T]) -> T:
        """Run ``work``, which removes something and bears being repeated. On a full disk it gets the reserve."""
        reserve = self._reserve
        if reserve is None:
            return await self.run(work)
        spent = False
        try:
            return await self.run(work)
        except Exhausted:
            spent = await self.run(lambda _: reserve.spend())
            if not spent:
                raise
            return await self.run(work)
        finally:
            if spent:
                await self.run(lambda _: reserve.fill())

    async def run(self, work: Callable[[Trash], T], undo: Callable[[T, Trash], object] | None = None) -> T:
        """Run ``work`` in the pool when its turn has come.

        A caller that is cancelled gets away at once while the work waits for a lock (nothing was done then); else it
        waits for the end of the work and has ``undo`` done.
        """
        trash, job = self._trash(), Job()
        await self._lock.acquire()
        try:
            future = submit("store", _perform, job, work, trash)
        except BaseException:
            self._lock.release()
            raise
        future.add_done_callback(lambda _: self._lock.release())
        try:
            result = await asyncio.shield(future)
        except asyncio.CancelledError:
            if job.abandon():
                future.add_done_callback(lambda f: f.cancelled() or f.exception())
                raise
            await _finish(future)
            await self._clear(trash)
            if undo is not None and not future.cancelled() and future.exception() is None:
                back, done = undo, future.result()
                undoing = asyncio.ensure_future(self.run(lambda rubbish: back(done, rubbish)))
                await _finish(undoing)
                undoing.result()
            raise
        except BaseException:
            await self._clear(trash)
            raise
        await self._clear(trash)
        return result

    async def finish(self, work: Callable[[Trash], None]) -> None:
        """Run the last work. When a turn does not come because somebody else holds the store's lock, it is left out:
        the end of the process lets everything go as well."""
        trash = self._trash()
        try:
            await asyncio.wait_for(self._lock.acquire(), _LAST_WAIT)
        except asyncio.TimeoutError:
            log.warning("Another program holds the store's lock, going on without closing the store")
            return
        try:
            await settle(submit("store", work, trash))
        finally:
            self._lock.release()
        await self._clear(trash)

    async def _clear(self, trash: Trash) -> None:
        """Delete for good; one thread at a time does that."""
        if trash.used:
            await settle(asyncio.ensure_future(self._empty(trash)))

    async def _empty(self, trash: Trash) -> None:
        async with self._emptying:
            await submit("store", trash.empty)


def _perform(job: Job, work: Callable[[Trash], T], trash: Trash) -> T:
    token = Job.current.set(job)
    try:
        return guarded(lambda: work(trash))
    except Abandoned:
        trash.empty()  # nobody else will
        raise
    finally:
        Job.current.reset(token)
