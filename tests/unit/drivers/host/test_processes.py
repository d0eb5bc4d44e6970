"""Processes that end: what still shows as alive, and what will not come back."""

from __future__ import annotations

import ctypes
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from pycrio.drivers.host.processes import Processes
from tests.system.node import eventually

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long


def children(pid: int) -> list[int]:
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def below(pid: int) -> int:
    eventually(lambda: children(pid), 10)
    return children(pid)[0]


@pytest.fixture
def namespace() -> Iterator[tuple[int, int]]:
    """The first process of a pid namespace, and its child."""
    program = ["unshare", "--user", "--pid", "--fork", "sh", "-c", "sleep 1000; true"]
    with subprocess.Popen(program) as starter:
        first = below(starter.pid)
        child = below(first)
        yield first, child
        processes = Processes()
        processes.kill(first, processes.start_time(first), signal.SIGKILL)
        starter.wait()


def test_what_runs_is_not_ending(namespace: tuple[int, int]) -> None:
    first, child = namespace
    processes = Processes()
    for pid in (first, child, os.getpid()):
        assert not processes.ending(pid, processes.start_time(pid))
        assert processes.ending(pid, processes.start_time(pid) + 1)


def test_a_first_process_that_waits_for_its_namespace_is_ending(namespace: tuple[int, int]) -> None:
    """Its child cannot be reaped until the one who traces it has seen its end."""
    first, child = namespace
    processes = Processes()
    began = processes.start_time(first)
    assert LIBC.ptrace(PTRACE_SEIZE, child, None, None) == 0, os.strerror(ctypes.get_errno())
    try:
        os.kill(first, signal.SIGKILL)
        eventually(lambda: processes.ending(first, began), 10)
        assert processes.alive(first, began)
    finally:
        os.waitpid(child, 0x40000000)  # __WALL: the child of another, which we trace
    eventually(lambda: not processes.alive(first, began), 10)
    assert processes.ending(first, began)


def test_a_kill_that_has_not_arrived_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen process of cgroup v1 is killed when it thaws; here by its masks as /proc shows them."""
    processes = Processes()
    with subprocess.Popen(["env", "--block-signal=USR1", "sleep", "1000"]) as held:
        eventually(lambda: b"sleep" in pathlib.Path(f"/proc/{held.pid}/cmdline").read_bytes()[:5], 10)
        began = processes.start_time(held.pid)
        held.send_signal(signal.SIGUSR1)
        assert not processes.ending(held.pid, began)
        monkeypatch.setattr("pycrio.drivers.host.processes.SIGKILL", signal.SIGUSR1)
        assert processes.ending(held.pid, began)
        held.kill()
    assert processes.ending(held.pid, began)
