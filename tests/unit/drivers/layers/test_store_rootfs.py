"""Containers of a store: layers, records, mount counts, removal."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from pycrio._native.pools import offload
from pycrio.drivers.layers.locks import LockFile
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.store import Store
from pycrio.errors import (
    AlreadyExists,
    Exhausted,
    ImageMountFailed,
    InvalidRequest,
    NotFound,
    StoreFailure,
    Unsupported,
)
from pycrio.model.security import IdMapping
from tests.unit.drivers.layers.support import BUSY, EXTRA, Entry, FakeKernel, make_image, make_tar, pull, settings

BOX = "b0" * 32
METADATA = {"pod-name": "p", "pod-id": "ab" * 32, "name": "k8s_box"}


async def image_in(store: Store) -> str:
    image, blobs = make_image("registry.test/busy:1", [make_tar(BUSY), make_tar(EXTRA)])
    return (await pull(store, image, blobs)).id


def records(tmp_path: Path, name: str) -> list[dict]:
    path = tmp_path / name
    return json.loads(path.read_bytes()) if path.exists() else []


def mounted(tmp_path: Path) -> list[dict]:
    """Mount counts without the hold on the home."""
    counts = records(tmp_path, "run/overlay-layers/mountpoints.json")
    return [c for c in counts if c["path"] != str(tmp_path / "root/overlay")]


async def test_create_writes_what_others_expect(store: Store, tmp_path: Path) -> None:
    image = await image_in(store)
    dirs = await store.rootfs.create(Entry(BOX, ("k8s_box", "pod"), image, METADATA, "m:l", "p:l"))
    assert dirs.run == str(tmp_path / f"run/overlay-containers/{BOX}/userdata")
    assert dirs.persist == str(tmp_path / f"root/overlay-containers/{BOX}/userdata")
    assert all(stat.S_IMODE(os.stat(d).st_mode) == 0o700 for d in (dirs.run, dirs.persist))
    (container,) = records(tmp_path, "root/overlay-containers/volatile-containers.json")
    (layer,) = records(tmp_path, "root/overlay-layers/volatile-layers.json")
    assert records(tmp_path, "root/overlay-containers/containers.json") == []
    assert container["names"] == ["k8s_box", "pod"]
    assert (container["image"], container["layer"]) == (image, layer["id"])
    assert json.loads(container["metadata"]) == METADATA
    assert container["flags"] == {"Volatile": True, "MountLabel": "m:l", "ProcessLabel": "p:l"}
    assert layer["names"] == ["k8s_box-layer"]
    assert layer["mountlabel"] == "m:l"
    assert "flags" not in layer
    path = tmp_path / "root/overlay" / layer["id"]
    assert stat.S_IMODE((path / "diff").stat().st_mode) == 0o555
    assert len((path / "lower").read_text().split(":")) == 2
    assert [e.id for e in await store.rootfs.entries()] == [BOX]
    entry = (await store.rootfs.entries())[0]
    assert (entry.metadata, entry.mount_label, entry.process_label) == (METADATA, "m:l", "p:l")


async def test_create_refuses_what_is_taken_or_wrong(store: Store, tmp_path: Path) -> None:
    image = await image_in(store)
    await store.rootfs.create(Entry(BOX, ("one",), image))
    with pytest.raises(AlreadyExists, match=BOX):
        await store.rootfs.create(Entry(BOX, ("two",), image))
    with pytest.raises(AlreadyExists, match="'one'"):
        await store.rootfs.create(Entry("c" * 64, ("one",), image))
    with pytest.raises(NotFound, match="image"):
        await store.rootfs.create(Entry("c" * 64, ("two",), "e" * 64))
    for bad in ("", "../x", "A" * 64, "a" * 63):
        with pytest.raises(InvalidRequest):
            await store.rootfs.create(Entry(bad, ("two",), image))
    assert len(records(tmp_path, "root/overlay-layers/volatile-layers.json")) == 1


async def test_a_failed_create_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = await image_in(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pycrio.drivers.layers.overlay.Overlay._furnish", full)
    before = sorted(os.listdir(tmp_path / "root/overlay"))
    with pytest.raises(Exhausted, match="no space"):
        await store.rootfs.create(Entry(BOX, ("one",), image))
    assert sorted(os.listdir(tmp_path / "root/overlay")) == before
    assert records(tmp_path, "root/overlay-layers/volatile-layers.json") == []
    assert records(tmp_path, "root/overlay-containers/volatile-containers.json") == []


async def test_giving_up_while_others_hold_a_lock(store: Store, tmp_path: Path) -> None:
    """The caller gets away at once, readers are not held up, and the work that waited is not done later."""
    image = await image_in(store)
    other = LockFile(str(tmp_path / "root/overlay-containers/containers.lock"))
    with other.write():
        task = asyncio.ensure_future(store.rootfs.create(Entry(BOX, ("one",), image)))
        queued = asyncio.ensure_future(store.rootfs.remove("e" * 64))
        await asyncio.wait([task], timeout=0.05)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await store.images.all()) == 1
        assert not queued.done()
    await queued
    other.close()
    assert records(tmp_path, "root/overlay-layers/volatile-layers.json") == []
    assert await store.rootfs.entries() == ()
    assert not (tmp_path / f"run/overlay-containers/{BOX}").exists()


async def test_a_create_cancelled_under_way_is_undone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await image_in(store)
    under_way, go_on = threading.Event(), threading.Event()
    make = Overlay.make_writable

    def slow(self: Overlay, layer_id: str, parent: str, owner: tuple[int, int]) -> None:
        under_way.set()
        assert go_on.wait(30)
        make(self, layer_id, parent, owner)

    monkeypatch.setattr(Overlay, "make_writable", slow)
    task = asyncio.ensure_future(store.rootfs.create(Entry(BOX, ("one",), image)))
    assert await offload("proc", under_way.wait, 30)
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()
    task.cancel()  # impatience does not help
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert records(tmp_path, "root/overlay-layers/volatile-layers.json") == []
    assert records(tmp_path, "root/overlay-containers/volatile-containers.json") == []
    assert not (tmp_path / f"run/overlay-containers/{BOX}").exists()
    assert os.listdir(tmp_path / "root/overlay/tempdirs") == []


async def test_mounts_are_counted_for_others(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    image = await image_in(store)
    await store.rootfs.create(Entry(BOX, ("one",), image))
    path = await store.rootfs.mount(BOX)
    (layer,) = records(tmp_path, "root/overlay-layers/volatile-layers.json")
    assert path == str(tmp_path / "root/overlay" / layer["id"] / "merged")
    home = str(tmp_path / "root/overlay")
    assert kernel.calls[-2] == (home, "bind", home, "private")
    target, kind, lowers, upper, work, options = kernel.calls[-1]
    assert (target, kind, options) == (path, "overlay", ("volatile",))
    assert (upper, work) == (path.replace("merged", "diff"), path.replace("merged", "work"))
    assert len(lowers) == 2
    assert all(lower.startswith(f"{home}/l/") for lower in lowers)
    counts = tmp_path / "run/overlay-layers/mountpoints.json"
    assert mounted(tmp_path) == [{"id": layer["id"], "path": path, "count": 1}]
    # again: nothing happens
    assert await store.rootfs.mount(BOX) == path
    assert len(kernel.mounted[path]) == 1
    # somebody else holds it as well
    counts.write_text(json.dumps([{"id": layer["id"], "path": path, "count": 2}]))
    await store.rootfs.unmount(BOX)
    assert len(kernel.mounted[path]) == 1
    await store.rootfs.unmount(BOX)
    assert kernel.mounted[path] == []
    assert mounted(tmp_path) == []
    await store.rootfs.unmount(BOX)
    await store.rootfs.unmount("f" * 64)
    with pytest.raises(NotFound):
        await store.rootfs.mount("f" * 64)


async def test_a_count_without_a_mount_is_stale(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    await store.rootfs.create(Entry(BOX, ("one",), await image_in(store)))
    path = await store.rootfs.mount(BOX)
    kernel.mounted.clear()
    assert await store.rootfs.mount(BOX) == path
    assert len(kernel.mounted[path]) == 1
    assert mounted(tmp_path)[0]["count"] == 1


async def test_a_mount_that_fails_is_explained(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    await store.rootfs.create(Entry(BOX, ("one",), await image_in(store)))
    kernel.fail = OSError(22, "Invalid argument")
    with pytest.raises(StoreFailure, match=f"{BOX}.*Invalid argument"):
        await store.rootfs.mount(BOX)
    assert mounted(tmp_path) == []


async def test_remove_takes_everything(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    image = await image_in(store)
    before = len(os.listdir(tmp_path / "root/overlay/l"))
    dirs = await store.rootfs.create(Entry(BOX, ("one",), image))
    path = await store.rootfs.mount(BOX)
    Path(path.replace("merged", "diff"), "file").write_text("x")
    await store.rootfs.remove(BOX)
    await store.rootfs.remove(BOX)
    assert kernel.mounted[path] == []
    assert not os.path.exists(os.path.dirname(path))
    assert not os.path.exists(os.path.dirname(dirs.run))
    assert not os.path.exists(os.path.dirname(dirs.persist))
    assert len(os.listdir(tmp_path / "root/overlay/l")) == before + 1  # the hold's
    assert records(tmp_path, "root/overlay-layers/volatile-layers.json") == []
    assert records(tmp_path, "root/overlay-containers/volatile-containers.json") == []
    assert mounted(tmp_path) == []
    assert await store.rootfs.entries() == ()
    assert await store.rootfs.usage(BOX) is None


async def test_containers_of_others_are_not_ours(store: Store, tmp_path: Path) -> None:
    image = await image_in(store)
    for number, metadata in enumerate(({}, {"pod-name": "x", "pod-id": ""}, {"pod-id": "y"})):
        await store.rootfs.create(Entry(f"{number}" * 64, (f"n{number}",), image, metadata))
    await store.rootfs.create(Entry(BOX, ("mine",), image, METADATA))
    path = tmp_path / "root/overlay-containers/volatile-containers.json"
    documents = json.loads(path.read_bytes())
    documents[0]["metadata"] = "not json"
    path.write_text(json.dumps(documents))
    assert [e.id for e in await store.rootfs.entries()] == [BOX]


async def test_user_namespaces_shift_what_lies_below(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    maps = (IdMapping(0, 70000, 1000),)
    image = await image_in(store)
    await store.rootfs.create(Entry(BOX, ("one",), image, {}, "", "", maps, maps))
    (layer,) = records(tmp_path, "root/overlay-layers/volatile-layers.json")
    assert layer["uidmap"] == [{"container_id": 0, "host_id": 70000, "size": 1000}]
    directory = tmp_path / "root/overlay" / layer["id"]
    for name in ("diff", "work", "merged"):
        assert (directory / name).stat().st_uid == 70000
    path = await store.rootfs.mount(BOX)
    assert ("userns", ((0, 70000, 1000),), ((0, 70000, 1000),)) in kernel.calls
    shifted = str(directory / "mapped/0")
    assert (shifted, "idmapped", str(tmp_path / "root/overlay"), 99) in kernel.calls
    lowers = kernel.calls[-1][2]
    assert kernel.calls[-1][0] == path
    assert all(lower.startswith(f"{shifted}/l/") for lower in lowers)  # type: ignore[attr-defined]
    assert kernel.mounted[shifted] == []
    assert not os.path.exists(shifted)


async def test_a_kernel_without_shifting_is_named(
    store: Store, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that was made where ids are shifted by the mount has nothing else to be mounted from."""
    maps = (IdMapping(0, 70000, 1000),)
    image = await image_in(store)
    await store.rootfs.create(Entry(BOX, ("one",), image, {}, "", "", maps, maps))
    monkeypatch.setattr(FakeKernel, "probe", lambda *_: {"volatile": False})
    other = Store(store.settings, kernel)
    with pytest.raises(Unsupported, match="id-mapped"):
        await other.rootfs.mount(BOX)
    await other.rootfs.create(Entry("c" * 64, ("two",), image))
    await other.rootfs.mount("c" * 64)
    assert kernel.calls[-1][-1] == ()  # no "volatile"
    other._index.close()


