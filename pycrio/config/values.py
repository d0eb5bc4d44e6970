"""The configuration as data: every option's value with the place that it came from, handlers and workloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pycrio.config import units
from pycrio.config.options import BY_KEY, Value

MIN_MEMORY = 12 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was said. ``kind``: default, storage.conf, file, env or flag; ``where``: path, variable or flag."""

    kind: str
    where: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.kind == "env":
            return f"environment variable {self.where}"
        if self.kind == "flag":
            return f"flag {self.where}"
        if self.kind == "default":
            return "default"
        return f"{self.where}:{self.line}" if self.line else self.where


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, as ``place: key: what`` when printed."""

    place: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.what) if part)


@dataclass(frozen=True, slots=True)
class HandlerConf:
    """A runtime handler as configured; field names are those of the file. Programs are not looked up in PATH here."""

    name: str
    runtime_path: str = ""
    runtime_type: str = "oci"
    runtime_root: str = ""
    runtime_config_path: str = ""
    inherit_default_runtime: bool = False
    privileged_without_host_devices: bool = False
    privileged_without_host_devices_all_devices_allowed: bool = False
    allowed_annotations: tuple[str, ...] = ()
    default_annotations: Mapping[str, str] = field(default_factory=dict)
    monitor_path: str = ""
    monitor_cgroup: str = ""
    monitor_env: tuple[str, ...] = ()
    monitor_exec_cgroup: str = ""
    platform_runtime_paths: Mapping[str, str] = field(default_factory=dict)
    runtime_pull_image: bool = False
    container_min_memory: str = "12MiB"
    no_sync_log: bool = False
    stream_websockets: bool = False
    exec_cpu_affinity: str = ""
    seccomp_profile: str = ""
    container_create_timeout: int = 240

    @property
    def min_memory(self) -> int:
        """Lowest memory limit in bytes; 12 MiB where the text is no size."""
        try:
            return units.size(self.container_min_memory)
        except ValueError:
            return MIN_MEMORY


@dataclass(frozen=True, slots=True)
class WorkloadResources:
    """Defaults of a workload; zero or empty means not set. Quota and period in µs, ``cpulimit`` in millicores."""

    cpushares: int = 0
    cpuquota: int = 0
    cpuperiod: int = 0
    cpuset: str = ""
    cpulimit: int = 0


@dataclass(frozen=True, slots=True)
class WorkloadConf:
    """A workload as configured. ``resources`` is None when the table gives none."""

    name: str
    activation_annotation: str = ""
    annotation_prefix: str = ""
    allowed_annotations: tuple[str, ...] = ()
    resources: WorkloadResources | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What was read: needed to read it again on SIGHUP. ``main`` is "" when no file shall be read."""

    main: str = ""
    main_required: bool = False
    drop_in_dir: str = ""
    files: tuple[str, ...] = ()


class Typed:
    """Values by key with their types checked; KeyError or TypeError tell that the caller misspelt key or kind."""

    __slots__ = ()
    values: Mapping[str, Value]

    def text(self, key: str) -> str:
        """A string or the text of a duration."""
        value = self.values[key]
        if not isinstance(value, str):
            raise TypeError(f"{key} is a {BY_KEY[key].kind}, not a string")
        return value

    def flag(self, key: str) -> bool:
        """A boolean."""
        value = self.values[key]
        if not isinstance(value, bool):
            raise TypeError(f"{key} is a {BY_KEY[key].kind}, not a bool")
        return value

    def number(self, key: str) -> int:
        """An integer."""
        value = self.values[key]
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{key} is a {BY_KEY[key].kind}, not an int")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.values[key]
        if not isinstance(value, tuple):
            raise TypeError(f"{key} is a {BY_KEY[key].kind}, not a list")
        return value

    def seconds(self, key: str) -> float:
        """A duration in seconds; "" is 0."""
        return units.nanoseconds(self.text(key)) / 1e9


@dataclass(frozen=True, slots=True)
class Config(Typed):
    """Effective configuration; immutable, a reload makes a new one.

    Keys are spelled with their table (``crio.runtime.log_level``). ``defaults`` are the values that hold on this host
    when nobody says anything. ``origins`` has every key that somebody set, also those of handlers and workloads
    (``crio.runtime.runtimes.runc.runtime_path``); ``warnings`` are sentences for the log, once.
    """

    values: Mapping[str, Value]
    defaults: Mapping[str, Value]
    origins: Mapping[str, Origin]
    handlers: Mapping[str, HandlerConf]
    workloads: Mapping[str, WorkloadConf]
    warnings: tuple[str, ...] = ()
    sources: Sources = field(default_factory=Sources)

    def origin(self, key: str) -> Origin:
        """Where the value was said; the default's origin when nobody did."""
        return self.origins.get(key, DEFAULT)

    def is_set(self, key: str) -> bool:
        """Whether a file, a variable or a flag gave the value."""
        return self.origin(key).kind in {"file", "env", "flag"}

    @property
    def default_handler(self) -> HandlerConf:
        """The handler for pods that name none."""
        return self.handlers[self.text("crio.runtime.default_runtime")]
