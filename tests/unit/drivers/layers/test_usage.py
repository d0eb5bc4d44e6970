"""Disk use: what is really on disk, told without walking again what cannot have changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from pycrio.drivers.layers import usage
from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import BUSY, EXTRA, Entry, FakeKernel, make_image, make_tar, pull, settings

NAME = "registry.test/lab/one:1"
SMALL = {f"f{n}": b"x" * 10 for n in range(200)}


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trees that were walked, and none of them is remembered for the time being."""
    seen: list[str] = []
    real = usage.walk

    def walk(path: str) -> tuple[int, int]:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(usage, "walk", walk)
    monkeypatch.setattr(usage, "_LEAST", 0)
    monkeypatch.setattr(usage, "_REST", 0)
    return seen


def du(*paths: Path) -> tuple[int, int]:
    """Bytes and inodes as coreutils count them."""
    found = []
    for what in ("--block-size=1", "--inodes"):
        done = subprocess.run(["du", "-s", "-c", what, *map(str, paths)], check=True, capture_output=True, text=True)
        found.append(int(done.stdout.splitlines()[-1].split()[0]))
    return found[0], found[1]


async def test_figures_are_those_of_the_disk(store: Store, tmp_path: Path, walks: list[str]) -> None:
    image = await pull(store, *make_image(NAME, [make_tar(BUSY), make_tar(SMALL)]))
    kept, _ = await store.images.disk_use()
    root = tmp_path / "root"
    layers = [r.id for r in store._index.view().ancestry(image.layer)]
    paths = [root / "overlay" / ident for ident in layers]
    splits = [root / "overlay-layers" / f"{ident}.tar-split.gz" for ident in layers]
    assert (kept.used_bytes, kept.inodes_used) == du(*paths, *splits, root / "overlay-images")
    assert kept.inodes_used > 200


async def test_layers_are_walked_once(store: Store, tmp_path: Path, walks: list[str]) -> None:
    await pull(store, *make_image(NAME, [make_tar(BUSY), make_tar(EXTRA)]))
    assert not [path for path in walks if "/overlay/" in path]  # a pull does not wait for it
    first, _ = await store.images.disk_use()
    assert len([path for path in walks if "/overlay/" in path]) == 2
    walks.clear()
    again, _ = await store.images.disk_use()
    assert (again.used_bytes, again.inodes_used) == (first.used_bytes, first.inodes_used)
    assert not [path for path in walks if "/overlay/" in path]
    other = Store(settings(tmp_path), FakeKernel())  # another start
    await other.open()
    more = await pull(other, *make_image("registry.test/lab/more:1", [make_tar(BUSY), make_tar(SMALL)]))
    now, _ = await other.images.disk_use()
    assert now.used_bytes > first.used_bytes
    assert [path for path in walks if "/overlay/" in path] == [str(tmp_path / "root/overlay" / more.layer)]
    await other.images.remove(more.id)
    last, _ = await other.images.disk_use()
    assert (last.used_bytes, last.inodes_used) == (first.used_bytes, first.inodes_used)
    await other.close()


async def test_a_damaged_memory_costs_only_time(store: Store, tmp_path: Path) -> None:
    await pull(store, *make_image(NAME, [make_tar(BUSY)]))
    first, _ = await store.images.disk_use()
    for text in (b"{", b"[]", b'{"x": 1}', b'{"x": ["a", "b"]}'):
        (tmp_path / "root/.pycrio-usage.json").write_bytes(text)
        other = Store(settings(tmp_path), FakeKernel())
        found, _ = await other.images.disk_use()
        assert (found.used_bytes, found.inodes_used) == (first.used_bytes, first.inodes_used)


async def test_artifacts_count_as_images(store: Store, tmp_path: Path, walks: list[str]) -> None:
    before, _ = await store.images.disk_use()
    home = tmp_path / "root/artifacts"
    (home / "blobs/sha256").mkdir(parents=True)
    (home / "blobs/sha256/a").write_bytes(b"x" * 100_000)
    (home / "index.json").write_text("{}")
    kept, _ = await store.images.disk_use()
    size, inodes = du(home)
    assert kept.used_bytes - before.used_bytes == size
    assert kept.inodes_used - before.inodes_used == inodes
    walks.clear()
    await store.images.disk_use()
    assert str(home) not in walks  # it changes with its index
    (home / "blobs/sha256/b").write_bytes(b"x" * 100_000)
    (home / "index.new").write_text("{ }")
    os.rename(home / "index.new", home / "index.json")
    more, _ = await store.images.disk_use()
    assert more.used_bytes - kept.used_bytes >= 100_000


async def test_artifacts_are_where_containers_are_in_a_split_store(tmp_path: Path, kernel: FakeKernel) -> None:
    store = Store(settings(tmp_path, image_store=str(tmp_path / "images")), kernel)
    await store.open()
    (tmp_path / "root/artifacts").mkdir()
    (tmp_path / "root/artifacts/blob").write_bytes(b"x" * 100_000)
    kept, written = await store.images.disk_use()
    assert kept.mountpoint == str(tmp_path / "images/overlay-images")
    assert kept.used_bytes < 100_000 <= written.used_bytes
    await store.close()


async def test_layers_of_containers_are_theirs(store: Store, tmp_path: Path, walks: list[str]) -> None:
    image = await pull(store, *make_image(NAME, [make_tar(BUSY)]))
    await store.rootfs.create(Entry("c" * 64, ("box",), image.id))
    kept, written = await store.images.disk_use()
    layer = store._index.view().containers.by_id["c" * 64].layer
    (tmp_path / "root/overlay" / layer / "diff/file").write_bytes(b"x" * 50_000)
    then, now = await store.images.disk_use()
    assert now.used_bytes - written.used_bytes >= 50_000
    assert now.inodes_used - written.inodes_used == 1
    assert then.used_bytes == kept.used_bytes


async def test_who_asks_meanwhile_gets_the_same_answer(store: Store, walks: list[str]) -> None:
    await pull(store, *make_image(NAME, [make_tar(BUSY)]))
    answers = await asyncio.gather(*(store.images.disk_use() for _ in range(20)))
    assert all(answer is answers[0] for answer in answers)
    assert len([path for path in walks if "/overlay/" in path]) == 1
