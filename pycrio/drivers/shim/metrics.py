"""A shim's readings (cgroup v1 or v2, of the host or of a guest) in our terms."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from pycrio.drivers.shim import names
from pycrio.drivers.shim._pb import metrics1_pb2 as v1
from pycrio.drivers.shim._pb import metrics2_pb2 as v2
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


def decode(stats: AnyMessage) -> CgroupStats | None:
    """The readings; None for a kind that we do not know. DecodeError when malformed."""
    version = names.METRICS.get(stats.type_url.rpartition("/")[2])
    if version == 1:
        return _decode1(v1.Metrics.FromString(stats.value))
    return _decode2(v2.Metrics.FromString(stats.value)) if version == 2 else None


def _limit(value: int) -> int | None:
    return value if 0 < value < UNLIMITED else None


def _decode1(m: v1.Metrics) -> CgroupStats:
    usage, throttling = m.cpu.usage, m.cpu.throttling
    disks: defaultdict[tuple[int, int], dict[str, int]] = defaultdict(dict)
    for entries, names_of in (
        (m.blkio.io_service_bytes_recursive, ("read_bytes", "write_bytes", "discard_bytes")),
        (m.blkio.io_serviced_recursive, ("reads", "writes", "discards")),
    ):
        for entry in entries:
            name = dict(zip(("read", "write", "discard"), names_of, strict=True)).get(entry.op.lower())
            if name is not None:
                disks[entry.major, entry.minor][name] = entry.value
    return CgroupStats(
        timestamp=time.time_ns(),
        cpu=CpuUsage(
            total=usage.total,
            user=usage.user,
            system=usage.kernel,
            periods=throttling.periods,
            throttled_periods=throttling.throttled_periods,
            throttled_time=throttling.throttled_time,
            per_cpu=tuple(usage.per_cpu),
        )
        if m.HasField("cpu")
        else None,
        memory=_memory1(m) if m.HasField("memory") else None,
        pids=m.pids.current if m.HasField("pids") else None,
        pids_limit=_limit(m.pids.limit),
        io=tuple(DiskIo(major, minor, **found) for (major, minor), found in sorted(disks.items())),
        hugepages=tuple(HugepageUsage(h.pagesize, h.usage, h.max) for h in m.hugetlb),
    )


def _memory1(m: v1.Metrics) -> MemoryUsage:
    own, both = m.memory, m.memory.swap
    limit = _limit(own.usage.limit)
    swap_limit = _limit(both.limit)
    return MemoryUsage(
        usage=own.usage.usage,
        working_set=max(0, own.usage.usage - own.total_inactive_file),
        rss=own.total_rss,
        cache=own.total_cache,
        kernel=own.kernel.usage,
        mapped_file=own.total_mapped_file,
        page_faults=own.total_pg_fault,
        major_page_faults=own.total_pg_maj_fault,
        limit=limit,
        max_usage=own.usage.max,
        failcnt=own.usage.failcnt,
        swap_usage=max(0, both.usage - own.usage.usage) if own.HasField("swap") else None,
        swap_limit=max(0, swap_limit - limit) if swap_limit is not None and limit is not None else None,
        oom_kills=m.memory_oom_control.oom_kill,
    )


def _pressure(psi: Any) -> Pressure | None:
    def data(line: Any) -> PressureData:
        return PressureData(line.total * 1000, line.avg10, line.avg60, line.avg300)

    if not psi.HasField("some") and not psi.HasField("full"):
        return None
    return Pressure(*(data(getattr(psi, name)) if psi.HasField(name) else None for name in ("some", "full")))


def _decode2(m: v2.Metrics) -> CgroupStats:
    cpu, memory = m.cpu, m.memory
    return CgroupStats(
        timestamp=time.time_ns(),
        cpu=CpuUsage(
            total=cpu.usage_usec * 1000,
            user=cpu.user_usec * 1000,
            system=cpu.system_usec * 1000,
            periods=cpu.nr_periods,
            throttled_periods=cpu.nr_throttled,
            throttled_time=cpu.throttled_usec * 1000,
            pressure=_pressure(cpu.psi),
        )
        if m.HasField("cpu")
        else None,
        memory=MemoryUsage(
            usage=memory.usage,
            working_set=max(0, memory.usage - memory.inactive_file),
            rss=memory.anon,
            cache=memory.file,
            kernel=memory.kernel_stack + memory.slab,
            mapped_file=memory.file_mapped,
            page_faults=memory.pgfault,
            major_page_faults=memory.pgmajfault,
            limit=_limit(memory.usage_limit),
            max_usage=memory.max_usage,
            failcnt=m.memory_events.max,
            swap_usage=memory.swap_usage,
            swap_limit=_limit(memory.swap_limit),
            oom_kills=m.memory_events.oom_kill,
            pressure=_pressure(memory.psi),
        )
        if m.HasField("memory")
        else None,
        pids=m.pids.current if m.HasField("pids") else None,
        pids_limit=_limit(m.pids.limit),
        io=tuple(
            DiskIo(e.major, e.minor, reads=e.rios, read_bytes=e.rbytes, writes=e.wios, write_bytes=e.wbytes)
            for e in m.io.usage
        ),
        io_pressure=_pressure(m.io.psi),
        hugepages=tuple(HugepageUsage(h.pagesize, h.current, h.max) for h in m.hugetlb),
    )
