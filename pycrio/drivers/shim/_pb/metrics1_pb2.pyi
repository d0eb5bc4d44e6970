from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Metrics(_message.Message):
    __slots__ = ("hugetlb", "pids", "cpu", "memory", "blkio", "memory_oom_control")
    HUGETLB_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    BLKIO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_OOM_CONTROL_FIELD_NUMBER: _ClassVar[int]
    hugetlb: _containers.RepeatedCompositeFieldContainer[Hugetlb]
    pids: Pids
    cpu: Cpu
    memory: Memory
    blkio: BlkIO
    memory_oom_control: OomControl
    def __init__(self, hugetlb: _Optional[_Iterable[_Union[Hugetlb, _Mapping]]] = ..., pids: _Optional[_Union[Pids, _Mapping]] = ..., cpu: _Optional[_Union[Cpu, _Mapping]] = ..., memory: _Optional[_Union[Memory, _Mapping]] = ..., blkio: _Optional[_Union[BlkIO, _Mapping]] = ..., memory_oom_control: _Optional[_Union[OomControl, _Mapping]] = ...) -> None: ...

class Hugetlb(_message.Message):
    __slots__ = ("usage", "max", "pagesize")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    PAGESIZE_FIELD_NUMBER: _ClassVar[int]
    usage: int
    max: int
    pagesize: str
    def __init__(self, usage: _Optional[int] = ..., max: _Optional[int] = ..., pagesize: _Optional[str] = ...) -> None: ...

class Pids(_message.Message):
    __slots__ = ("current", "limit")
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    current: int
    limit: int
    def __init__(self, current: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class Cpu(_message.Message):
    __slots__ = ("usage", "throttling")
    class Usage(_message.Message):
        __slots__ = ("total", "kernel", "user", "per_cpu")
        TOTAL_FIELD_NUMBER: _ClassVar[int]
        KERNEL_FIELD_NUMBER: _ClassVar[int]
        USER_FIELD_NUMBER: _ClassVar[int]
        PER_CPU_FIELD_NUMBER: _ClassVar[int]
        total: int
        kernel: int
        user: int
        per_cpu: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, total: _Optional[int] = ..., kernel: _Optional[int] = ..., user: _Optional[int] = ..., per_cpu: _Optional[_Iterable[int]] = ...) -> None: ...
    class Throttle(_message.Message):
        __slots__ = ("periods", "throttled_periods", "throttled_time")
        PERIODS_FIELD_NUMBER: _ClassVar[int]
        THROTTLED_PERIODS_FIELD_NUMBER: _ClassVar[int]
        THROTTLED_TIME_FIELD_NUMBER: _ClassVar[int]
        periods: int
        throttled_periods: int
        throttled_time: int
        def __init__(self, periods: _Optional[int] = ..., throttled_periods: _Optional[int] = ..., throttled_time: _Optional[int] = ...) -> None: ...
    USAGE_FIELD_NUMBER: _ClassVar[int]
    THROTTLING_FIELD_NUMBER: _ClassVar[int]
    usage: Cpu.Usage
    throttling: Cpu.Throttle
    def __init__(self, usage: _Optional[_Union[Cpu.Usage, _Mapping]] = ..., throttling: _Optional[_Union[Cpu.Throttle, _Mapping]] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("total_cache", "total_rss", "total_mapped_file", "total_pg_fault", "total_pg_maj_fault", "total_inactive_file", "usage", "swap", "kernel")
    class Entry(_message.Message):
        __slots__ = ("limit", "usage", "max", "failcnt")
        LIMIT_FIELD_NUMBER: _ClassVar[int]
        USAGE_FIELD_NUMBER: _ClassVar[int]
        MAX_FIELD_NUMBER: _ClassVar[int]
        FAILCNT_FIELD_NUMBER: _ClassVar[int]
        limit: int
        usage: int
        max: int
        failcnt: int
        def __init__(self, limit: _Optional[int] = ..., usage: _Optional[int] = ..., max: _Optional[int] = ..., failcnt: _Optional[int] = ...) -> None: ...
    TOTAL_CACHE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_RSS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MAPPED_FILE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PG_FAULT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PG_MAJ_FAULT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_INACTIVE_FILE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    total_cache: int
    total_rss: int
    total_mapped_file: int
    total_pg_fault: int
    total_pg_maj_fault: int
    total_inactive_file: int
    usage: Memory.Entry
    swap: Memory.Entry
    kernel: Memory.Entry
    def __init__(self, total_cache: _Optional[int] = ..., total_rss: _Optional[int] = ..., total_mapped_file: _Optional[int] = ..., total_pg_fault: _Optional[int] = ..., total_pg_maj_fault: _Optional[int] = ..., total_inactive_file: _Optional[int] = ..., usage: _Optional[_Union[Memory.Entry, _Mapping]] = ..., swap: _Optional[_Union[Memory.Entry, _Mapping]] = ..., kernel: _Optional[_Union[Memory.Entry, _Mapping]] = ...) -> None: ...

class BlkIO(_message.Message):
    __slots__ = ("io_service_bytes_recursive", "io_serviced_recursive")
    class Entry(_message.Message):
        __slots__ = ("op", "major", "minor", "value")
        OP_FIELD_NUMBER: _ClassVar[int]
        MAJOR_FIELD_NUMBER: _ClassVar[int]
        MINOR_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        op: str
        major: int
        minor: int
        value: int
        def __init__(self, op: _Optional[str] = ..., major: _Optional[int] = ..., minor: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    IO_SERVICE_BYTES_RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    IO_SERVICED_RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    io_service_bytes_recursive: _containers.RepeatedCompositeFieldContainer[BlkIO.Entry]
    io_serviced_recursive: _containers.RepeatedCompositeFieldContainer[BlkIO.Entry]
    def __init__(self, io_service_bytes_recursive: _Optional[_Iterable[_Union[BlkIO.Entry, _Mapping]]] = ..., io_serviced_recursive: _Optional[_Iterable[_Union[BlkIO.Entry, _Mapping]]] = ...) -> None: ...

class OomControl(_message.Message):
    __slots__ = ("oom_kill",)
    OOM_KILL_FIELD_NUMBER: _ClassVar[int]
    oom_kill: int
    def __init__(self, oom_kill: _Optional[int] = ...) -> None: ...
