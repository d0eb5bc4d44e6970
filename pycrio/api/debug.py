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

_TOP = 100


def stacks() -> str:
    """Stacks of every task of the running loop (if there is one) and of every thread."""
    text = io.StringIO()
    try:
        tasks = sorted(asyncio.all_tasks(), key=lambda t: t.get_name())
    except RuntimeError:
        tasks = []
    for task in tasks:
        text.write(f"task {task.get_name()}:\n")
        task.print_stack(file=text)
        text.write("\n")
    names = {t.ident: t.name for t in threading.enumerate()}
    for ident, frame in sorted(sys._current_frames().items()):
        text.write(f"thread {names.get(ident, '?')} ({ident}):\n")
        text.writelines(traceback.format_stack(frame))
        text.write("\n")
    return text.getvalue()


def heap() -> str:
    """Objects that the collector knows, by type; with tracemalloc running, also where memory was allocated."""
    counts = collections.Counter(type(o).__qualname__ for o in gc.get_objects())
    lines = [f"collected generations: {gc.get_count()}", f"objects known to the collector: {counts.total()}", ""]
    lines += [f"{count:>10} {name}" for name, count in counts.most_common(_TOP)]
    if tracemalloc.is_tracing():
        current, peak = tracemalloc.get_traced_memory()
        lines += ["", f"traced bytes: {current} now, {peak} at most", ""]
        lines += [str(s) for s in tracemalloc.take_snapshot().statistics("lineno")[:_TOP]]
    return "\n".join(lines) + "\n"
