"""CPU use per second from one reading to the next."""

from __future__ import annotations

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

    def __init__(self) -> None:
        self._last: dict[str, Sample] = {}

    def take(self, key: str, stats: CgroupStats | None) -> int | None:
        """Nano cores since the last sample; None for the first one. Samples closer than 100 ms repeat the last rate."""
        if stats is None or stats.cpu is None:
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

    def keep(self, keys: set[str]) -> None:
        """Forget what is gone."""
        for key in self._last.keys() - keys:
            del self._last[key]
