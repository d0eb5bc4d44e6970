"""CPU use per second from one reading to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pycrio.model.stats import CgroupStats


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU time of a cgroup at a time, both in ns; ``nano_cores`` between this sample and the one before."""

    at: int
    total: int
    nano_cores: int | None = None


class Rates:
    """CPU use per second, from one sample to the next."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        """``known``: whether a key's owner still exists. A reading may end after its owner went."""
        self._known = known
        self._last: dict[str, Sample] = {}

    def take(self, key: str, stats: CgroupStats | None) -> int | None:
        """Nano cores since the last sample; None for the first one. Samples closer than 100 ms repeat the last rate."""
        if stats is None or stats.cpu is None:
            return None
        if not self._known(key):
            return None
        old = self._last.get(key)
        if old is None:
            self._last[key] = Sample(stats.timestamp, stats.cpu.total)
            return None
        elapsed = stats.timestamp - old.at
        if elapsed < 100_000_000:
            return old.nano_cores
        rate = max(0, stats.cpu.total - old.total) * 10**9 // elapsed
        self._last[key] = Sample(stats.timestamp, stats.cpu.total, rate)
        return rate

    def forget(self, key: str) -> None:
        """Drop the samples of what is gone."""
        self._last.pop(key, None)
