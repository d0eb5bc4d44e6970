"""The store on every file system that nodes use: the same trees, user namespaces, podman beside us, nothing left."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycrio.drivers.layers.store import Store
from pycrio.model.security import IdMapping
from tests.fakes.trees import tree
from tests.system.test_store_interop import NAME, Tools, detach, pulled, settings
from tests.unit.drivers.layers.support import Entry

pytestmark = pytest.mark.system
BOX, SHIFTED = "b0" * 32, "c1" * 32
MAKE = {
    "ext4": ("mkfs.ext4", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "tmpfs": (),
}


def supported(kind: str) -> bool:
    """Whether this kernel has a file system, as a module perhaps."""
    subprocess.run(["modprobe", "-q", kind], check=False, capture_output=True)
    return kind in Path("/proc/filesystems").read_text().split()


@pytest.fixture(params=sorted(MAKE))
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tools]:
    """podman and we on a fresh file system of a kind."""
    kind: str = request.param
    if not supported(kind):
        pytest.skip(f"this kernel has no {kind}")
    base = Path(tempfile.mkdtemp(prefix="pcf-", dir="/tmp"))
    source = "none"
    if MAKE[kind]:
        source = str(tmp_path / "disk")
        with open(source, "wb") as disk:
            disk.truncate(512 << 20)
        subprocess.run([*MAKE[kind], source], check=True, capture_output=True)
    options = "loop" if MAKE[kind] else "size=128m"
    subprocess.run(["mount", "-t", kind, "-o", options, source, str(base)], check=True)
    yield Tools(base)
    detach(str(base))
    subprocess.run(["umount", str(base)], check=True)
    base.rmdir()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Trees of the layers as the machine's own file system holds them."""
    base = Path(tempfile.mkdtemp(prefix="pcf-", dir="/tmp"))

    async def main() -> dict[str, object]:
        store = Store(settings(Tools(base)))
        await store.open()
        image = await pulled(store)
        found = trees(store, image.layer)
        await store.close()
        return found

    yield asyncio.run(main())
    detach(str(base))
    shutil.rmtree(base)


def trees(store: Store, top: str) -> dict[str, object]:
    return {r.id: tree(f"{store.settings.home}/{r.id}/diff") for r in store._index.view().ancestry(top)}


async def test_everything_works(tools: Tools, expected: dict[str, object]) -> None:
    store = Store(settings(tools))
    await store.open()
    image = await pulled(store)
    assert trees(store, image.layer) == expected
    assert (await store.checker.check()).damages == ()
    await store.rootfs.create(Entry(BOX, ("box",), image.id))
    path = Path(await store.rootfs.mount(BOX))
    (path / "etc/mine").write_text("m")
    (path / "etc/new").unlink()
    os.setxattr(path / "etc/attrs", "user.more", b"1")
    maps = (IdMapping(0, 200000, 65536),)
    await store.rootfs.create(Entry(SHIFTED, ("shifted",), image.id, {}, "", "", maps, maps))
    shifted = Path(await store.rootfs.mount(SHIFTED))
    assert (shifted / "bin/busybox").stat().st_uid == 200000
    os.chown(shifted / "etc/new", 200007, 200007)
    assert (shifted / "etc/new").stat().st_uid == 200007
    assert await asyncio.to_thread(tools.podman, *tools.run_argv(NAME, "/bin/sh", "-c", "cat /etc/new")) == "2"
    assert (path / "etc/mine").read_text() == "m"
    assert not (path / "etc/new").exists()
    use = await store.rootfs.usage(BOX)
    assert use is not None
    assert use.inodes_used >= 4
    for box in (BOX, SHIFTED):
        await store.rootfs.remove(box)
    await asyncio.to_thread(tools.podman, "rmi", NAME)
    assert await store.layers.garbage() >= 0
    assert await store.images.all() == ()
    left = {p.name for p in Path(tools.root, "overlay").iterdir()}
    assert left <= {"l", "tempdirs", ".has-mount-program", "backingFsBlockDev"}  # the last one podman makes on xfs
    await store.close()
