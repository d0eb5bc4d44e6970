"""What is repaired and removed when a store is opened."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pycrio.drivers.layers.store import Store
from pycrio.drivers.layers.usage import walk
from pycrio.errors import StoreFailure
from tests.unit.drivers.layers.support import (
    BUSY,
    EXTRA,
    Entry,
    FakeKernel,
    make_image,
    make_tar,
    pull,
    settings,
    unpack,
)

BOX = "b0" * 32


async def filled(store: Store) -> tuple[str, list[str]]:
    image, blobs = make_image("registry.test/busy:1", [make_tar(BUSY), make_tar(EXTRA)])
    stored = await pull(store, image, blobs)
    return stored.id, list(store.layers.chain_ids([b.descriptor.diff_id for b in blobs]))


def edit(path: Path, change) -> None:
    documents = json.loads(path.read_bytes())
    change(documents)
    path.write_text(json.dumps(documents))


async def test_opening_a_clean_store_finds_nothing(store: Store) -> None:
    await filled(store)
    assert await store.layers.garbage() == 0


async def test_what_nobody_works_on_any_more_is_swept_while_others_work(store: Store, tmp_path: Path) -> None:
    stored, _ = await filled(store)
    _, blobs = make_image("registry.test/other:1", [make_tar({"x": b"1"})])
    staged = await unpack(store, blobs[0].descriptor, blobs[0].data)
    # a pull of a program that was killed, and deleted files whose removal broke off
    for base in ("overlay/tempdirs", "overlay-layers/tmp"):
        (tmp_path / "root" / base / "temp-dir-dead").mkdir(parents=True)
    (tmp_path / "root/overlay/tempdirs/lock-dead").touch()
    assert await store.layers.sweep() == 2
    assert await store.layers.sweep() == 0
    (chain,) = store.layers.chain_ids([blobs[0].descriptor.diff_id])
    await store.layers.commit(staged, chain, "")
    assert await store.layers.present([chain]) == {chain}
    assert (await store.images.find([], stored)) is not None


async def test_incomplete_layers_go(store: Store, tmp_path: Path) -> None:
    _, (base, top) = await filled(store)
    edit(tmp_path / "root/overlay-layers/layers.json", lambda r: r[1].update(flags={"incomplete": True}))
    assert await store.layers.present([base, top]) == {base}
    assert await store.layers.garbage() == 1
    assert not (tmp_path / "root/overlay" / top).exists()
    assert [r["id"] for r in json.loads((tmp_path / "root/overlay-layers/layers.json").read_bytes())] == [base]


async def test_orphans_go_and_strangers_stay(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "root"
    await filled(store)
    (root / "overlay" / ("1" * 64) / "diff").mkdir(parents=True)
    (root / f"overlay-layers/{'2' * 64}.tar-split.gz").touch()
    (root / f"overlay-layers/{'3' * 64}").mkdir()
    (root / f"overlay-images/{'4' * 64}").mkdir()
    (root / "overlay-images/.tmp-images.json1").touch()
    (root / "overlay-layers/.tmp-layers.json2").touch()
    (root / "overlay-containers/.tmp-containers.json3").touch()
    stay = [
        root / "overlay/backingFsBlockDev",
        root / "overlay-layers/notes",
        root / "libpod",
        root / "overlay/staging",
    ]
    for path in stay:
        path.mkdir()
    (root / "overlay" / ("5" * 64) / "diff").mkdir(parents=True)
    (root / "overlay" / ("5" * 64) / "link").write_text("A" * 26)
    (root / "overlay/l" / ("A" * 26)).symlink_to(f"../{'5' * 64}/diff")
    transient = tmp_path / "run/overlay-layers/volatile-layers.json"
    transient.write_text(json.dumps([{"id": "5" * 64}]))
    assert await store.layers.garbage() == 7
    assert all(path.exists() for path in stay)
    assert (root / "overlay" / ("5" * 64)).exists()
    assert not (root / "overlay" / ("1" * 64)).exists()
    assert len(await store.images.all()) == 1


async def test_volatile_layers_without_container_go(store: Store, tmp_path: Path) -> None:
    image, _ = await filled(store)
    await store.rootfs.create(Entry(BOX, ("one",), image))
    assert await store.layers.garbage() == 0
    (tmp_path / "root/overlay-containers/volatile-containers.json").write_text("[]")
    assert await store.layers.garbage() == 2  # the layer, and the container's persistent directory
    assert not (tmp_path / "root/overlay-containers" / BOX).exists()
    assert json.loads((tmp_path / "root/overlay-layers/volatile-layers.json").read_bytes()) == []


async def test_links_are_healed(store: Store, tmp_path: Path) -> None:
    image, (base, top) = await filled(store)
    home = tmp_path / "root/overlay"
    links = {layer: (home / layer / "link").read_text() for layer in (base, top)}
    (home / "l" / links[base]).unlink()
    (home / top / "link").unlink()
    (home / "l/DANGLING").symlink_to("../nothing/diff")
    assert await store.layers.garbage() == 3
    assert os.readlink(home / "l" / links[base]) == f"../{base}/diff"
    assert (home / top / "link").read_text() == links[top]
    assert sorted(os.listdir(home / "l")) == sorted(links.values())
    shutil.rmtree(home / "l")
    (home / "l").mkdir()
    (home / base / "link").write_text("not a link id")
    assert await store.layers.garbage() == 3
    await store.rootfs.create(Entry(BOX, ("one",), image))


async def test_a_layer_whose_directory_is_gone(store: Store, kernel: FakeKernel, tmp_path: Path) -> None:
    image, (_, top) = await filled(store)
    shutil.rmtree(tmp_path / "root/overlay" / top)
    assert top not in await store.layers.present([top])
    with pytest.raises(StoreFailure, match="pull it again"):
        await store.rootfs.create(Entry(BOX, ("one",), image))
    # pulling repairs it
    await filled(store)
    await store.rootfs.create(Entry(BOX, ("one",), image))
    await store.rootfs.mount(BOX)


async def test_an_unusable_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")
    store = Store(settings(tmp_path), FakeKernel())
    with pytest.raises(StoreFailure, match=str(tmp_path / "root")):
        await store.open()


async def test_an_absent_additional_store_is_left_out(tmp_path: Path) -> None:
    store = Store(settings(tmp_path, additional_stores=(str(tmp_path / "no"),)), FakeKernel())
    await store.open()
    assert await store.images.all() == ()
    await store.close()


async def test_an_additional_store_that_goes_away(store: Store, tmp_path: Path) -> None:
    image, _ = await filled(store)
    second = Store(settings(tmp_path / "second", additional_stores=(str(tmp_path / "root"),)), FakeKernel())
    await second.open()
    assert [i.id for i in await second.images.all()] == [image]
    shutil.rmtree(tmp_path / "root")
    assert await second.images.all() == ()
    await second.close()
    (tmp_path / "root/overlay-layers").mkdir(parents=True)


def test_walk_counts_links_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(b"x" * 10_000)
    os.link(tmp_path / "d/a", tmp_path / "b")
    (tmp_path / "l").symlink_to("/etc")
    size, inodes = walk(str(tmp_path))
    assert 10_000 <= size < 40_000
    assert inodes == 4
    with pytest.raises(FileNotFoundError):
        walk(str(tmp_path / "no"))
