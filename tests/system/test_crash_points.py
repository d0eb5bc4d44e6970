"""A sample of ``make crash-points``: kill -9 before every 61st of the system calls that change the store."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import threading

import pytest

from tests import killpoint

pytestmark = pytest.mark.system


def test_a_kill_at_any_point_leaves_a_good_store() -> None:
    argv = [sys.executable, "-m", "tests.system.crash_points", "--every", "61", "--peer", "12"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    points = re.search(r"(\d+) points, 0 bad", done.stdout.splitlines()[-1])
    assert points
    assert int(points[1]) >= 20  # it did kill that often


def work(directory: pathlib.Path) -> None:
    """Two calls each for three files, by three threads, and writing that changes no file."""

    def write(number: int) -> None:
        os.close(os.open(directory / f"new{number}", os.O_WRONLY | os.O_CREAT))
        (directory / f"new{number}").rename(directory / f"file{number}")

    os.mkdir(directory)
    killpoint.begin()
    read, pipe = os.pipe()
    os.write(pipe, b"nobody minds")
    os.close(read)
    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_every_call_of_every_thread_is_seen(tmp_path: pathlib.Path) -> None:
    outcome = killpoint.run(lambda: work(tmp_path / "all"), gated=True)
    assert (outcome.status, sorted(outcome.calls)) == (0, ["openat"] * 3 + ["rename"] * 3)
    ungated = killpoint.run(lambda: work(tmp_path / "ungated"))
    assert ungated.calls[0] == "mkdir"
    assert len(ungated.calls) == 7


@pytest.mark.parametrize("point", range(1, 7))
def test_a_call_that_is_killed_is_not_made(tmp_path: pathlib.Path, point: int) -> None:
    outcome = killpoint.run(lambda: work(tmp_path / "some"), point, gated=True)
    assert outcome.killed
    assert len(outcome.calls) == point
    made = len(list((tmp_path / "some").iterdir()))
    renamed = sum(p.name.startswith("file") for p in (tmp_path / "some").iterdir())
    assert made + renamed <= point - 1


def test_work_that_fails_says_so() -> None:
    assert killpoint.run(lambda: os.chdir("/nowhere")).status == killpoint.FAILED
