"""User namespaces on kernels that cannot shift ids below overlay: copies that others of the store understand."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pycrio._native import mounts
from pycrio.drivers.layers import shifted as copies
from pycrio.drivers.layers.store import Store
from pycrio.errors import Unsupported
from pycrio.model.security import IdMapping
from tests.system.crash_points import OldKernel
from tests.system.test_store_interop import NAME, TARS, Tools, load, pulled, settings, tools
from tests.unit.drivers.layers.support import EXTRA, Entry, make_tar

__all__ = ["tools"]
pytestmark = pytest.mark.system
BOX, OTHER = "b0" * 32, "c1" * 32
MAPS = (IdMapping(0, 200000, 65536),)
FURTHER = (IdMapping(0, 300000, 65536),)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw, effective
EDGES = {"etc/.wh.attrs": b"", "gone": None, "gone/file": b"1", "plain": b"2"}


def old(tools: Tools, **more: Any) -> Store:
    return Store(settings(tools, **more), OldKernel())  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def store(tools: Tools) -> AsyncIterator[Store]:
    store = old(tools)
    await store.open()
    yield store
    await store.close()


def box(ident: str, image: str, maps: Sequence[IdMapping] = MAPS) -> Entry:
    return Entry(ident, (f"box-{ident}",), image, {"pod-name": "p", "pod-id": "i"}, "", "", tuple(maps), tuple(maps))


def seen(root: Path, base: int) -> dict[str, tuple[object, ...]]:
    """What a container sees below its root, with owners as it sees them."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        link = os.readlink(path) if path.is_symlink() else ""
        note = os.listxattr(path, follow_symlinks=False)
        key = str(path.relative_to(root))
        when = status.st_mtime_ns
        # Directories of overlay count no links; a directory's time is that of the layer that it was made in.
        size = 0 if path.is_dir() else status.st_size
        found[key] = (
            status.st_mode, status.st_uid - base, status.st_gid - base, status.st_rdev, when, size, link, content,
            tuple(n for n in note if n.startswith("user.")),
        )  # fmt: skip
    return found


async def test_copies_show_what_shifting_shows(store: Store, tools: Tools) -> None:
    tars = [TARS[0], make_tar(EDGES), TARS[1], make_tar({".wh.gone": b"", "srv": None, "srv/x": b"x"})]
    image = await pulled(store, tars=tars)
    await store.rootfs.create(box(BOX, image.id))
    path = Path(await store.rootfs.mount(BOX))
    assert path.stat().st_uid == 200000
    assert (path / "bin/busybox").stat().st_uid == 200000
    assert not (path / "gone").exists()
    assert not (path / "etc/attrs").exists()
    shown = seen(path, 200000)
    await store.close()
    # The same image on this kernel, which does shift.
    modern = Store(settings(tools))
    await modern.open()
    await modern.rootfs.create(box(OTHER, image.id, FURTHER))
    other = Path(await modern.rootfs.mount(OTHER))
    assert seen(other, 300000) == shown
    for ident in (BOX, OTHER):
        await modern.rootfs.remove(ident)
    await modern.close()


