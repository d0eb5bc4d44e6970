"""What is looked after while the daemon runs."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from pycrio.errors import StoreFailure
from pycrio.flows import janitor
from pycrio.obs import log as obslog
from tests.fakes.node import fake_node


async def test_the_store_is_swept_again_and_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "STORE_PERIOD", 0.0)
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.layers.abandoned = {"a", "b"}
        fake.layers.staged = {"a", "b", "worked-on"}
        fake.script.arm(0, StoreFailure("no descriptors"))
        lines: list[str] = []
        swept = asyncio.Event()

        def heard(level: int, event: str, fields: dict[str, object]) -> None:
            lines.append(event)
            if event.startswith("Removed"):
                swept.set()

        stop = obslog.observe(heard)
        watch = asyncio.ensure_future(janitor.watch_store(node))
        await swept.wait()
        watch.cancel()
        stop()
        assert lines[0] == "The store could not be swept, going on"
        assert fake.layers.staged == {"worked-on"}
