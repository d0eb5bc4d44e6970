"""The end of a shim that does not answer, found without asking it: by the pid that it told when it was well, and as
whoever works in the directory of its sandbox container, which is a shim's working directory from its start on, also
when the daemon was killed before it had heard of it."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator

from pycrio._native import proc
from pycrio._native.base import Fd
from pycrio._native.tree import kill_tree
from pycrio.drivers.shim.place import Facts
from pycrio.errors import RuntimeFailure
from pycrio.obs import log as obslog

log = obslog.get("shim")
END_WAIT = 5.0
"""Seconds for a killed process to be gone."""
_LISTENS = 0x10000
"""The flag of a socket that listens in /proc/net/unix (__SO_ACCEPTCON, linux/net.h)."""


def kill(directory: str, facts: Facts) -> None:
    """Kill a pod's shim with all that it started, wait until it is gone, and remove its socket. RuntimeFailure when it
    does not go: it is in the kernel. Blocking; nothing happens when there is none."""
    directory = os.path.realpath(directory)
    end = time.monotonic() + END_WAIT
    sockets: set[str] = set()
    # Again until nobody is left: a shim's start may be about to start the shim.
    while found := sorted({*_inside(directory), *_told(facts)}):
        for pid in found:
            sockets |= _sockets(pid)
        log.warning("Shim is killed", sandbox=facts.pod, pids=",".join(map(str, found)))
        ends = [Fd(fd) for fd in (proc.open_process(pid, proc.start_time(pid)) for pid in found) if fd is not None]
        try:
            kill_tree(*found)
            for fd in ends:
                if not select.select([fd.fileno()], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise RuntimeFailure(
                        f"shim of pod {facts.pod} (pid {found[0]}) was killed and does not end; "
                        "see its /proc/PID/stack for what it waits for in the kernel"
                    )
        finally:
            for fd in ends:
                fd.close()
    for path in sockets:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _told(facts: Facts) -> Iterator[int]:
    """The shim by its own word, as long as that pid is the same process, and one that was started for the pod: what
    answers may be confused, or in a pid namespace of its own."""
    with contextlib.suppress(OSError):  # it has ended
        if facts.pid and proc.alive(facts.pid, facts.start_time):
            with open(f"/proc/{facts.pid}/cmdline", "rb") as f:
                if os.fsencode(facts.pod) in f.read().split(b"\0"):
                    yield facts.pid


def _inside(directory: str) -> Iterator[int]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            if os.readlink(f"/proc/{name}/cwd").removesuffix(" (deleted)") == directory:
                yield int(name)


def _sockets(pid: int) -> set[str]:
    """Paths of the sockets on which a process listens."""
    held = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                held.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    try:
        with open(f"/proc/{pid}/net/unix", encoding="utf-8", errors="surrogateescape") as f:
            rows = [line.split(maxsplit=7) for line in f]
    except OSError:
        return set()
    # Num RefCount Protocol Flags Type St Inode Path
    named = (row for row in rows[1:] if len(row) == 8 and row[7].startswith("/"))
    return {row[7].rstrip("\n") for row in named if int(row[3], 16) & _LISTENS and f"socket:[{row[6]}]" in held}
