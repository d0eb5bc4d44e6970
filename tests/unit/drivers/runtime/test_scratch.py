"""Process documents of execs: gone with the exec, or with the next start."""

from __future__ import annotations

import pathlib

from pycrio.drivers.runtime.cli import Runtime, Settings, _Scratch


async def test_what_a_killed_daemon_left_is_removed(tmp_path: pathlib.Path) -> None:
    runtime = Runtime(Settings(str(tmp_path)))
    left = _Scratch(str(tmp_path), {"args": ["true"]})  # nobody closes it
    pathlib.Path(left.directory, "pid.tmp").touch()
    (tmp_path / "other").mkdir()
    assert await runtime.garbage() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["other"]
    assert await runtime.garbage() == 0
