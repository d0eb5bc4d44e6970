"""Processes of the host by pid and start time: a pair that is never reused while the machine runs."""

from __future__ import annotations

import asyncio
import functools
import resource
from collections.abc import Mapping

from pycrio._native import proc
from pycrio._native.base import Fd
from pycrio._native.run import readable

CAP_SYS_RESOURCE = 24
_LIMITS = (
    *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE"),
    *("NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
)


class Processes:
    """See ``flows.ports.Processes``."""

    def alive(self, pid: int, start_time: int) -> bool:
        """False for zombies, for reused pids and for absent ones."""
        return pid > 0 and proc.alive(pid, start_time)

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


@functools.cache
def _effective() -> int:
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1], 16) for line in f if line.startswith("CapEff:"))


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
