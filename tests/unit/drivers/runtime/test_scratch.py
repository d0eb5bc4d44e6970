"""Process documents of execs: gone with the exec, or with the next start."""

from __future__ import annotations

import os
import pathlib
import select
import signal
import subprocess

from pycrio.drivers.runtime.cli import Runtime, Settings, _Scratch


async def test_what_a_killed_daemon_left_is_removed(tmp_path: pathlib.Path) -> None:
    runtime = Runtime(Settings(str(tmp_path), "/none"))
    left = _Scratch(str(tmp_path), {"args": ["true"]})  # nobody closes it
    pathlib.Path(left.directory, "pid.tmp").touch()
    (tmp_path / "other").mkdir()
    assert await runtime.garbage() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["other"]
    assert await runtime.garbage() == 0


async def test_what_a_killed_daemon_ran_is_ended(tmp_path: pathlib.Path) -> None:
    """A runtime that still works with such a document, and the process that it started."""
    runtime = Runtime(Settings(str(tmp_path), "/none"))
    left, other = _Scratch(str(tmp_path), {}), tmp_path / "other"
    script = "sleep 1000 & echo $!; wait"
    orphan = subprocess.Popen(["sh", "-c", script, "runtime", left.process], stdout=subprocess.PIPE)
    stranger = subprocess.Popen(["sh", "-c", "read x", "runtime", f"{other}{left.process}"], stdin=subprocess.PIPE)
    assert orphan.stdout is not None
    child = os.pidfd_open(int(orphan.stdout.readline()))
    try:
        assert await runtime.garbage() == 1
        assert orphan.wait() == -signal.SIGKILL
        assert select.select([child], [], [], 30)[0]
        assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n")
        orphan.stdout.close()
        os.close(child)
