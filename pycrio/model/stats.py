"""Usage readings. A value that the host does not offer is None, never 0. Times in ns since the epoch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PressureData:
    """One line of a PSI file: total stall time in nanoseconds and the three averages in percent."""

    total: int
    avg10: float
    avg60: float
    avg300: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """A PSI file."""

    some: PressureData | None = None
    full: PressureData | None = None


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """CPU time in nanoseconds, throttling figures, per-CPU times when the host has them."""

    total: int
    user: int = 0
    system: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    per_cpu: tuple[int, ...] = ()
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes, except for counts of faults and failures. ``limit`` None: unlimited."""

    usage: int
    working_set: int
    rss: int
    cache: int = 0
    kernel: int = 0
    mapped_file: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    limit: int | None = None
    max_usage: int = 0
    failcnt: int = 0
    swap_usage: int | None = None
    swap_limit: int | None = None
    oom_kills: int = 0
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class DiskIo:
    """I/O of a cgroup on one device."""

    major: int
    minor: int
    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    write_bytes: int = 0
    discards: int = 0
    discard_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HugepageUsage:
    """Bytes of huge pages of one size (``2MB``)."""

    page_size: str
    usage: int
    max_usage: int = 0


@dataclass(frozen=True, slots=True)
class CgroupStats:
    """Everything read from one cgroup in one go."""

    timestamp: int
    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    pids: int | None = None
    pids_limit: int | None = None
    io: tuple[DiskIo, ...] = ()
    io_pressure: Pressure | None = None
    hugepages: tuple[HugepageUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class InterfaceStats:
    """Counters of one network interface."""

    name: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class FsUsage:
    """Use of a directory or file system; ``mountpoint`` lies on the backing file system, never on an overlay."""

    timestamp: int
    mountpoint: str
    used_bytes: int
    inodes_used: int


@dataclass(frozen=True, slots=True)
class FsSpace:
    """Size of a file system and what is left for anybody, in bytes and in inodes."""

    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Sums over processes: threads, open descriptors, sockets among these; soft limit of open files of the first
    process (None when it has none or is gone)."""

    threads: int
    descriptors: int
    sockets: int
    max_open_files: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """A container's readings; ``nano_cores`` None until there are two samples."""

    container_id: str
    cgroup: CgroupStats | None
    nano_cores: int | None = None
    writable_layer: FsUsage | None = None


@dataclass(frozen=True, slots=True)
class PodUsage:
    """A pod's readings with those of its containers. ``timestamp``: of what is read beside cgroups."""

    pod_id: str
    timestamp: int
    cgroup: CgroupStats | None
    nano_cores: int | None = None
    network: tuple[InterfaceStats, ...] = ()
    process_count: int | None = None
    containers: tuple[ContainerUsage, ...] = field(default=())
