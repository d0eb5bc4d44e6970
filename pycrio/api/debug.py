"""What the daemon is doing and what it holds, as text for people: for the debug pages and for SIGUSR1."""

from __future__ import annotations

import asyncio
import collections
import gc
import io
import sys
import threading
import traceback
import tracemalloc
import types
from collections.abc import Iterable

_TOP = 100
_DEEPEST = 200


def stacks() -> str:
    """Stacks of every task of the running loop (if there is one) and of every thread."""
    text = io.StringIO()
    for task in tasks():
        text.write(f"task {task.get_name()}:\n{_format(awaiting(task.get_coro()))}\n")
    names = {t.ident: t.name for t in threading.enumerate()}
    for ident, frame in sorted(sys._current_frames().items()):
        calls = reversed(list(callers(frame)))
        text.write(f"thread {names.get(ident, '?')} ({ident}):\n{_format(calls)}\n")
    return text.getvalue()


def tasks() -> list[asyncio.Task[object]]:
    """Those of the running loop, if there is one, by name."""
    try:
        return sorted(asyncio.all_tasks(), key=lambda t: t.get_name())
    except RuntimeError:
        return []


def callers(frame: types.FrameType | None) -> Iterable[types.FrameType]:
    """A frame and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def awaiting(awaited: object) -> list[types.FrameType]:
    """Frames from a task's coroutine down to what it waits for at last; compiled coroutines have none."""
    frames: list[types.FrameType] = []
    while awaited is not None and len(frames) < _DEEPEST:
        for kind in ("cr", "gi", "ag"):
            if hasattr(awaited, f"{kind}_code"):
                frame = getattr(awaited, f"{kind}_frame")
                frames += [frame] if frame is not None else []
                awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            break
    return frames


def _format(frames: Iterable[types.FrameType]) -> str:
    """As tracebacks are written."""
    # A frame that is just being entered, or compiled, has no line: its first one will do.
    places = [(f.f_code.co_filename, f.f_lineno or f.f_code.co_firstlineno, f.f_code.co_name, None) for f in frames]
    return "".join(traceback.StackSummary.from_list(places).format())


def heap() -> str:
    """Objects that the collector knows, by type; with tracemalloc running, also where memory was allocated."""
    from pycrio.obs.profile.heap import objects  # late: rarely wanted

    counts = collections.Counter(type(o).__qualname__ for o in objects())
    lines = [f"collected generations: {gc.get_count()}", f"objects known to the collector: {counts.total()}", ""]
    lines += [f"{count:>10} {name}" for name, count in counts.most_common(_TOP)]
    if tracemalloc.is_tracing():
        current, peak = tracemalloc.get_traced_memory()
        lines += ["", f"traced bytes: {current} now, {peak} at most", ""]
        lines += [str(s) for s in tracemalloc.take_snapshot().statistics("lineno")[:_TOP]]
    return "\n".join(lines) + "\n"
