"""Directories of ours: made where nothing is in the way, and passable for the roots of user namespaces."""

from __future__ import annotations

import pathlib
import stat

import pytest

from pycrio.drivers.host.files import Files
from pycrio.errors import InvalidRequest


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_path_that_everybody_may_walk(tmp_path: pathlib.Path) -> None:
    top = tmp_path / "top"
    below = top / "a" / "b"
    below.mkdir(parents=True)
    for path in (tmp_path, top, top / "a"):
        path.chmod(0o700)
    below.chmod(0o755)
    await Files().let_through(str(below), str(top))
    assert [mode(p) for p in (tmp_path, top, top / "a", below)] == [0o700, 0o711, 0o711, 0o755]
    await Files().let_through(str(tmp_path), str(top))
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize("path", ["file", "file/x", "file/x/y", "loop/x"])
async def test_a_directory_where_something_else_is(tmp_path: pathlib.Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidRequest, match=f"{path} cannot be made"):
        await Files().make_dirs(str(tmp_path / path))
