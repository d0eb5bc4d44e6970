"""Trees that were made to be a nuisance, and disks without space: removal and measurement cope."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pycrio._native import mounts
from pycrio.drivers.layers.files import remove_tree, sweep_places
from pycrio.drivers.layers.removal import Trash
from pycrio.drivers.layers.reserve import FILE_SIZE, FILES, Reserve
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.turn import Turn
from pycrio.drivers.layers.usage import walk
from pycrio.errors import Exhausted


def deep(top: Path, levels: int, name: str) -> None:
    """A chain of directories that no single path reaches, with a file at its end."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.mark.parametrize(("levels", "name"), [(3000, "d"), (300, "n" * 200)])
def test_depth_does_not_matter(tmp_path: Path, levels: int, name: str) -> None:
    tree, other = tmp_path / "tree", tmp_path / "other"
    deep(tree, levels, name)
    other.mkdir()
    (other / "kept").touch()
    (tree / "link").symlink_to(other)
    assert walk(str(tree))[1] == levels + 3
    remove_tree(str(tree))
    assert not tree.exists()
    assert (other / "kept").exists()  # links are not followed


def test_what_is_too_deep_for_any_measure_is_left_out(tmp_path: Path) -> None:
    deep(tmp_path / "tree", 800, "n" * 250)
    assert 100 < walk(str(tmp_path / "tree"))[1] <= 802
    remove_tree(str(tmp_path / "tree"))


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A tree that shows a part of the same file system below itself."""
    other, place = tmp_path / "other", tmp_path / "tree/a/mapped"
    other.mkdir()
    (other / "kept").touch()
    place.mkdir(parents=True)
    mounts.bind(str(other), str(place))
    yield place
    mounts.umount(str(place))


def test_what_is_mounted_is_not_deleted(bound: Path, tmp_path: Path) -> None:
    """A bind mount that a killed daemon left may be one of the whole store."""
    for tree in (tmp_path / "tree", bound):
        with pytest.raises(OSError, match="mounted there") as failure:
            remove_tree(str(tree))
        assert failure.value.errno == errno.EBUSY
    assert (bound / "kept").exists()


def test_garbage_that_resists_is_left(bound: Path, tmp_path: Path) -> None:
    base = tmp_path / "tempdirs"
    (base / "temp-dir-1").mkdir(parents=True)
    (tmp_path / "tree").rename(base / "temp-dir-1/0-layer")
    (base / "temp-dir-2").mkdir()
    assert sweep_places(str(base)) == 1
    assert (tmp_path / "other/kept").exists()
    mounts.umount(str(base / "temp-dir-1/0-layer/a/mapped"))
    assert sweep_places(str(base)) == 1
    assert list(base.iterdir()) == []


class Disk:
    """Work that needs the reserve's space."""

    def __init__(self, reserve: Reserve) -> None:
        self.reserve = reserve
        self.calls = 0

    def remove(self, _: Trash) -> str:
        self.calls += 1
        if os.path.exists(self.reserve.path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return "removed"


async def on_full_disk(tmp_path: Path, call: Callable[[Turn, Disk], object]) -> Disk:
    reserve = Reserve(str(tmp_path / "reserve"))
    reserve.fill()
    sizes = [p.stat().st_blocks * 512 for p in (tmp_path / "reserve").iterdir()]
    assert len(sizes) == FILES
    assert min(sizes) >= FILE_SIZE
    disk = Disk(reserve)
    settings = Settings(root=str(tmp_path / "root"), run_root=str(tmp_path / "run"))
    result = call(Turn(lambda: Trash(settings), reserve), disk)
    assert asyncio.iscoroutine(result)
    await result
    return disk


async def test_removal_gets_the_reserve(tmp_path: Path) -> None:
    disk = await on_full_disk(tmp_path, lambda turn, disk: turn.free(disk.remove))
    assert disk.calls == 2
    assert os.path.exists(disk.reserve.path)  # and it was filled again


async def test_creation_does_not(tmp_path: Path) -> None:
    with pytest.raises(Exhausted, match="no space left"):
        await on_full_disk(tmp_path, lambda turn, disk: turn.run(disk.remove))
    assert os.path.exists(tmp_path / "reserve")


async def test_without_a_reserve_the_failure_stands(tmp_path: Path) -> None:
    def full(_: Trash) -> None:
        raise OSError(errno.EDQUOT, "full")

    settings = Settings(root=str(tmp_path / "root"), run_root=str(tmp_path / "run"))
    for reserve in (None, Reserve(str(tmp_path / "none"))):
        with pytest.raises(Exhausted):
            await Turn(lambda: Trash(settings), reserve).free(full)
