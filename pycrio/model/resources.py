"""Limits of a pod or container."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HugepageLimit:
    """Limit in bytes for one page size, written as the CRI does (``2MB``, ``1GB``)."""

    page_size: str
    limit: int


@dataclass(frozen=True, slots=True)
class Resources:
    """CRI LinuxContainerResources. 0 and "" mean "not given"; periods and quotas in microseconds, sizes in bytes."""

    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    memory_limit: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepages: tuple[HugepageLimit, ...] = ()
    unified: dict[str, str] = field(default_factory=dict)
    memory_swap_limit: int = 0
