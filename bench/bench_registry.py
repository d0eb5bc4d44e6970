"""The registry driver alone: blobs of a loopback registry into a pipe that is drained, and a lookup of a known image.

Run with ``pytest bench/bench_registry.py --benchmark-only``; bytes per second are in ``extra_info``.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pycrio.drivers.registry.client import Registry
from pycrio.drivers.registry.settings import Settings
from pycrio.model.image import LayerDescriptor, RemoteImage
from tests.fixtures_registry import RunningRegistry, docker_registry, push_image

__all__ = ["docker_registry"]
SIZE = 64 << 20
LAYERS = 3


class Bench:
    """A driver with a loop of its own and an image of three incompressible layers."""

    def __init__(self, place: pathlib.Path, registry: RunningRegistry) -> None:
        self.name = f"{registry.address}/bench/image:1"
        push_image(registry, "bench/image:1", [os.urandom(SIZE) for _ in range(LAYERS)], compression="none")
        (place / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry.address}"\ninsecure = true\n')
        (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.loop = asyncio.new_event_loop()
        self.driver = Registry(
            Settings(
                registries_conf=str(place / "registries.conf"),
                registries_conf_dir=str(place / "none"),
                policy=str(place / "policy.json"),
                environ={"PATH": os.environ["PATH"]},
            )
        )

    def resolve(self) -> RemoteImage:
        return self.loop.run_until_complete(self.driver.resolve(self.name, None, ""))

    def fetch(self, image: RemoteImage) -> None:
        async def every() -> None:
            await asyncio.gather(*(self._one(image, layer) for layer in image.layers))

        self.loop.run_until_complete(every())

    async def _one(self, image: RemoteImage, layer: LayerDescriptor) -> None:
        source, sink = os.pipe()

        def drain() -> None:
            buffer = bytearray(1 << 20)
            while os.readv(source, [buffer]):
                pass

        thread = threading.Thread(target=drain)
        thread.start()
        await self.driver.fetch(image, layer, sink, lambda done: None)
        os.close(sink)
        thread.join()
        os.close(source)

    def close(self) -> None:
        self.loop.run_until_complete(self.driver.close())
        self.loop.close()


@pytest.fixture
def bench(tmp_path: pathlib.Path, docker_registry: RunningRegistry) -> Iterator[Bench]:
    found = Bench(tmp_path, docker_registry)
    yield found
    found.close()


def test_fetch_three_layers(bench: Bench, benchmark: Any) -> None:
    image = bench.resolve()
    benchmark.pedantic(bench.fetch, (image,), rounds=5)
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["bytes_per_second"] = LAYERS * SIZE / benchmark.stats.stats.median


def test_resolve_again(bench: Bench, benchmark: Any) -> None:
    bench.resolve()
    assert benchmark.pedantic(bench.resolve, rounds=50).name == bench.name
