"""Idle monitors side by side, ours and conmon's: what each costs a node (``bench_log.py --memory 100`` has figures)."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import select
import signal
import statistics
import subprocess
from collections.abc import Iterator

import pytest

from .monitor_rig import CONMON, OURS

pytestmark = pytest.mark.system

COUNT = 50
RUNTIME = """#!/bin/sh
while [ "$1" != --pid-file ]; do shift; done
sleep 1000 &
echo $! > "$2"
"""


@contextlib.contextmanager
def running(program: pathlib.Path, base: pathlib.Path) -> Iterator[list[int]]:
    """The pids of COUNT monitors, each with its container; at the end the containers are killed and monitors go."""
    (base / "s").mkdir(parents=True)
    runtime = base / "runtime"
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    monitors: list[int] = []
    containers: list[int] = []
    try:
        for number in range(COUNT):
            name = f"container-{number:06}"
            bundle = base / name
            bundle.mkdir()
            command = [str(program), "-b", str(bundle), "-c", name, "-u", name, "-n", name, "-r", str(runtime)]
            command += ["-p", str(bundle / "pid"), "-P", str(bundle / "monitor-pid"), "-l", str(bundle / "log")]
            command += ["--socket-dir-path", str(base / "s"), "--exit-dir", str(base / "s"), "--no-sync-log"]
            read, write = os.pipe()
            environment = {**os.environ, "_OCI_SYNCPIPE": str(write)}
            subprocess.run(command, pass_fds=[write], env=environment, check=True, capture_output=True, timeout=20)
            os.close(write)
            with open(read, "rb") as report:
                assert re.match(rb'{"pid": ?[1-9]', report.readline())
            monitors.append(int((bundle / "monitor-pid").read_text()))
            containers.append(int((bundle / "pid").read_text()))
        yield monitors
    finally:
        watched = [os.pidfd_open(pid) for pid in monitors]
        for pid in containers:
            os.kill(pid, signal.SIGKILL)
        for fd in watched:
            assert select.select([fd], [], [], 20)[0]
            os.close(fd)


def kilobytes(pids: list[int]) -> tuple[float, float]:
    """Private dirty memory and proportional share, the mean of all."""
    texts = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    found = [re.search(rf"^{key}: +(\d+)", text, re.MULTILINE) for key in ("Private_Dirty", "Pss") for text in texts]
    values = [int(match[1]) for match in found if match]
    assert len(values) == 2 * len(pids)
    return statistics.mean(values[: len(pids)]), statistics.mean(values[len(pids) :])


def test_side_by_side(tmp_path: pathlib.Path) -> None:
    with running(OURS, tmp_path / "o") as monitors:
        dirty, share = kilobytes(monitors)
    with running(CONMON, tmp_path / "c") as monitors:
        _, peer = kilobytes(monitors)
    assert dirty <= 110
    assert share <= peer / 3
