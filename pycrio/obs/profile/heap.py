"""What memory is held by: places that allocated it (tracemalloc), or, where nobody has counted, types of objects."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

from pycrio.obs.profile.pprof import Frame, Kind, Profile, Stack

FRAMES = 3
"""Calls that are remembered of each allocation. Each costs: with 1, 6 and 12 of them the daemon's imports, which take a
second, took 3, 12 and 20."""
_KINDS = (Kind("inuse_objects", "count"), Kind("inuse_space", "bytes"))


def start() -> bool:
    """Count allocations from now on; False when that is done already. Costs memory and time with each allocation."""
    if tracemalloc.is_tracing():
        return False
    tracemalloc.start(FRAMES)
    return True


def stop() -> None:
    """Count no more and forget."""
    tracemalloc.stop()


def counting() -> bool:
    """Whether allocations are counted."""
    return tracemalloc.is_tracing()


def snapshot() -> tracemalloc.Snapshot:
    """What is held now of what was allocated since ``start``."""
    return tracemalloc.take_snapshot()


def places(now: tracemalloc.Snapshot, before: tracemalloc.Snapshot | None = None) -> Profile:
    """What is held by the places that allocated it; with ``before`` what has been added since then."""
    statistics: Iterable[Any] = now.statistics("traceback")
    if before is not None:
        statistics = now.compare_to(before, "traceback")
    samples: dict[Stack, tuple[int, ...]] = {}
    for found in statistics:
        values = (found.count, found.size) if before is None else (found.count_diff, found.size_diff)
        # tracemalloc knows files and lines, not functions; what it holds itself is no news.
        stack = tuple(Frame(_short(f.filename), f.filename, f.lineno) for f in reversed(found.traceback))
        if values[1] > 0 and stack[0].file != tracemalloc.__file__:
            samples[stack] = values
    return _profile(samples)


def objects() -> list[object]:
    """Everything that the collector knows, after a collection; also what start-up has frozen, which it leaves out."""
    gc.collect()
    if not gc.get_freeze_count():
        return gc.get_objects()
    gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        gc.freeze()


def types_held() -> Profile:
    """Objects that the collector knows, by type, with their own sizes (not those of what they refer to)."""
    found: dict[type, list[int]] = {}
    for thing in objects():
        entry = found.setdefault(type(thing), [0, 0])
        entry[0] += 1
        entry[1] += sys.getsizeof(thing, 0)
    samples: dict[Stack, tuple[int, ...]] = {}
    for kind, (count, size) in found.items():
        stack = (Frame(f"{kind.__module__}.{kind.__qualname__}"),)
        before = samples.get(stack, (0, 0))
        samples[stack] = (before[0] + count, before[1] + size)
    return _profile(samples)


def _profile(samples: dict[Stack, tuple[int, ...]]) -> Profile:
    return Profile(kinds=_KINDS, samples=samples, at=time.time_ns(), period_kind=Kind("space", "bytes"), period=1)


def _short(path: str) -> str:
    """The last two parts of a path stand for the function."""
    return "/".join(path.split("/")[-2:])
