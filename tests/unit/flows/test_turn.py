"""Duplicate requests share one operation; one that all callers gave up ends before the next begins."""

from __future__ import annotations

import asyncio

import pytest

from pycrio.flows.turn import Joined


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_callers_share_one_operation() -> None:
    joined, go, begun = Joined(), asyncio.Event(), 0

    async def work() -> str:
        nonlocal begun
        begun += 1
        await go.wait()
        return "done"

    callers = [asyncio.create_task(joined.run("k", work)) for _ in range(3)]
    await turns()
    go.set()
    assert await asyncio.gather(*callers) == ["done"] * 3
    assert begun == 1
    assert not joined.running("k")


async def test_one_caller_that_leaves_disturbs_nobody() -> None:
    joined, go = Joined(abandon=True), asyncio.Event()

    async def work() -> str:
        await go.wait()
        return "done"

    first, second = (asyncio.create_task(joined.run("k", work)) for _ in range(2))
    await turns()
    first.cancel()
    await asyncio.wait({first})
    go.set()
    assert await second == "done"


async def test_what_was_given_up_is_not_joined() -> None:
    joined, undone = Joined(abandon=True), asyncio.Event()

    async def slow_to_undo() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await undone.wait()
        return "never"

    async def fresh() -> str:
        return "fresh"

    first = asyncio.create_task(joined.run("k", slow_to_undo))
    await turns()
    first.cancel()
    await turns()
    second = asyncio.create_task(joined.run("k", fresh))
    await turns()
    assert not second.done()
    undone.set()
    assert await second == "fresh"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not joined.running("k")