async def test_records_are_those_that_the_format_foresees(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    before = {r["id"]: r for r in load(tools, "overlay-layers/layers.json")}
    await store.rootfs.create(box(BOX, image.id))
    (record,) = load(tools, "overlay-images/images.json")
    (copy,) = record["mapped-layers"]
    layers = {r["id"]: r for r in load(tools, "overlay-layers/layers.json")}
    top, made = before[image.layer], layers[copy]
    maps = [{"container_id": 0, "host_id": 200000, "size": 65536}]
    assert {k: v for k, v in made.items() if k not in ("id", "created")} == {
        **{k: v for k, v in top.items() if k not in ("id", "created")}, "uidmap": maps, "gidmap": maps
    }  # fmt: skip
    (container,) = json.loads(Path(tools.root, "overlay-layers/volatile-layers.json").read_bytes())
    assert (container["parent"], container["uidmap"]) == (copy, maps)
    report = await store.checker.check()
    assert (report.damages, report.unreferenced) == ((), ())
    # podman uses the image as before, beside the copy, and exports it unshifted.
    assert await asyncio.to_thread(tools.podman, *tools.run_argv(NAME)) == "hi\n"
    (listed,) = json.loads(await asyncio.to_thread(tools.podman, "images", "--format", "json"))
    assert listed["Id"] == image.id
    shown = await asyncio.to_thread(tools.skopeo, "inspect", tools.transport + NAME)
    assert json.loads(shown)["Digest"] == image.digests[0]
    path = await store.rootfs.mount(BOX)
    assert mounts.is_mountpoint(path)
    await store.rootfs.remove(BOX)
    assert set(before) == {r["id"] for r in load(tools, "overlay-layers/layers.json") if "names" not in r}
    assert "mapped-layers" not in load(tools, "overlay-images/images.json")[0]


async def test_a_copy_serves_all_containers_of_its_pod(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    for ident, maps in ((BOX, MAPS), (OTHER, MAPS), ("d2" * 32, FURTHER)):
        await store.rootfs.create(box(ident, image.id, maps))
        await store.rootfs.mount(ident)

    def made() -> list[str]:
        return list(load(tools, "overlay-images/images.json")[0].get("mapped-layers", []))

    assert len(made()) == 2
    await store.rootfs.remove(BOX)
    assert len(made()) == 2
    await store.rootfs.remove(OTHER)
    assert len(made()) == 1
    await store.rootfs.remove("d2" * 32)
    assert made() == []
    await store.rootfs.create(box(BOX, image.id))
    await store.rootfs.remove(BOX)
    await store.images.remove(image.id)
    await store.layers.garbage()
    assert load(tools, "overlay-layers/layers.json") == []
    assert os.listdir(f"{tools.root}/overlay/tempdirs") == []
    assert [n for n in os.listdir(f"{tools.run}/overlay") if n.startswith(copies.LOOKS)] == []


async def test_what_ids_are_part_of(store: Store, tools: Tools) -> None:
    """Set-id bits survive, file capabilities belong to the namespace's root, hard links stay links, holes holes."""
    image = await pulled(store)
    diff = Path(tools.root, "overlay", load(tools, "overlay-layers/layers.json")[0]["id"], "diff")
    base = next(p for p in diff.parent.parent.iterdir() if (p / "diff/bin/busybox").exists()) / "diff"
    os.setxattr(base / "bin/busybox", "security.capability", CAPABILITY)
    with open(base / "holes", "wb") as f:
        f.truncate(64 << 20)
        f.seek(32 << 20)
        f.write(b"middle")
    await store.rootfs.create(box(BOX, image.id))
    path = Path(await store.rootfs.mount(BOX))
    assert (path / "etc/attrs").stat().st_mode & 0o7777 == 0o4755
    assert os.getxattr(path / "etc/attrs", "user.note") == b"kept"
    assert (path / "bin/busybox").stat().st_ino == (path / "bin/hard").stat().st_ino
    assert os.getxattr(path / "bin/busybox", "security.capability") == (
        b"\x01\0\0\x03" + CAPABILITY[4:] + (200000).to_bytes(4, "little")
    )
    assert (path / "holes").stat().st_size == 64 << 20
    assert (path / "holes").stat().st_blocks < 8192
    assert subprocess.run(["cmp", path / "holes", base / "holes"], check=False).returncode == 0
    await store.rootfs.remove(BOX)


async def test_owners_beyond_the_range_are_named(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    short = (IdMapping(0, 200000, 500),)
    with pytest.raises(Unsupported, match=r"'user' has the id 100[01], which the user namespace does not map"):
        await store.rootfs.create(
            box(BOX, (await pulled(store, tars=[TARS[0]], name="registry.test/lab/b:1")).id, short)
        )
    assert os.listdir(f"{tools.root}/overlay/tempdirs") == []
    assert await store.rootfs.entries() == ()
    await store.rootfs.create(box(BOX, image.id, (replace(MAPS[0], length=2000),)))
    await store.rootfs.remove(BOX)


async def test_images_of_additional_stores_cannot_get_copies(store: Store, tools: Tools, tmp_path: Path) -> None:
    image = await pulled(store)
    upper = Tools(tmp_path / "upper")
    second = old(upper, additional_stores=(tools.root,))
    await second.open()
    with pytest.raises(Unsupported, match="lies in an additional store"):
        await second.rootfs.create(box(BOX, image.id))
    await second.close()


async def test_side_by_side(store: Store, tools: Tools) -> None:
    """Containers with and without copies come and go at once; in the end nothing is left of any copy."""
    image = await pulled(store, tars=[*TARS, make_tar(EXTRA)])

    async def turn(number: int) -> None:
        ident = f"{number:064x}"
        maps = (MAPS, FURTHER, ())[number % 3]
        await store.rootfs.create(box(ident, image.id, maps))
        path = Path(await store.rootfs.mount(ident))
        assert (path / "app/data").stat().st_uid == (maps[0].host_id if maps else 0)
        await store.rootfs.remove(ident)

    await asyncio.gather(*(turn(n) for n in range(9)))
    assert "mapped-layers" not in load(tools, "overlay-images/images.json")[0]
    await store.layers.garbage()
    assert len(load(tools, "overlay-layers/layers.json")) == 3
