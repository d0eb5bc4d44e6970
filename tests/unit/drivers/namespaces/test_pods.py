"""Pins of pods that are given up while they are made."""

from __future__ import annotations

import asyncio
import pathlib
import threading

import pytest

from pycrio.drivers.namespaces import pods
from pycrio.model.requests import NamespaceRequest


async def test_a_cancelled_call_leaves_no_pin(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is at work when its caller goes: what it makes after that is taken back."""
    driver = pods.Namespaces(pods.Settings(str(tmp_path)))
    begun, go = threading.Event(), threading.Event()

    def make(pins: dict[str, str], *_: object) -> None:
        begun.set()
        go.wait(60)
        for path in pins.values():
            pathlib.Path(path).touch()

    monkeypatch.setattr(pods, "_create", make)
    request = NamespaceRequest("a" * 64, ("net", "uts"), hostname="")
    call = asyncio.create_task(driver.create(request))
    await asyncio.get_running_loop().run_in_executor(None, begun.wait, 60)
    call.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait({call})
    assert call.cancelled()
    assert await driver.pins() == {}
    monkeypatch.undo()
    made = await driver.create(request)
    assert set(await driver.pins()) == set(made.values())
    await driver.remove(list(made.values()))
    assert await driver.pins() == {}
