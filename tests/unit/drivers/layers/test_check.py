"""Damage of every kind is found, named and repaired."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio

from pycrio.drivers.layers.files import data_file
from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import BUSY, EXTRA, Entry, FakeKernel, make_image, make_tar, pull, settings

BOX = "b0" * 32
ONE = make_image("registry.test/one:1", [make_tar(BUSY)])
TWO = make_image("registry.test/two:1", [make_tar(BUSY), make_tar(EXTRA)])
ONE_ID, TWO_ID = ONE[0].config_digest[7:], TWO[0].config_digest[7:]
BASE = ONE[1][0].descriptor.diff_id[7:]


@pytest_asyncio.fixture
async def filled(store: Store) -> Store:
    await pull(store, *ONE)
    await pull(store, *TWO)
    return store


def top(store: Store) -> str:
    return store.layers.chain_ids([b.descriptor.diff_id for b in TWO[1]])[-1]


async def test_a_whole_store(filled: Store) -> None:
    await filled.rootfs.create(Entry(BOX, ("box",), TWO_ID))
    report = await filled.checker.check()
    assert report.damages == ()
    assert report.unreferenced == ()
    assert set(report.counts().values()) == {0}


def altered(root: Path, layer: str) -> None:
    (root / "overlay" / layer / "diff/app/data").write_bytes(b"y" * 5000)


def shortened(root: Path, layer: str) -> None:
    (root / "overlay" / layer / "diff/app/data").unlink()


def added(root: Path, layer: str) -> None:
    (root / "overlay" / layer / "diff/app/more").touch()


def unlinked(root: Path, layer: str) -> None:
    (root / "overlay" / layer / "link").unlink()


def misplaced(root: Path, layer: str) -> None:
    (root / "overlay" / layer / "lower").write_text("l/" + "A" * 26)


def vanished(root: Path, layer: str) -> None:
    shutil.rmtree(root / "overlay" / layer)


@pytest.mark.parametrize("harm", [altered, shortened, added, unlinked, misplaced, vanished])
async def test_a_damaged_layer(filled: Store, tmp_path: Path, harm: Callable[[Path, str], None]) -> None:
    harm(tmp_path / "root", top(filled))
    report = await filled.checker.check()
    assert report.ids("layer") == {top(filled)}
    assert report.ids("image") == {TWO_ID}
    assert all(d.reason for d in report.damages)
    left = await filled.checker.repair(report)
    assert left.damages == ()
    assert [i.id for i in await filled.images.all()] == [ONE_ID]
    assert await filled.layers.present([BASE, top(filled)]) == {BASE}
    await pull(filled, *TWO)
    assert (await filled.checker.check()).damages == ()


async def test_quick_overlooks_only_added_files(filled: Store, tmp_path: Path) -> None:
    added(tmp_path / "root", top(filled))
    assert (await filled.checker.check(quick=True)).damages == ()
    altered(tmp_path / "root", top(filled))
    assert (await filled.checker.check(quick=True)).ids("layer") == {top(filled)}


async def test_a_damaged_base_damages_what_is_above(filled: Store, tmp_path: Path) -> None:
    (tmp_path / "root/overlay" / BASE / "diff/bin/busybox").write_bytes(b"??")
    report = await filled.checker.check()
    assert report.counts() == {"layer": 2, "read-only layer": 0, "image": 2, "read-only image": 0, "container": 0}
    left = await filled.checker.repair(report)
    assert left.damages == ()
    assert await filled.images.all() == ()
    assert json.loads((tmp_path / "root/overlay-layers/layers.json").read_bytes()) == []


@pytest.mark.parametrize("how", ["missing", "altered", "cut"])
async def test_damaged_image_data(filled: Store, tmp_path: Path, how: str) -> None:
    path = tmp_path / "root/overlay-images" / TWO_ID / data_file(TWO[0].config_digest)
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(b" " * (len(TWO[0].config) - (how == "cut")))
    report = await filled.checker.check()
    assert report.ids("image") == {TWO_ID}
    assert report.ids("layer") == frozenset()
    assert "sha256:" in report.damages[0].reason
    assert (await filled.checker.repair(report)).damages == ()
    # its layer stays for a day: somebody may be pulling
    assert (await filled.checker.check()).unreferenced == (top(filled),)
    await filled.checker.repair(await filled.checker.check(), age=0)
    assert (await filled.checker.check()).unreferenced == ()
    assert [i.id for i in await filled.images.all()] == [ONE_ID]


async def test_containers_go_only_by_force(filled: Store, tmp_path: Path) -> None:
    await filled.rootfs.create(Entry(BOX, ("box",), TWO_ID, {"pod-name": "p", "pod-id": "i"}))
    altered(tmp_path / "root", top(filled))
    report = await filled.checker.check()
    assert report.ids("container") == {BOX}
    left = await filled.checker.repair(report)
    # two layers: the image's and the container's own above it
    assert left.counts() == {"layer": 2, "read-only layer": 0, "image": 1, "read-only image": 0, "container": 1}
    assert await filled.rootfs.known(BOX)
    left = await filled.checker.repair(left, force=True)
    assert left.damages == ()
    assert not await filled.rootfs.known(BOX)
    assert [i.id for i in await filled.images.all()] == [ONE_ID]


async def test_a_container_without_its_image(filled: Store, tmp_path: Path) -> None:
    await filled.rootfs.create(Entry(BOX, ("box",), TWO_ID))
    path = tmp_path / "root/overlay-images/images.json"
    path.write_text(json.dumps([r for r in json.loads(path.read_bytes()) if r["id"] != TWO_ID]))
    assert (await filled.checker.check()).ids("container") == {BOX}


async def test_read_only_damage_stays(filled: Store, tmp_path: Path) -> None:
    second = Store(settings(tmp_path / "upper", additional_stores=(str(tmp_path / "root"),)), FakeKernel())
    await second.open()
    altered(tmp_path / "root", top(filled))
    report = await second.checker.check()
    assert report.counts() == {"layer": 0, "read-only layer": 1, "image": 0, "read-only image": 1, "container": 0}
    assert (await second.checker.repair(report)).counts() == report.counts()
    assert os.path.isdir(tmp_path / "root/overlay" / top(filled))
    await second.close()
