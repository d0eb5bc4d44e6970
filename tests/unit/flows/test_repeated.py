"""A request made again while the first one is under way: joined, and counted with what held the first one up."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Awaitable, Callable

import pytest

from pycrio.flows.containers import create
from pycrio.flows.pods import run
from pycrio.obs.metrics import Metrics
from tests.fakes.node import container_config, fake_node, pod_config


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    """The counter, fresh."""
    fresh = Metrics()
    for module in (run, create):
        monkeypatch.setattr(module, "metrics", fresh)
    return fresh.values["resources_stalled_at_stage"]


async def twice(held: tuple[asyncio.Event, asyncio.Event], ask: Callable[[], Awaitable[str]]) -> str:
    there, go = held
    first = asyncio.ensure_future(ask())
    await there.wait()
    again = asyncio.ensure_future(ask())
    await asyncio.sleep(0)  # it has begun, and waits
    assert not again.done()
    go.set()
    assert await first == await again
    return await again


async def test_a_pod(tmp_path: pathlib.Path, stalled: dict[tuple[str, ...], float]) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        held = fake.script.stop_at("network.add")
        ident = await twice(held, lambda: run.run(node, pod_config(), ""))
        assert stalled == {("sandbox network creation",): 1.0}
        assert await run.run(node, pod_config(), "") == ident
        assert stalled == {("sandbox network creation",): 1.0}  # what is there has not stalled


async def test_a_container(tmp_path: pathlib.Path, stalled: dict[tuple[str, ...], float]) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.images.add()
        pod = await run.run(node, pod_config(), "")
        held = fake.script.stop_at("rootfs.mount")
        await twice(held, lambda: create.create(node, pod, container_config(), pod_config()))
        assert stalled == {("container storage creation",): 1.0}
