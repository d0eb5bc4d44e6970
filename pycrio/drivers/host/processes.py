"""Processes of the host by pid and start time: a pair that is never reused while the machine runs."""

from __future__ import annotations

import asyncio
import functools
import os
import resource
from collections.abc import Mapping, Sequence
from signal import SIGKILL

from pycrio._native import proc
from pycrio._native.base import Fd
from pycrio._native.pools import offload
from pycrio._native.run import readable
from pycrio.model.stats import ProcessUsage

CAP_SYS_RESOURCE = 24
PF_EXITING = 0x4
_LIMITS = (
    *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE"),
    *("NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
)


class Processes:
    """See ``flows.ports.Processes``."""

    def alive(self, pid: int, start_time: int) -> bool:
        """False for zombies, for reused pids and for absent ones."""
        return pid > 0 and proc.alive(pid, start_time)

    def ending(self, pid: int, start_time: int) -> bool:
        """Also true for a process that exits or has a SIGKILL pending.

        The first process of a pid namespace stays "alive" while it exits until all others of the namespace are gone;
        in a shared one they are all killed with it, each in its own time (pid_namespaces(7)).
        """
        if not self.alive(pid, start_time):
            return True
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                flags = int(f.read().rpartition(b")")[2].split()[6])
            with open(f"/proc/{pid}/status", "rb") as f:
                status = f.read()
        except (FileNotFoundError, ProcessLookupError):
            return True
        pending = _mask(status, b"SigPnd") | _mask(status, b"ShdPnd")
        return bool(flags & PF_EXITING or pending >> (SIGKILL - 1) & 1)

    def start_time(self, pid: int) -> int:
        """Field 22 of /proc/<pid>/stat, 0 when absent."""
        return proc.start_time(pid)

    async def wait_gone(self, pid: int, start_time: int, timeout: float | None) -> bool:
        """Wait until a process has ended; False when the time passed first."""
        fd = self._open(pid, start_time)
        if fd is None:
            return True
        with fd:
            try:
                await asyncio.wait_for(readable(fd.fileno()), timeout)
            except (asyncio.TimeoutError, TimeoutError):
                return not self.alive(pid, start_time)
        return True

    def kill(self, pid: int, start_time: int, signal: int) -> bool:
        """Signal exactly that process (``start_time`` 0: whoever has the pid); False when it is gone."""
        fd = self._open(pid, start_time)
        if fd is None:
            return False
        with fd:
            try:
                proc.send_signal(fd.fileno(), signal)
            except ProcessLookupError:
                return False
            except OSError as e:
                if e.errno == 3:  # ESRCH by way of NativeError
                    return False
                raise
        return True

    def _open(self, pid: int, start_time: int) -> Fd | None:
        """A pidfd of exactly that process."""
        fd = proc.open_process(pid, start_time or proc.start_time(pid)) if pid > 0 else None
        return None if fd is None else Fd(fd)

    def ulimits(self) -> Mapping[str, tuple[int, int]]:
        """The daemon's own rlimits; unlimited is 2^64-1, as the OCI config writes it."""
        return _ulimits()

    def oom_score_adj(self) -> int:
        """The daemon's own oom_score_adj."""
        with open("/proc/self/oom_score_adj", "rb") as f:
            return int(f.read())

    def may_raise_limits(self) -> bool:
        """True with CAP_SYS_RESOURCE in the effective set."""
        return bool(_effective() & (1 << CAP_SYS_RESOURCE))

    async def usage(self, pids: Sequence[int]) -> ProcessUsage:
        """Threads and open files of processes; those that are gone count nothing."""
        return await offload("proc", _usage, tuple(pids))


def _usage(pids: Sequence[int]) -> ProcessUsage:
    threads = descriptors = sockets = 0
    limit: int | None = None
    for number, pid in enumerate(pids):
        if number == 0:
            limit = _open_files_limit(pid)
        try:
            # The directory's link count is the number of threads and two more (man 5 proc, /proc/pid/task).
            threads += os.stat(f"/proc/{pid}/task").st_nlink - 2
            names = os.listdir(f"/proc/{pid}/fd")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone, or not ours to look into
        descriptors += len(names)
        for name in names:
            try:
                sockets += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
            except OSError:
                continue  # closed since
    return ProcessUsage(threads, descriptors, sockets, limit)


def _open_files_limit(pid: int) -> int | None:
    """The soft limit; None for none (``unlimited``) and for a process that is gone."""
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as f:
            line = next((line for line in f if line.startswith("Max open files")), "")
    except OSError:
        return None
    words = line.removeprefix("Max open files").split()
    return int(words[0]) if words and words[0].isdigit() else None


@functools.cache
def _effective() -> int:
    with open("/proc/self/status", "rb") as f:
        return _mask(f.read(), b"CapEff")


@functools.cache
def _ulimits() -> Mapping[str, tuple[int, int]]:
    out = {}
    for name in _LIMITS:
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            soft, hard = resource.getrlimit(number)
            top = (1 << 64) - 1
            out[f"RLIMIT_{name}"] = (top if soft < 0 else soft, top if hard < 0 else hard)
    return out


def _mask(status: bytes, name: bytes) -> int:
    """A set of signals or capabilities in /proc/<pid>/status (proc(5))."""
    return int(status.partition(b"\n" + name + b":")[2].split(None, 1)[0], 16)
