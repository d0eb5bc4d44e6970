"""Readings of one control group, v1 and v2 (Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from pycrio.drivers.cgroups.tree import Tree
from pycrio.model.stats import (
    CgroupStats,
    CpuUsage,
    DiskIo,
    HugepageUsage,
    MemoryUsage,
    Pressure,
    PressureData,
)

UNLIMITED = 1 << 62
INNER = "container"
"""crun's group for the processes, below the scope that it had systemd make; the limits are there as well."""
TICK = 10**9 // os.sysconf("SC_CLK_TCK")


def read_stats(tree: Tree, directory: str) -> CgroupStats | None:
    """Everything in one go; None when the group is gone."""
    probe = tree.path("memory", directory) or tree.path("cpu", directory)
    if probe is None or not os.path.isdir(probe):
        return None
    at = time.time_ns()
    if tree.unified:
        path = tree.path("", directory) or ""
        return CgroupStats(
            timestamp=at,
            cpu=_cpu2(path),
            memory=_memory2(path),
            pids=_number(path, "pids.current"),
            pids_limit=_limit2(path, "pids.max"),
            io=_io2(path),
            io_pressure=_pressure(path, "io.pressure"),
            hugepages=_hugepages(path, "current", "max"),
        )
    pids = tree.path("pids", directory) or ""
    return CgroupStats(
        timestamp=at,
        cpu=_cpu1(tree.path("cpuacct", directory) or "", tree.path("cpu", directory) or ""),
        memory=_memory1(tree.path("memory", directory) or ""),
        pids=_number(pids, "pids.current"),
        pids_limit=_limit(pids, "pids.max"),
        io=_io1(tree.path("blkio", directory) or ""),
        hugepages=_hugepages(tree.path("hugetlb", directory) or "", "usage_in_bytes", "max_usage_in_bytes"),
    )


def _text(path: str, name: str) -> str | None:
    if not path:
        return None  # a controller that is not there
    try:
        with open(os.path.join(path, name), encoding="ascii") as f:
            return f.read()
    except OSError:  # absent, or the group is just going: no reading
        return None


def _number(path: str, name: str) -> int | None:
    text = (_text(path, name) or "").strip()  # of more than int() takes for blanks
    return int(text) if text.isdigit() else None


def _limit(path: str, name: str) -> int | None:
    value = _number(path, name)
    return None if value is None or value >= UNLIMITED else value


def _limit2(path: str, name: str) -> int | None:
    """A limit of the group itself, else of the group inside."""
    own = _limit(path, name)
    return own if own is not None else _limit(os.path.join(path, INNER), name)


def _pairs(path: str, name: str) -> dict[str, int]:
    out = {}
    for line in (_text(path, name) or "").splitlines():
        key, _, value = line.partition(" ")
        if (digits := value.strip()).isdigit():
            out[key] = int(digits)
    return out


def _cpu2(path: str) -> CpuUsage | None:
    stat = _pairs(path, "cpu.stat")
    if "usage_usec" not in stat:
        return None
    if not stat.get("nr_periods"):  # throttling counts where the quota is, all else adds up
        inside = _pairs(os.path.join(path, INNER), "cpu.stat")
        stat |= {key: inside[key] for key in ("nr_periods", "nr_throttled", "throttled_usec") if key in inside}
    return CpuUsage(
        total=stat["usage_usec"] * 1000,
        user=stat.get("user_usec", 0) * 1000,
        system=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_time=stat.get("throttled_usec", 0) * 1000,
        pressure=_pressure(path, "cpu.pressure"),
    )


def _cpu1(acct: str, cpu: str) -> CpuUsage | None:
    total = _number(acct, "cpuacct.usage")
    if total is None:
        return None
    stat, throttle = _pairs(acct, "cpuacct.stat"), _pairs(cpu, "cpu.stat")
    per_cpu = tuple(int(w) for w in (_text(acct, "cpuacct.usage_percpu") or "").split())
    return CpuUsage(
        total=total,
        user=stat.get("user", 0) * TICK,
        system=stat.get("system", 0) * TICK,
        periods=throttle.get("nr_periods", 0),
        throttled_periods=throttle.get("nr_throttled", 0),
        throttled_time=throttle.get("throttled_time", 0),
        per_cpu=per_cpu,
    )


