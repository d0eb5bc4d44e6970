"""Stacks and heap as text, whatever the process is at."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc

from pycrio.api import debug


async def test_stacks_go_down_to_what_is_awaited() -> None:
    async def innermost() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await innermost()

    task = asyncio.create_task(outer(), name="waiting")
    await asyncio.sleep(0)
    text = debug.stacks()
    task.cancel()
    part = text[text.index("task waiting:") :]
    assert part.index("in outer") < part.index("in innermost") < part.index("in wait")
    assert "await innermost()" in part


def test_threads_without_a_loop() -> None:
    there, go = threading.Event(), threading.Event()

    def work() -> None:
        there.set()
        go.wait()

    thread = threading.Thread(target=work, name="worker-7")
    thread.start()
    there.wait()
    text = debug.stacks()
    go.set()
    thread.join()
    assert "thread worker-7" in text
    assert "in work" in text
    assert "task " not in text


async def test_compiled_and_odd_awaitables_end_the_walk() -> None:
    frames = debug.awaiting(object())
    assert frames == []
    generator = (i for i in range(3))
    next(generator)
    assert [f.f_code.co_name for f in debug.awaiting(generator)] == ["<genexpr>"]


def test_heap_with_tracing() -> None:
    assert "traced bytes" not in debug.heap()
    tracemalloc.start()
    try:
        kept = [bytearray(1000) for _ in range(10)]
        assert "traced bytes" in debug.heap()
        assert len(kept) == 10
    finally:
        tracemalloc.stop()
