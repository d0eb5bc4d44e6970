from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from pycrio._native import pools
from pycrio._native.pools import offload

pytestmark = pytest.mark.usefixtures("no_leaks")
who = contextvars.ContextVar("who", default="nobody")


async def test_result_exception_and_keywords() -> None:
    assert await offload("store", int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await offload("store", divmod, 1, 0)


async def test_runs_in_a_thread_named_after_the_pool() -> None:
    name = await offload("mount", lambda: threading.current_thread().name)
    assert name.startswith("pycrio-mount")


async def test_unknown_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="no pool named 'default'"):
        await offload("default", int)


async def test_caller_context_is_seen_and_not_changed() -> None:
    who.set("caller")

    def call() -> str:
        seen = who.get()
        who.set("thread")
        return seen

    assert await offload("proc", call) == "caller"
    assert who.get() == "caller"


async def test_each_pool_is_bounded_and_separate() -> None:
    gate, lock, running = threading.Event(), threading.Lock(), [0]
    full = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        with lock:
            running[0] += 1
            if running[0] == 4:
                loop.call_soon_threadsafe(full.set)
        gate.wait()

    tasks = [asyncio.create_task(offload("proc", hold)) for _ in range(12)]
    try:
        await full.wait()
        assert await offload("store", lambda: "free") == "free"  # another pool is not held up
        assert running[0] == 4
    finally:
        gate.set()
    await asyncio.gather(*tasks)
    assert running[0] == 12


async def test_cancelling_the_awaiter_lets_a_begun_call_finish() -> None:
    begun, gate, finished = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait()
        finished.set()

    task = asyncio.create_task(offload("store", work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not finished.is_set()
    gate.set()
    assert finished.wait(30)


async def test_cancelling_the_awaiter_drops_a_queued_call() -> None:
    gate, made = threading.Event(), list[int]()
    holders = [asyncio.create_task(offload("mount", gate.wait)) for _ in range(4)]
    queued = asyncio.create_task(offload("mount", made.append, 1))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    gate.set()
    await asyncio.gather(*holders)
    await offload("mount", int)
    pools.shutdown()
    assert made == []


async def test_shutdown_waits_and_the_next_call_starts_anew() -> None:
    done: list[int] = []
    task = asyncio.create_task(offload("store", done.append, 1))
    await asyncio.sleep(0)
    pools.shutdown()
    assert done == [1]
    await task
    assert not [t for t in threading.enumerate() if t.name.startswith("pycrio-")]
    assert await offload("store", int, "7") == 7
