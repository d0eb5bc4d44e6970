"""Quantiles of a stream over a sliding window, in bounded memory and constant time per value.

prometheus_client's Summary has none. Values fall into buckets whose borders grow by one percent, so that an answer is
within half a percent of the true quantile's value whatever the distribution; the window consists of five parts, of
which the oldest is dropped, as in Go's client (10 minutes there and here). Only the newest part changes: the others are
packed, or the two dozen streams of a busy daemon would take three megabytes.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable

_GROWTH = math.log(1.01)
_HALF = 2 / (1 + 1.01)  # from a bucket's upper border to the value with the least relative error
_PARTS = 5
_TINY = 1e-9


class Quantiles:
    """Streaming collector of positive numbers. ``count`` and ``total`` are of all time, quantiles of the window."""

    __slots__ = ("_clock", "_older", "_part", "_span", "_start", "count", "total")

    def __init__(self, window: float = 600.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self.total = 0.0
        self._clock = clock
        self._span = window / _PARTS
        self._start = clock()
        self._part: dict[int, int] = {}  # bucket and number
        self._older: deque[tuple[array[int], array[int]]] = deque(maxlen=_PARTS - 1)  # the same, packed

    def add(self, value: float) -> None:
        """Record a value."""
        self._turn()
        self.count += 1
        self.total += value
        part = self._part
        bucket = math.ceil(math.log(value) / _GROWTH) if value > _TINY else -(1 << 30)
        part[bucket] = part.get(bucket, 0) + 1

    def at(self, quantiles: Iterable[float]) -> list[float]:
        """Values at the quantiles (0 to 1) of the last window; NaN when it has none."""
        self._turn()
        merged = self._part.copy()
        for buckets, numbers in tuple(self._older):
            for bucket, number in zip(buckets, numbers, strict=True):
                merged[bucket] = merged.get(bucket, 0) + number
        ordered = sorted(merged)
        number = sum(merged.values())
        return [self._find(merged, ordered, quantile * number) if number else math.nan for quantile in quantiles]

    @staticmethod
    def _find(merged: dict[int, int], ordered: list[int], rank: float) -> float:
        seen = 0
        for bucket in ordered:
            seen += merged[bucket]
            if seen >= rank:
                break
        return math.exp(bucket * _GROWTH) * _HALF if bucket > -(1 << 30) else 0.0

    def _turn(self) -> None:
        passed = int((self._clock() - self._start) / self._span)
        if passed > 0:
            self._start += passed * self._span
            ended, self._part = self._part, {}  # first: a pause of the garbage collector is recorded at any moment
            self._older.append((array("i", ended), array("Q", ended.values())))
            self._older.extend((array("i"), array("Q")) for _ in range(min(passed, _PARTS) - 1))
