"""The CRI's pod metrics, one row each: name, group, kind, labels, and how its values follow from a reading.

Names, groups, labels and kinds are those that CRI-O serves and dashboards expect; every value is a whole number, so
fractions of seconds are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pycrio.model.container import ContainerRecord
from pycrio.model.stats import (
    CgroupStats,
    CpuUsage,
    FsSpace,
    FsUsage,
    InterfaceStats,
    MemoryUsage,
    Pressure,
    ProcessUsage,
)

BASE_LABELS = ("id", "image", "namespace", "pod", "container")
ALWAYS = ""
SECOND = 10**9
UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Reading:
    """What one container was found to use; a part that no wanted group needs, or that the host lacks, is None."""

    record: ContainerRecord
    at: int
    cgroup: CgroupStats | None = None
    layer: FsUsage | None = None
    space: FsSpace | None = None
    processes: ProcessUsage | None = None


Values = Iterable[tuple[tuple[str, ...], int]]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. ``labels`` come after the base labels; ``values`` gives their values and the metric's."""

    name: str
    group: str
    counter: bool
    help: str
    values: Callable[[Reading], Values]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One metric of a network interface, read for the pod as a whole."""

    name: str
    help: str
    value: Callable[[InterfaceStats], int]


def _row(name: str, group: str, help: str, value: Callable[[Reading], int | None], counter: bool = False) -> Row:
    """A metric with one value; None: no sample."""

    def values(reading: Reading) -> Values:
        found = value(reading)
        return () if found is None else (((), found),)

    return Row(name, group, counter, help, values)


def _cpu(name: str, help: str, value: Callable[[CpuUsage], int]) -> Row:
    def read(reading: Reading) -> int | None:
        return value(reading.cgroup.cpu) if reading.cgroup and reading.cgroup.cpu else None

    return _row(f"container_cpu_{name}", "cpu", help, read, counter=True)


def _memory(name: str, help: str, value: Callable[[MemoryUsage], int], counter: bool = False) -> Row:
    def read(reading: Reading) -> int | None:
        return value(reading.cgroup.memory) if reading.cgroup and reading.cgroup.memory else None

    return _row(f"container_memory_{name}", "memory", help, read, counter)


def _space(name: str, help: str, value: Callable[[FsSpace], int]) -> Row:
    return _row(f"container_fs_{name}", "disk", help, lambda r: value(r.space) if r.space else None)


def _process(name: str, help: str, value: Callable[[ProcessUsage], int]) -> Row:
    return _row(f"container_{name}", "process", help, lambda r: value(r.processes) if r.processes else None)


def _spec(name: str, help: str, value: Callable[[ContainerRecord], int | None]) -> Row:
    return _row(name, "spec", help, lambda r: value(r.record))


def _pressure(kind: str, word: str, help: str, pick: Callable[[CgroupStats], Pressure | None]) -> Row:
    def read(reading: Reading) -> int | None:
        pressure = pick(reading.cgroup) if reading.cgroup else None
        if pressure is None:
            return None
        line = pressure.full if word == "stalled" else pressure.some
        return None if line is None else line.total // SECOND

    return _row(f"container_pressure_{kind}_{word}_seconds_total", "pressure", help, read, counter=True)


# --- values with labels of their own ------------------------------------------------------------------------------


def _cpu_usage(reading: Reading) -> Iterator[tuple[tuple[str, ...], int]]:
    cpu = reading.cgroup.cpu if reading.cgroup else None
    if cpu is None:
        return
    if not cpu.per_cpu:
        yield ("total",), cpu.total // SECOND
    for number, used in enumerate(cpu.per_cpu):
        if used > 0:
            yield (f"cpu{number:02d}",), used // SECOND


def _faults(reading: Reading) -> Iterator[tuple[tuple[str, ...], int]]:
    memory = reading.cgroup.memory if reading.cgroup else None
    if memory is None:
        return
    for kind, count in (("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)):
        for scope in ("container", "hierarchy"):
            yield (kind, scope), count


def _io(name: str, help: str, field: str) -> Row:
    def values(reading: Reading) -> Values:
        disks = reading.cgroup.io if reading.cgroup else ()
        return [((f"{d.major}:{d.minor}",), int(getattr(d, field))) for d in disks]

    return Row(f"container_fs_{name}", "diskIO", True, help, values, ("device",))


def _blkio(reading: Reading) -> Iterator[tuple[tuple[str, ...], int]]:
    for d in reading.cgroup.io if reading.cgroup else ():
        device = (f"{d.major}:{d.minor}", str(d.major), str(d.minor))
        for operation, value in (("read", d.read_bytes), ("write", d.write_bytes), ("discard", d.discard_bytes)):
            yield (*device, operation), value


def _hugetlb(name: str, help: str, field: str) -> Row:
    def values(reading: Reading) -> Values:
        pages = reading.cgroup.hugepages if reading.cgroup else ()
        return [((page.page_size,), int(getattr(page, field))) for page in pages]

    return Row(f"container_hugetlb_{name}", "hugetlb", False, help, values, ("pagesize",))


def _open_files(reading: Reading) -> Iterator[tuple[tuple[str, ...], int]]:
    if reading.processes is not None and reading.processes.max_open_files is not None:
        yield ("max_open_files",), reading.processes.max_open_files


def _limit(value: int) -> int:
    return 0 if value < 0 or value > UNLIMITED else value


def _reservation(record: ContainerRecord) -> int:
    text = record.resources.unified.get("memory.min", "")
    return _limit(int(text)) if text.isascii() and text.isdigit() else 0


def _pids(reading: Reading) -> int | None:
    return reading.cgroup.pids if reading.cgroup else None


def _pids_limit(reading: Reading) -> int | None:
    return None if reading.cgroup is None or reading.cgroup.pids is None else reading.cgroup.pids_limit or 0


def _oom(reading: Reading) -> int | None:
    return reading.cgroup.memory.oom_kills if reading.cgroup and reading.cgroup.memory else None


ROWS: tuple[Row, ...] = (
    _row("container_last_seen", ALWAYS, "When the container was last read, in unix seconds.", lambda r: r.at // SECOND),
    _cpu("user_seconds_total", "CPU time spent in user mode, in seconds.", lambda c: c.user // SECOND),
    _cpu("system_seconds_total", "CPU time spent in the kernel, in seconds.", lambda c: c.system // SECOND),
    Row("container_cpu_usage_seconds_total", "cpu", True, "CPU time used, in seconds.", _cpu_usage, ("cpu",)),
    _cpu("cfs_periods_total", "Periods in which a CPU quota was enforced.", lambda c: c.periods),
    _cpu("cfs_throttled_periods_total", "Periods in which the quota was used up.", lambda c: c.throttled_periods),
    _cpu("cfs_throttled_seconds_total", "Time held back by quotas, in seconds.", lambda c: c.throttled_time // SECOND),
    _space("inodes_free", "Inodes left on the file system of the root.", lambda s: s.free_inodes),
    _space("inodes_total", "Inodes of the file system of the root.", lambda s: s.total_inodes),
    _space("limit_bytes", "Size of the file system of the root, in bytes.", lambda s: s.total_bytes),
    _row(
        "container_fs_usage_bytes",
        "disk",
        "Bytes that the container has written to its root.",
        lambda r: r.layer.used_bytes if r.layer else None,
    ),
    _io("reads_bytes_total", "Bytes read from a device.", "read_bytes"),
    _io("reads_total", "Reads from a device.", "reads"),
    _io("writes_bytes_total", "Bytes written to a device.", "write_bytes"),
    _io("writes_total", "Writes to a device.", "writes"),
    Row(
        "container_blkio_device_usage_total",
        "diskIO",
        True,
        "Bytes moved to and from a device, by operation.",
        _blkio,
        ("device", "major", "minor", "operation"),
    ),
    _hugetlb("usage_bytes", "Huge pages in use, in bytes.", "usage"),
    _hugetlb("max_usage_bytes", "Most huge pages in use so far, in bytes.", "max_usage"),
    _memory("cache", "Page cache, in bytes.", lambda m: m.cache),
    _memory("rss", "Anonymous memory, in bytes.", lambda m: m.rss),
    _memory("kernel_usage", "Memory of the kernel for the container, in bytes.", lambda m: m.kernel),
    _memory("mapped_file", "Mapped files, in bytes.", lambda m: m.mapped_file),
    _memory("swap", "Swap in use, in bytes.", lambda m: m.swap_usage or 0),
    _memory("failcnt", "How often the limit was hit.", lambda m: m.failcnt, counter=True),
    _memory("usage_bytes", "Memory in use with all caches, in bytes.", lambda m: m.usage),
    _memory("max_usage_bytes", "Most memory in use so far, in bytes.", lambda m: m.max_usage),
    _memory("working_set_bytes", "Memory in use without inactive file pages, in bytes.", lambda m: m.working_set),
    Row(
        "container_memory_failures_total",
        "memory",
        True,
        "Page faults, by kind.",
        _faults,
        ("failure_type", "scope"),
    ),
    _row("container_oom_events_total", "oom", "Processes killed for want of memory.", _oom, counter=True),
    _process("file_descriptors", "Open file descriptors.", lambda p: p.descriptors),
    _row("container_processes", "process", "Processes, as the pids controller counts them.", _pids),
    _process("sockets", "Open sockets.", lambda p: p.sockets),
    _process("threads", "Threads.", lambda p: p.threads),
    _row("container_threads_max", "process", "Most threads allowed; 0: no limit.", _pids_limit),
    Row("container_ulimits_soft", "process", False, "Soft limits of the first process.", _open_files, ("ulimit",)),
    _spec(
        "container_spec_cpu_period",
        "Length of a CPU quota's period, in microseconds.",
        lambda c: c.resources.cpu_period,
    ),
    _spec("container_spec_cpu_shares", "CPU weight in shares.", lambda c: c.resources.cpu_shares),
    _spec(
        "container_spec_cpu_quota",
        "CPU quota in a period, in microseconds.",
        lambda c: c.resources.cpu_quota if c.resources.cpu_quota > 0 else None,
    ),
    _spec("container_spec_memory_limit_bytes", "Memory limit; 0: none.", lambda c: _limit(c.resources.memory_limit)),
    _spec("container_spec_memory_reservation_limit_bytes", "Memory that is kept free for it; 0: none.", _reservation),
    _spec(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together; 0: none.",
        lambda c: _limit(c.resources.memory_swap_limit),
    ),
    _spec("container_start_time_seconds", "When it was created, in unix seconds.", lambda c: c.created_at // SECOND),
    *(
        _pressure(kind, word, f"Seconds in which {who} waited for {what}.", pick)
        for kind, what, pick in (
            ("cpu", "a CPU", lambda s: s.cpu.pressure if s.cpu else None),
            ("memory", "memory", lambda s: s.memory.pressure if s.memory else None),
            ("io", "a device", lambda s: s.io_pressure),
        )
        for word, who in (("stalled", "every task"), ("waiting", "a task"))
    ),
)

LINK_ROWS: tuple[LinkRow, ...] = (
    LinkRow("receive_bytes_total", "Bytes received.", lambda i: i.rx_bytes),
    LinkRow("receive_packets_total", "Packets received.", lambda i: i.rx_packets),
    LinkRow("receive_packets_dropped_total", "Packets dropped while receiving.", lambda i: i.rx_dropped),
    LinkRow("receive_errors_total", "Errors while receiving.", lambda i: i.rx_errors),
    LinkRow("transmit_bytes_total", "Bytes sent.", lambda i: i.tx_bytes),
    LinkRow("transmit_packets_total", "Packets sent.", lambda i: i.tx_packets),
    LinkRow("transmit_packets_dropped_total", "Packets dropped while sending.", lambda i: i.tx_dropped),
    LinkRow("transmit_errors_total", "Errors while sending.", lambda i: i.tx_errors),
)
LINK_PREFIX = "container_network_"
LINK_LABELS = ("interface",)
