from __future__ import annotations

import os
import pathlib
import signal

import pytest

from pycrio._native import ns
from pycrio._native.run import run, spawn

pytestmark = pytest.mark.usefixtures("no_leaks")

PAUSE = str(pathlib.Path(ns.__file__).parent / "bin" / "pycrio-pause")
NSEXEC = str(pathlib.Path(ns.__file__).parent / "bin" / "pycrio-nsexec")


def end(keeper: ns.Keeper, sig: int) -> int:
    os.kill(keeper.pid, sig)
    return os.waitpid(keeper.pid, 0)[1]


def asleep(pid: int) -> bool:
    """It sleeps in one place only, where it waits for signals (which the kernel shows as not blocked meanwhile)."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_ends_well(sig: signal.Signals) -> None:
    child = spawn([PAUSE])
    while not asleep(child.pid):  # earlier, the default action would end it with the signal
        os.sched_yield()
    child.signal(sig)
    assert await child.wait() == 0


async def test_version_and_usage() -> None:
    done = await run([PAUSE, "-v"])
    assert (done.code, done.stdout.split()[0]) == (0, b"pycrio-pause")
    done = await run([PAUSE, "what"])
    assert (done.code, done.stdout) == (2, b"")
    assert b"usage" in done.stderr


async def test_reaps_orphans(tmp_path: pathlib.Path) -> None:
    pin = str(tmp_path / "pid")
    keeper = ns.create_kept({"pid": pin}, [PAUSE])
    try:
        # twenty orphans: their parent, our child in the namespace, ends first
        script = "for i in $(seq 20); do (exec sleep 0.05) & done; exit 0"
        assert (await run([NSEXEC, "--pid", pin, "--", "sh", "-c", script])).code == 0
        # The namespace is empty but for its keeper when every orphan has been reaped: each is waited for by a pidfd.
        tasks = f"/proc/{keeper.pid}/task/{keeper.pid}/children"
        for pid in pathlib.Path(tasks).read_text().split():
            try:
                fd = os.pidfd_open(int(pid))
            except ProcessLookupError:
                continue
            await run(["tail", "-f", "--pid", pid, "/dev/null"])
            os.close(fd)
        assert pathlib.Path(tasks).read_text().split() == []
    finally:
        keeper.pidfd.close()
        end(keeper, signal.SIGKILL)
        ns.unpin(pin)


async def test_ends_its_namespace(tmp_path: pathlib.Path) -> None:
    pin = str(tmp_path / "pid")
    keeper = ns.create_kept({"pid": pin}, [PAUSE])
    read_end, write_end = os.pipe()
    child = spawn([NSEXEC, "--pid", pin, "--", "sh", "-c", "echo ready; exec sleep 1000"], fds={1: write_end})
    os.close(write_end)
    assert os.read(read_end, 6) == b"ready\n"
    os.close(read_end)
    assert end(keeper, signal.SIGTERM) == 0
    assert await child.wait() == 128 + signal.SIGKILL
    keeper.pidfd.close()
    ns.unpin(pin)


def test_is_small() -> None:
    assert os.stat(PAUSE).st_size < 8192
    assert pathlib.Path(PAUSE).read_bytes()[:4] == b"\x7fELF"