async def test_images_as_volumes(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    image = await image_in(store)
    target = tmp_path / "volume"
    target.mkdir()
    await store.rootfs.mount_image(image, str(target), "a:b:c:s0:c1,c2")
    _, kind, lowers, upper, _, options = kernel.calls[-1]
    assert (kind, upper) == ("overlay", None)
    assert len(lowers) == 2
    assert set(options) == {"ro", "nodev", "nosuid", 'context="a:b:c:s0:c1,c2"'}
    await store.rootfs.unmount_image(str(target))
    await store.rootfs.unmount_image(str(target))
    assert kernel.mounted[str(target)] == []
    with pytest.raises(ImageMountFailed, match=r"ImageVolumeMountFailed: .*does not exist locally"):
        await store.rootfs.mount_image("e" * 64, str(target), "")
    kernel.fail = OSError(22, "Invalid argument")
    with pytest.raises(ImageMountFailed, match="Invalid argument"):
        await store.rootfs.mount_image(image, str(target), "")


async def test_an_empty_root_file_system(store: Store, kernel: FakeKernel) -> None:
    await store.rootfs.create(Entry(BOX, ("pod",)))
    path = await store.rootfs.mount(BOX)
    assert kernel.calls[-1][2] == (path.replace("merged", "empty"),)
    assert await store.rootfs.known(BOX)
    await store.rootfs.remove(BOX)
    assert not await store.rootfs.known(BOX)


async def test_metacopy_only_where_it_works(
    tmp_path: Path, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(settings(tmp_path, mount_options=("nodev", "metacopy=on")), kernel)
    await store.open()
    await store.rootfs.create(Entry(BOX, ("pod",)))
    await store.rootfs.mount(BOX)
    assert kernel.calls[-1][-1] == ("nodev", "volatile")
    await store.close()
    monkeypatch.setattr(FakeKernel, "probe", lambda *_: {"metacopy": True})
    store = Store(settings(tmp_path, mount_options=("nodev", "metacopy=on")), kernel)
    await store.open()
    await store.rootfs.unmount(BOX)
    await store.rootfs.mount(BOX)
    assert kernel.calls[-1][-1] == ("nodev", "metacopy=on")
    await store.close()


async def test_use_of_the_writable_layer(store: Store, tmp_path: Path) -> None:
    await store.rootfs.create(Entry(BOX, ("one",), await image_in(store)))
    (layer,) = records(tmp_path, "root/overlay-layers/volatile-layers.json")
    diff = tmp_path / "root/overlay" / layer["id"] / "diff"
    (diff / "big").write_bytes(b"z" * 100_000)
    os.link(diff / "big", diff / "again")
    usage = await store.rootfs.usage(BOX)
    assert usage is not None
    assert 100_000 <= usage.used_bytes < 150_000
    assert usage.inodes_used == 2
    assert usage.mountpoint == str(tmp_path / "root/overlay-images")


async def test_old_programs_see_a_mounted_layer(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    """One that they know: in the ordinary list, with a count. It goes when nothing is mounted and the store closes."""
    await store.rootfs.create(Entry(BOX, ("one",), await image_in(store)))
    path = await store.rootfs.mount(BOX)

    def holds() -> list[str]:
        known = {r["id"] for r in records(tmp_path, "root/overlay-layers/layers.json")}
        return [c["id"] for c in records(tmp_path, "run/overlay-layers/mountpoints.json") if c["id"] in known]

    (hold,) = holds()
    assert (await store.checker.check()).unreferenced == ()
    # an old program writes the counts that it knows
    counts = tmp_path / "run/overlay-layers/mountpoints.json"
    counts.write_text(json.dumps([c for c in records(tmp_path, str(counts)) if c["id"] == hold]))
    other = Store(store.settings, kernel)
    await other.open()
    await other.close()
    assert holds() == [hold]
    assert len(kernel.mounted[path]) == 1
    counts.unlink()
    await store.rootfs.mount(BOX)
    assert holds() == [hold]
    await store.rootfs.remove(BOX)
    other = Store(store.settings, kernel)
    await other.open()
    assert holds() == []
    assert len(records(tmp_path, "root/overlay-layers/layers.json")) == 2
    assert not (tmp_path / "root/overlay" / hold).exists()
    await other.close()


async def test_the_home_is_released_only_without_mounts(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    home = str(tmp_path / "root/overlay")
    await store.rootfs.create(Entry(BOX, ("one",), await image_in(store)))
    await store.rootfs.mount(BOX)
    other = Store(store.settings, kernel)
    await other.open()
    await other.close()
    assert len(kernel.mounted[home]) == 1
    await store.rootfs.unmount(BOX)
    other = Store(store.settings, kernel)
    await other.open()
    await other.close()
    assert kernel.mounted[home] == []