def _memory2(path: str) -> MemoryUsage | None:
    usage = _number(path, "memory.current")
    if usage is None:
        return None
    stat, events = _pairs(path, "memory.stat"), _pairs(path, "memory.events")
    return MemoryUsage(
        usage=usage,
        working_set=max(0, usage - stat.get("inactive_file", 0)),
        rss=stat.get("anon", 0),
        cache=stat.get("file", 0),
        kernel=stat.get("kernel", stat.get("kernel_stack", 0) + stat.get("slab", 0)),
        mapped_file=stat.get("file_mapped", 0),
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
        limit=_limit2(path, "memory.max"),
        max_usage=_number(path, "memory.peak") or 0,
        failcnt=events.get("max", 0),
        swap_usage=_number(path, "memory.swap.current"),
        swap_limit=_limit2(path, "memory.swap.max"),
        oom_kills=events.get("oom_kill", 0),
        pressure=_pressure(path, "memory.pressure"),
    )


def _memory1(path: str) -> MemoryUsage | None:
    usage = _number(path, "memory.usage_in_bytes")
    if usage is None:
        return None
    stat = _pairs(path, "memory.stat")
    limit = _limit(path, "memory.limit_in_bytes")
    both, both_limit = _number(path, "memory.memsw.usage_in_bytes"), _limit(path, "memory.memsw.limit_in_bytes")
    return MemoryUsage(
        usage=usage,
        working_set=max(0, usage - stat.get("total_inactive_file", 0)),
        rss=stat.get("total_rss", 0),
        cache=stat.get("total_cache", 0),
        kernel=_number(path, "memory.kmem.usage_in_bytes") or 0,
        mapped_file=stat.get("total_mapped_file", stat.get("mapped_file", 0)),
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
        limit=limit,
        max_usage=_number(path, "memory.max_usage_in_bytes") or 0,
        failcnt=_number(path, "memory.failcnt") or 0,
        swap_usage=None if both is None else max(0, both - usage),
        swap_limit=None if both_limit is None or limit is None else max(0, both_limit - limit),
        oom_kills=_pairs(path, "memory.oom_control").get("oom_kill", 0),
    )


def _pressure(path: str, name: str) -> Pressure | None:
    lines: dict[str, PressureData] = {}
    for line in (_text(path, name) or "").splitlines():
        kind, _, rest = line.partition(" ")
        fields = dict(item.partition("=")[::2] for item in rest.split())
        try:
            lines[kind] = PressureData(
                total=int(fields["total"]) * 1000,
                avg10=float(fields["avg10"]),
                avg60=float(fields["avg60"]),
                avg300=float(fields["avg300"]),
            )
        except (KeyError, ValueError):
            continue
    return Pressure(lines.get("some"), lines.get("full")) if lines else None


def _io2(path: str) -> tuple[DiskIo, ...]:
    out = []
    for line in (_text(path, "io.stat") or "").splitlines():
        device, _, rest = line.partition(" ")
        major, colon, minor = device.partition(":")
        if not (colon and major.isdigit() and minor.isdigit()):
            continue
        f = {k: int(v) for k, _, v in (item.partition("=") for item in rest.split()) if v.isdigit()}
        values = [f.get(key, 0) for key in ("rios", "rbytes", "wios", "wbytes", "dios", "dbytes")]
        out.append(DiskIo(int(major), int(minor), *values))
    return tuple(out)


def _io1(path: str) -> tuple[DiskIo, ...]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for name, suffix in (("blkio.throttle.io_service_bytes", "bytes"), ("blkio.throttle.io_serviced", "count")):
        # What children did counts as well: a container may have groups of its own.
        for line in (_text(path, f"{name}_recursive") or _text(path, name) or "").splitlines():
            words = line.split()
            major, _, minor = words[0].partition(":") if words else ("", "", "")
            if len(words) == 3 and major.isdigit() and minor.isdigit() and words[2].isdigit():
                found.setdefault((int(major), int(minor)), {})[words[1].lower() + suffix] = int(words[2])
    keys = ("readcount", "readbytes", "writecount", "writebytes", "discardcount", "discardbytes")
    return tuple(DiskIo(*device, *(v.get(k, 0) for k in keys)) for device, v in sorted(found.items()))


def _hugepages(path: str, usage: str, peak: str) -> tuple[HugepageUsage, ...]:
    sizes = _sizes(path, usage)

    def read(name: str) -> int:
        return _number(path, name) or 0

    return tuple(
        HugepageUsage(size, read(f"hugetlb.{size}.{usage}"), 0 if peak == "max" else read(f"hugetlb.{size}.{peak}"))
        for size in sizes
    )


def _sizes(path: str, usage: str) -> Iterable[str]:
    try:
        names = os.listdir(path) if path else []
    except OSError:
        return ()
    suffix = f".{usage}"
    return sorted(
        n.removeprefix("hugetlb.").removesuffix(suffix)
        for n in names
        if n.startswith("hugetlb.") and n.endswith(suffix) and ".rsvd" not in n
    )
