"""Pulls side by side: how many layers at a time, and what is left when one of them fails."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from pycrio.errors import StoreFailure
from pycrio.flows.images import pull
from pycrio.flows.node_state import DOWNLOADS
from pycrio.model.image import ImageSpec
from tests.fakes.node import fake_node

NAMES = ("registry.test/lab/one:1", "registry.test/lab/two:1")


async def test_downloads_of_all_pulls_together_are_limited(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        for name in NAMES:
            fake.registry.offer(name, tuple(f"{name} {number}" for number in range(DOWNLOADS)))
        real, running, most = fake.registry.fetch, 0, 0
        full, go = asyncio.Event(), asyncio.Event()

        async def fetch(*arguments: object) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == DOWNLOADS:
                full.set()
            await go.wait()
            await real(*arguments)  # type: ignore[arg-type]
            running -= 1

        monkeypatch.setattr(fake.registry, "fetch", fetch)
        pulls = [asyncio.ensure_future(pull.pull(node, ImageSpec(name), None, None)) for name in NAMES]
        await full.wait()  # side by side, up to the limit
        go.set()
        await asyncio.gather(*pulls)
        assert most == DOWNLOADS
        assert fake.script.count("registry.fetch") == 2 * DOWNLOADS


async def test_a_failure_in_the_middle_of_the_commits_gives_every_layer_back(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.registry.offer(NAMES[0], ("a", "b", "c"))
        fake.script.fail["images.record"] = StoreFailure("no")
        with pytest.raises(StoreFailure):
            await pull.pull(node, ImageSpec(NAMES[0]), None, None)
        assert fake.script.count("layers.discard") == 3  # the store decides which of them went with the failure
        assert fake.layers.staged == set()
