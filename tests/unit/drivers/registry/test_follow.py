"""Changes of registries.conf and its drop-ins are noticed, whatever existed at the beginning."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import Callable

import pytest

from pycrio.drivers.registry.client import Registry
from pycrio.drivers.registry.follow import Follower
from pycrio.errors import ConfigError, Denied
from tests.unit.drivers.registry.support import settings

BLOCK = '[[registry]]\nlocation = "{}"\nblocked = true\n'


class Seen:
    """Reloads of a follower; ``next`` waits for one that begins after it was called."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.fail: Exception | None = None

    async def reload(self) -> None:
        self.event.set()
        if self.fail is not None:
            raise self.fail

    async def after(self, change: Callable[[], object]) -> None:
        self.event.clear()
        change()
        await asyncio.wait_for(self.event.wait(), 20)


async def test_every_kind_of_change(tmp_path: pathlib.Path) -> None:
    file, directory = tmp_path / "etc/registries.conf", tmp_path / "etc/registries.conf.d"
    file.parent.mkdir()
    seen = Seen()
    follower = Follower(str(file), str(directory), seen.reload)
    follower.open()
    await seen.after(lambda: file.write_text("# a"))
    await seen.after(lambda: file.write_text("# b"))
    await seen.after(directory.mkdir)
    await seen.after(lambda: (directory / "1.conf").write_text("# c"))
    seen.fail = ConfigError(["no"])
    await seen.after(lambda: (directory / "1.conf").write_text("# d"))
    seen.fail = None
    (directory / "new").write_text("# e")  # no drop-in by its name
    await seen.after(lambda: os.replace(directory / "new", directory / "1.conf"))
    await seen.after(lambda: (directory / "1.conf").unlink())
    await seen.after(directory.rmdir)
    await seen.after(directory.mkdir)
    await seen.after(lambda: (directory / "2.conf").write_text("# f"))
    await follower.close()
    await follower.close()


async def test_the_driver_follows_and_keeps_the_old_on_faults(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = settings(tmp_path, BLOCK.format("a.test"), follow=True)
    read = asyncio.Event()
    reload = Registry.reload

    async def told(self: Registry) -> None:
        try:
            await reload(self)
        finally:
            read.set()

    monkeypatch.setattr(Registry, "reload", told)
    driver = Registry(base)
    await driver.open()

    async def write(text: str) -> None:
        read.clear()
        (tmp_path / "registries.conf").write_text(text)
        await asyncio.wait_for(read.wait(), 20)

    with pytest.raises(Denied):
        await driver.resolve("a.test/x:1", None, "")
    await write(BLOCK.format("b.test"))
    with pytest.raises(Denied):
        await driver.resolve("b.test/x:1", None, "")
    await write("nonsense")
    with pytest.raises(Denied):
        await driver.resolve("b.test/x:1", None, "")
    await driver.close()
