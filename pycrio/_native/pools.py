"""Named, bounded thread pools for blocking native calls; asyncio's default executor is never used.

One pool per kind of work, so that slow work of one kind (a layer that takes seconds) cannot hold up the others:

======== =================== ==========================================================
unpack   one per core, min 8 layer extraction (mostly waits for downloads)
mount    4                   mounts and namespaces
proc     4                   starting programs, short calls about processes
store    4                   reading and writing records, locks and indexes
connect  8                   connections to ports of pods: slow when a pod does not answer
lookup   4                   host names, TLS settings and imports for registries: slow at any time
======== =================== ==========================================================

A function that runs in a pool must not wait for another call in the same pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SIZES = {
    "unpack": max(8, len(os.sched_getaffinity(0))),
    "mount": 4,
    "proc": 4,
    "store": 4,
    "connect": 8,
    "lookup": 4,
}

_lock = threading.Lock()
_pools: dict[str, ThreadPoolExecutor] = {}


def _pool(name: str) -> ThreadPoolExecutor:
    with _lock:
        pool = _pools.get(name)
        if pool is None:
            if name not in _SIZES:
                raise ValueError(f"no pool named {name!r}: choose one of {', '.join(_SIZES)}")
            pool = _pools[name] = ThreadPoolExecutor(_SIZES[name], thread_name_prefix=f"pycrio-{name}")
        return pool


def submit(pool: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    """Like ``offload``, but a future instead of a coroutine: for callers that must not lose sight of the call."""
    context = contextvars.copy_context()
    call = functools.partial(context.run, fn, *args, **kwargs)
    return asyncio.get_running_loop().run_in_executor(_pool(pool), call)


async def offload(pool: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``fn`` in the named pool, with the caller's context variables, and give back what it returns or raises.

    Cancelling the awaiter does not interrupt a call that has begun: it runs to its end and its result is dropped. A
    call that is still queued is not made any more. Whoever must know shields the call and waits for it.
    Raises ValueError for an unknown pool.
    """
    return await submit(pool, fn, *args, **kwargs)


def shutdown() -> None:
    """Wait for the calls that have begun, drop the queued ones, and end all threads. A later offload starts anew."""
    with _lock:
        pools = list(_pools.values())
        _pools.clear()
    for pool in pools:
        pool.shutdown(wait=True, cancel_futures=True)
