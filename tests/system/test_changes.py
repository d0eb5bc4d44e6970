"""What a container changed, saved from one root file system and made again in another: on a real overlay."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import tarfile
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from pycrio.errors import BadImage, NotFound, WrongState
from pycrio.model.requests import StoreEntry
from tests.isolation import mount, short_directory, unmount
from tests.unit.drivers.layers.support import make_image, make_tar, pull

pytestmark = pytest.mark.system
BASE = {
    "etc/keep": b"keep",
    "etc/gone": b"gone",
    "dir/a": b"a",
    "dir/sub/b": b"b",
    "file": b"file",
    "tmp": None,
    "tree/x/y": b"y",
}
FIRST, SECOND, THIRD = "a1" * 32, "b2" * 32, "c3" * 32


@pytest_asyncio.fixture
async def store() -> AsyncIterator[Store]:
    """On a file system of its own: overlay does not stack on every one that tests run on."""
    place = short_directory()
    mount("tmpfs", place, "tmpfs")
    store = Store(Settings(root=f"{place}/root", run_root=f"{place}/run"))
    await store.open()
    image, blobs = make_image("registry.test/base:1", [make_tar(BASE), make_tar({"upper": b"upper"})])
    await pull(store, image, blobs)
    yield store
    for entry in await store.rootfs.entries():
        await store.rootfs.remove(entry.id)
    await store.close()
    unmount(place)
    os.rmdir(place)


async def container(store: Store, ident: str, *, mounted: bool = True) -> pathlib.Path:
    (image,) = await store.images.all()
    await store.rootfs.create(StoreEntry(ident, (ident,), image.id, {"pod-name": "p", "pod-id": "d" * 64}))
    return pathlib.Path(await store.rootfs.mount(ident)) if mounted else pathlib.Path()


def picture(root: pathlib.Path) -> dict[str, object]:
    """All that is seen of a tree."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        times = info.st_mtime_ns if path.is_file() else 0
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_gid, content, xattrs, times)
    return found


async def test_changes_are_made_again(store: Store, tmp_path: pathlib.Path) -> None:
    first = await container(store, FIRST)
    os.unlink(first / "etc/gone")
    (first / "etc/new").write_bytes(b"new")
    os.chown(first / "etc/new", 1000, 2000)
    os.chmod(first / "etc/new", 0o4750)
    os.utime(first / "etc/new", ns=(1, 1_500_000_000_123_456_789))
    os.setxattr(first / "etc/new", "user.mark", b"\xff\x00=\n")
    os.chmod(first / "tmp", 0o1777)
    (first / "link").symlink_to("/etc/\udcff")
    os.link(first / "etc/new", first / "hard")
    os.mkfifo(first / "pipe")
    os.mknod(first / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for path in ("dir/a", "dir/sub/b"):
        os.unlink(first / path)
    os.rmdir(first / "dir/sub")
    os.rmdir(first / "dir")
    (first / "dir").mkdir()  # hides the image's: opaque
    (first / "dir/fresh").write_bytes(b"fresh")
    os.unlink(first / "file")
    (first / "file").mkdir()  # a directory where a file was
    (first / "file/inside").write_bytes(b"inside")
    os.unlink(first / "tree/x/y")
    os.rmdir(first / "tree/x")
    (first / "tree/x").write_bytes(b"a file where a directory was")
    await store.changes.save(FIRST, str(tmp_path))
    assert set(json.loads((tmp_path / "deleted.files").read_bytes())) == {"etc/gone", "dir/a", "dir/sub"}
    await container(store, SECOND, mounted=False)
    await store.changes.load(SECOND, str(tmp_path))
    second = pathlib.Path(await store.rootfs.mount(SECOND))
    assert picture(second) == picture(first)
    assert (second / "hard").stat().st_ino == (second / "etc/new").stat().st_ino
    assert not (second / "dir/a").exists()


async def test_archives_of_others_name_no_directories(store: Store, tmp_path: pathlib.Path) -> None:
    third = await container(store, THIRD)
    os.chmod(third / "tmp", 0o755)
    with tarfile.open(tmp_path / "rootfs-diff.tar", "w") as tar:
        for name in ("/tree/x/added", "/other/place/added"):
            tar.addfile(tarfile.TarInfo(name))
    (tmp_path / "deleted.files").write_text('["/etc/gone", "/dir/sub/b", "/never/was", "/tree/x/y"]')
    await container(store, SECOND, mounted=False)
    before = picture(third)
    await store.changes.load(SECOND, str(tmp_path))
    second = pathlib.Path(await store.rootfs.mount(SECOND))
    after = picture(second)
    for path in ("tree", "tree/x", "etc", "dir", "dir/sub"):
        assert after[path] == before[path]
    gone = {"etc/gone", "dir/sub/b", "tree/x/y"}
    assert set(after) == set(before) - gone | {"tree/x/added", "other", "other/place", "other/place/added"}


async def test_nothing_changes_without_the_files(store: Store, tmp_path: pathlib.Path) -> None:
    await container(store, SECOND, mounted=False)
    await store.changes.load(SECOND, str(tmp_path))
    third = await container(store, THIRD)
    assert picture(pathlib.Path(await store.rootfs.mount(SECOND))) == picture(third)
    await store.changes.save(SECOND, str(tmp_path))
    assert json.loads((tmp_path / "deleted.files").read_bytes()) == []


@pytest.mark.parametrize("text", ['["../x"]', '["a/../../x"]', '["a\\u0000b"]', "{", "7"])
async def test_malformed_lists(store: Store, tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "deleted.files").write_text(text)
    await container(store, SECOND, mounted=False)
    with pytest.raises(BadImage):
        await store.changes.load(SECOND, str(tmp_path))


async def test_what_has_no_root_file_system(store: Store, tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFound):
        await store.changes.save(FIRST, str(tmp_path))
    await container(store, SECOND, mounted=False)
    with pytest.raises(WrongState):
        await store.changes.save(SECOND, str(tmp_path))
