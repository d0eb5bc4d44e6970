"""What a flow made is undone in reverse; what cannot be undone at once is undone later."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pycrio.flows import undo as undoing
from pycrio.flows.undo import Undo
from pycrio.obs import log as obslog


class Things:
    """Removal of a thing fails as often as ``refuse`` says."""

    def __init__(self, **refuse: int) -> None:
        self.refuse = refuse
        self.asked: list[str] = []

    async def remove(self, name: str) -> None:
        self.asked.append(name)
        if self.refuse.get(name, 0) > 0:
            self.refuse[name] -= 1
            raise OSError(24, "Too many open files")

    async def flow(self, *names: str, once: str = "") -> None:
        async with Undo("make things") as undo:
            for name in names:
                (undo.once if name == once else undo.push)(f"remove {name}", self.remove, name)
            raise ValueError("failed")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undoing, "AGAIN", (0.0, 0.0, 0.0))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    stop = obslog.observe(lambda level, event, fields: found.append(f"{event} {fields.get('steps', '')}".strip()))
    yield found
    stop()


async def finished() -> None:
    """The attempts that were put off have been made."""
    await asyncio.gather(*undoing._later)


async def test_newest_first_and_on_past_a_failure() -> None:
    things = Things(b=9)
    with pytest.raises(ValueError, match="failed"):
        await things.flow("a", "b", "c")
    assert things.asked[:3] == ["c", "b", "a"]


async def test_again_in_the_same_order_until_it_is_done(lines: list[str]) -> None:
    things = Things(a=2, c=1)
    with pytest.raises(ValueError, match="failed"):
        await things.flow("a", "b", "c")
    await finished()
    assert things.asked == ["c", "b", "a", "c", "a", "a"]
    assert lines[-1] == "What could not be undone at once is undone"


async def test_what_stays_is_told(lines: list[str]) -> None:
    things = Things(a=99, b=1)
    with pytest.raises(ValueError, match="failed"):
        await things.flow("a", "b")
    await finished()
    assert things.asked == ["b", "a", "b", "a", "a", "a"]
    assert lines[-1] == "Not undone, the next start of the daemon removes it remove a"


async def test_what_may_be_another_s_by_then_is_left() -> None:
    things = Things(a=1, b=1)
    with pytest.raises(ValueError, match="failed"):
        await things.flow("a", "b", once="b")
    await finished()
    assert things.asked == ["b", "a", "a"]


async def test_success_undoes_nothing() -> None:
    things = Things()
    async with Undo("make things") as undo:
        undo.push("remove a", things.remove, "a")
        undo.release()
    assert things.asked == []


async def test_cancellation_waits_for_the_undoing_and_then_counts() -> None:
    held, things = asyncio.Event(), Things()

    async def slow() -> None:
        await held.wait()
        await things.remove("a")

    async def flow() -> None:
        async with Undo("make things") as undo:
            undo.push("remove a", slow)
            raise ValueError("failed")

    task = asyncio.ensure_future(flow())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert things.asked == ["a"]
