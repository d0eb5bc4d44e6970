"""Registries of a run: a real one with images of shared layers, and one that follows a script of failures."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass

from tests.fakes.registry import FakeRegistry, Reply, Request, refuse
from tests.fixtures_registry import Layer, RunningRegistry, build_image, push_image
from tests.system.conftest import system_layer

IMAGES = 24
FAMILIES = 6  # images of a family share their second layer


@dataclass(frozen=True)
class Images:
    """References in the real registry. ``busy`` stays in the store, ``others`` come and go."""

    busy: str
    others: tuple[str, ...]


def push(registry: RunningRegistry, dice: random.Random) -> Images:
    """Fill the real registry."""
    base = system_layer()
    push_image(registry, "soak/busy:1", [base], docker=True)
    shared = [{f"srv/f{n}": dice.randbytes(3000) for n in range(40)} for _ in range(FAMILIES)]
    for number in range(IMAGES):
        own = {"srv/number": str(number).encode(), **{f"srv/o{n}": dice.randbytes(2000) for n in range(30)}}
        compression = ("gzip", "zstd", "")[number % 3]
        push_image(registry, f"soak/i{number}:1", [base, shared[number % FAMILIES], own], compression=compression)
    return Images(f"{registry.address}/soak/busy:1", tuple(f"{registry.address}/soak/i{n}:1" for n in range(IMAGES)))


class FailingRegistry:
    """A scripted registry on a thread of its own; ``names`` are references whose pulls fail, each in its way."""

    def __init__(self, dice: random.Random) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="failing registry", daemon=True)
        self._thread.start()
        self._registry = self._call(self._open(dice))
        self.address = self._registry.address
        self.names = tuple(f"{self.address}/bad/{kind}:1" for kind in ("digest", "cut", "error", "denied", "garbage"))
        self.names += (f"{self.address}/bad/absent:1",)

    def _call(self, work: object) -> FakeRegistry:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)  # type: ignore[arg-type]

    async def _open(self, dice: random.Random) -> FakeRegistry:
        registry = await FakeRegistry().__aenter__()
        layers: list[Layer] = [system_layer(), {f"srv/f{n}": dice.randbytes(20_000) for n in range(20)}]
        image = build_image(layers, compression="")
        last = image.document["layers"][-1]["digest"]
        for kind in ("digest", "cut", "error"):
            registry.add(image, f"bad/{kind}:1")
        registry.on(f"bad/digest/blobs/{last}", lambda _: Reply(body=b"x" * len(image.blobs[last])))
        registry.on(f"bad/cut/blobs/{last}", _cut)
        registry.on(f"bad/error/blobs/{last}", lambda _: Reply(500, body=b"out of order"))
        registry.on("bad/denied/", lambda _: refuse(403, "DENIED", "not for you"))
        registry.on("bad/garbage/manifests", lambda _: Reply(headers={"Content-Type": "text/html"}, body=b"<html>"))
        return registry

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> FakeRegistry:
        await self._registry.__aexit__(None, None, None)
        return self._registry


def _cut(request: Request) -> Reply:
    """A connection that breaks early, whenever the rest is asked for as well."""
    _ = request
    return Reply(body=b"\0" * 2000, length="400000", cut=1000)
