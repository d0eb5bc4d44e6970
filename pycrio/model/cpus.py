"""CPUs that a container has for itself, and what it asks of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_MOST = 1 << 16


def parse_cpus(text: str) -> frozenset[int]:
    """The CPUs of a list such as ``0-3,8`` (man 7 cpuset, formats); ValueError when it is none."""
    found: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is not a CPU list such as 0-3,8")
        low, high = int(first), int(last or first)
        if high < low or high >= _MOST:
            raise ValueError(f"{text!r} has the range {part!r}, which no machine has")
        found.update(range(low, high + 1))
    return frozenset(found)


def format_cpus(cpus: Iterable[int]) -> str:
    """The shortest list for a set of CPUs; "" for none."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass(frozen=True, slots=True)
class CpuTuning:
    """What a container wants of its CPUs. CPU lists are written as in ``0-3,8``, "" is none.

    ``cpus`` are its own ones, ``shared`` those that it has with others besides; ``period`` is its CFS period in µs.
    ``isolated``: the scheduler balances no load onto them. ``unlimited``: no CFS quota. ``quiet`` are those that no
    interrupt shall reach. ``latency`` goes to ``pm_qos_resume_latency_us`` of each ("n/a": no idle states),
    ``governor`` to its ``scaling_governor``; "" leaves them alone.
    """

    cpus: str
    shared: str = ""
    period: int = 0
    isolated: bool = False
    unlimited: bool = False
    quiet: str = ""
    latency: str = ""
    governor: str = ""
