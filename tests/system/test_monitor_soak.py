"""A day of a monitor's life in seconds: output, attached users, resizes, rotations; it ends as small as it began."""

from __future__ import annotations

import os
import pathlib
import re
import select
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pycrio._native import logmux

from .monitor_rig import OURS, Rig, inotify_wait, packets, pidfd, wait_for

pytestmark = pytest.mark.system

HOURS = 24
LINES = 1200  # of an hour: one every three seconds
SCRIPT = """
[ -t 0 ] && stty -echo
echo ready
while read hour; do
  n=0
  while [ $n -lt LINES ]; do
    echo "$hour $n the quick brown fox jumps over the lazy dog, and so it goes all day long"
    n=$((n+1))
  done
  echo "end $hour"
done
""".replace("LINES", str(LINES))


@pytest.fixture
def ours(tmp_path: pathlib.Path) -> Iterator[Rig]:
    rig = Rig(OURS, tmp_path)
    yield rig
    rig.close()


@dataclass(frozen=True)
class Weight:
    """What a process holds: kB of memory of its own, kB of address space, mappings, descriptors."""

    dirty: int
    size: int
    maps: int
    fds: int


def weigh(pid: int) -> Weight:
    """The process at rest: the smallest it gets within half a second, as buffers go back after a quiet time."""
    proc = pathlib.Path(f"/proc/{pid}")

    def dirty() -> int:
        found = re.search(r"Private_Dirty: +(\d+)", (proc / "smaps_rollup").read_text())
        assert found
        return int(found[1])

    with pidfd(pid) as fd:
        assert fd is not None
        sizes = [dirty()]
        for _ in range(10):
            assert not select.select([fd], [], [], 0.05)[0], "the monitor ended"
            sizes.append(dirty())
    status = re.search(r"VmSize:\s+(\d+)", (proc / "status").read_text())
    assert status
    maps = (proc / "maps").read_text().count("\n")
    return Weight(min(sizes), int(status[1]), maps, len(os.listdir(proc / "fd")))


def rotate(rig: Rig, number: int) -> pathlib.Path:
    """As kubelet does it, while the container writes: rename, ask for a new file, wait for it."""
    old = rig.log_path.with_name(f"log.{number}")
    rig.log_path.rename(old)
    rig.control(b"2 0 0\n")
    while not rig.log_path.exists():
        with inotify_wait(rig.log_path.parent), pidfd(rig.monitor_pid) as fd:
            assert fd is not None, "the monitor ended"
    return old


@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "terminal"])
def test_a_day_leaves_nothing_behind(ours: Rig, tty: bool) -> None:
    """Every line is in one of the rotated files, whole and in order; memory, mappings and descriptors stay."""
    ours.prepare(SCRIPT, tty=tty)
    ours.create(*([] if tty else ["-i", "--leave-stdin-open"]))
    user = ours.attach()
    ours.start()
    ours.wait_log(b"ready")
    end = b"\r\n" if tty else b"\n"
    packets(user, b"ready" + end)
    files: list[pathlib.Path] = []
    weights: list[Weight] = []
    for hour in range(HOURS):
        idle = ours.attach()  # looks at the screen, never reads
        user.send(b"%d\n" % hour)
        packets(user, size=30000)
        files.append(rotate(ours, hour))
        for minute in range(60):
            ours.control(b"1 %d %d\n" % (24 + minute % 3, 80 + minute))
        ours.control(b"no such thing\n\0\n7 7 7\n")
        for _ in range(12):
            ours.attach().close()
        packets(user, b"end %d" % hour + end)
        idle.close()
        if hour % 4 == 1:
            weights.append(weigh(ours.monitor_pid))
    user.close()
    ours.runc("kill", ours.name, "KILL")
    with pidfd(ours.monitor_pid) as fd:
        if fd is not None:
            wait_for(fd)
    first, last = weights[0], weights[-1]
    assert last.dirty <= first.dirty + 4, weights
    assert (last.size, last.maps, last.fds) == (first.size, first.maps, first.fds), weights
    assert last.dirty <= 110, weights
    log = b"".join(path.read_bytes() for path in (*files, ours.log_path))
    out, err, understood = logmux.split_streams(log)
    assert (err, understood) == (b"", len(log))
    seen = out.replace(b"\r\n", b"\n").split(b"\n")
    assert (seen[0], seen.pop()) == (b"ready", b"")
    per_hour = LINES + 1
    assert len(seen) == 1 + HOURS * per_hour
    for hour in range(HOURS):
        block = seen[1 + hour * per_hour : 1 + (hour + 1) * per_hour]
        assert block[-1] == b"end %d" % hour
        assert [line.split(b" the ")[0] for line in block[:-1]] == [b"%d %d" % (hour, n) for n in range(LINES)]


def test_requests_to_an_idle_monitor(ours: Rig) -> None:
    """What comes after the output has cooled down costs memory for a moment as well, and gives it back as well."""
    ours.prepare("seq 1 20000; echo end; read x", tty=True)
    ours.create()
    user = ours.attach()
    ours.start()
    packets(user, b"end\r\n")
    before = weigh(ours.monitor_pid)
    for _ in range(5):
        ours.control(b"2 0 0\n1 30 90\nno such thing\n" + b"x" * 4000 + b"\n")
        ours.attach().close()
        user.send(b"x")
        packets(user, b"x")  # the terminal's echo
    after = weigh(ours.monitor_pid)
    user.close()
    ours.runc("kill", ours.name, "KILL")
    assert ours.exit_code() == 137
    assert after.dirty <= before.dirty + 4
    assert (after.size, after.maps, after.fds) == (before.size, before.maps, before.fds)
