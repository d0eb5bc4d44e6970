"""Where CPU time goes: the stacks of the process's threads, sampled by a timer that runs while the process does.

``ITIMER_PROF`` (setitimer(2)) raises SIGPROF after so much CPU time of all threads together. An idle daemon is never
interrupted, and a stack is met in proportion to the time that it costs, not to the time that it waits. The handler runs
in the main thread, so in the middle of what the event loop does. It gives each thread's stack the CPU time that this
thread has used since the last sample (clock_gettime(2) on the thread's clock), which also covers native threads: they
have no stack in Python and stand under their names. What runs without the GIL in a Python thread stands under the line
that called it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from typing import Any

from pycrio.errors import Busy
from pycrio.obs.profile.pprof import Frame, Kind, Profile, Stack

PERIOD = 10_000_000
"""Nanoseconds of CPU time between samples: 100 a second of work, as in Go."""
MAX_STACKS = 20_000
MAX_DEPTH = 200
_Key = tuple[Any, ...]
_ELSEWHERE: _Key = ("(stacks beyond the limit)",)
_TASKS = "/proc/self/task"


class CpuProfiler:
    """One run: ``start``, then ``stop`` for the profile. Both in the main thread; one at a time per process."""

    _running: CpuProfiler | None = None

    def __init__(self) -> None:
        self._at = 0
        self._began = 0
        self._used: dict[int, int] = {}
        self._found: dict[_Key, list[int]] = {}
        # By identity, which is kept alive here: the hash of a code object goes over all of it.
        self._code: dict[int, tuple[types.CodeType, str]] = {}
        self._names: dict[int, str] = {}
        self._busy = False

    def start(self) -> None:
        """Begin. Busy when a profile is being taken already."""
        if CpuProfiler._running is not None:
            raise Busy("CPU profiling is already in use: try again when the running profile has ended")
        CpuProfiler._running = self
        self._at, self._began = time.time_ns(), time.perf_counter_ns()
        self._used = {tid: used for tid in _threads() if (used := _cpu_time(tid)) >= 0}
        signal.signal(signal.SIGPROF, _interrupted)
        signal.siginterrupt(signal.SIGPROF, False)  # other threads' system calls go on by themselves
        signal.setitimer(signal.ITIMER_PROF, PERIOD / 1e9, PERIOD / 1e9)

    def stop(self) -> Profile:
        """End and give what was found."""
        # The handler stays: a signal may still be on its way, and its default action would end the process.
        signal.setitimer(signal.ITIMER_PROF, 0)
        CpuProfiler._running = None
        samples: dict[Stack, tuple[int, ...]] = {}
        for key, (count, used) in self._found.items():
            stack = tuple(self._frame(part) for part in key)
            before = samples.get(stack, (0, 0))
            samples[stack] = (before[0] + count, before[1] + used)
        return Profile(
            kinds=(Kind("samples", "count"), Kind("cpu", "nanoseconds")),
            samples=samples,
            at=self._at,
            duration=time.perf_counter_ns() - self._began,
            period_kind=Kind("cpu", "nanoseconds"),
            period=PERIOD,
        )

    def sample(self, frame: types.FrameType | None) -> None:
        """Divide what was used since the last sample; ``frame`` is where the main thread was interrupted."""
        if self._busy:  # interrupted itself: that time counts for the next sample
            return
        self._busy = True
        try:
            self._divide(frame)
        finally:
            self._busy = False

    def _divide(self, frame: types.FrameType | None) -> None:
        # Not enumerate(): its lock may be held by what was interrupted here. The copy is atomic under the GIL.
        known = list(getattr(threading, "_active").values())  # noqa: B009
        idents = {thread.native_id: thread.ident for thread in known}
        frames = sys._current_frames()
        main = threading.main_thread().ident
        for tid in _threads():
            now, before = _cpu_time(tid), self._used.get(tid, 0)
            self._used[tid] = now
            used = now - before if now >= before else now  # less than before: a new thread with an old number
            if used <= 0:
                continue
            ident = idents.get(tid)
            at = frame if ident == main else frames.get(ident or 0)
            self._add(self._key(at) if at is not None else (self._name(tid),), used)

    def _key(self, frame: types.FrameType) -> _Key:
        parts: list[tuple[int, int]] = []
        at: types.FrameType | None = frame
        while at is not None and len(parts) < MAX_DEPTH:
            code = at.f_code
            if id(code) not in self._code:
                self._code[id(code)] = (code, str(at.f_globals.get("__name__", "")))
            parts.append((id(code), at.f_lineno or code.co_firstlineno))
            at = at.f_back
        return tuple(parts)

    def _add(self, key: _Key, used: int) -> None:
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= MAX_STACKS:
                key = _ELSEWHERE
            found = self._found.setdefault(key, [0, 0])
        found[0] += 1
        found[1] += used

    def _name(self, tid: int) -> str:
        if tid not in self._names:
            self._names[tid] = f"[{_name(tid) or 'ended thread'}]"
        return self._names[tid]

    def _frame(self, part: Any) -> Frame:
        if isinstance(part, str):
            return Frame(part)
        ident, line = part
        code, module = self._code[ident]
        return frame_of(code, line, module)


def _interrupted(number: int, frame: types.FrameType | None) -> None:
    """The handler of SIGPROF."""
    running = CpuProfiler._running
    # A signal may come as this very function is entered for one before: the time was used by whom that interrupted.
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if running is not None:
        running.sample(frame)


def frame_of(code: types.CodeType, line: int, module: str) -> Frame:
    """A place in Python code, with its module before the function's name."""
    name = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
    return Frame(f"{module}.{name}" if module else name, code.co_filename, line)


def thread_names() -> list[str]:
    """Names of all threads of the process, native ones among them."""
    return [name for tid in _threads() if (name := _name(tid))]


def _name(tid: int) -> str:
    """A thread's name as the kernel knows it, "" when it has ended."""
    try:
        with open(f"{_TASKS}/{tid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""


def _threads() -> list[int]:
    return [int(name) for name in os.listdir(_TASKS)]


def _cpu_time(tid: int) -> int:
    """CPU time of a thread in nanoseconds, -1 when it has ended."""
    try:
        # The clock's number as the kernel makes it from a thread's (posix-timers.h: CPUCLOCK_PERTHREAD, _SCHED). Other
        # than pthread_getcpuclockid(3) it is safe for a thread that ends meanwhile.
        return time.clock_gettime_ns((~tid << 3) | 6)
    except OSError:
        return -1
