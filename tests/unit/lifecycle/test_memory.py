"""Memory goes back when it has grown."""

from __future__ import annotations

import asyncio

import pytest

from pycrio.lifecycle import memory


def test_resident_memory_is_measured() -> None:
    before = memory.resident()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert memory.resident() - before > 50 << 20
    del block


async def test_it_is_given_back_when_it_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    # at the start; grown a little; grown much and given nothing back; the same and given all back; less than ever;
    # much for that
    readings = iter([50, 53, 70, 70, 70, 51, 40, 50, 41])
    given: list[None] = []
    ended = asyncio.Event()

    def resident() -> int:
        try:
            return next(readings) << 20
        except StopIteration:
            ended.set()
            return 0

    monkeypatch.setattr(memory, "PERIOD", 0.0)
    monkeypatch.setattr(memory, "resident", resident)
    monkeypatch.setattr(memory, "trim_malloc", lambda: given.append(None))
    watch = asyncio.ensure_future(memory.watch())
    await ended.wait()
    watch.cancel()
    assert len(given) == 3
