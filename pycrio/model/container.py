"""Containers: what was asked for, what is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pycrio.model.cpus import CpuTuning
from pycrio.model.image import ImageSpec
from pycrio.model.mount import Device, Mount
from pycrio.model.resources import Resources
from pycrio.model.security import ContainerSecurity, LinuxUser


class ContainerState(Enum):
    """CRI ContainerState (values are the wire numbers)."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class ContainerMetadata:
    """A container's name within its pod, and the attempt."""

    name: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """A container as asked for (CRI ContainerConfig). ``stop_signal`` is a Linux name (``SIGTERM``) or ""."""

    metadata: ContainerMetadata
    image: ImageSpec
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[tuple[str, bytes], ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: Resources = field(default_factory=Resources)
    security: ContainerSecurity = field(default_factory=ContainerSecurity)
    cdi_devices: tuple[str, ...] = ()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container as persisted: the request, what was made for it, how far it is.

    ``bundle`` is the OCI bundle directory, ``persist_dir`` the directory that outlives a reboot; ``image_id`` the
    store's id and ``image_ref`` the first repo digest or the id. ``mounts`` are the request's mounts as the status
    reports them. Times in nanoseconds since the epoch, 0: not yet. ``exit_code`` is -1 until known. ``restored_from``
    is the directory with the checkpoint that it was made of ("": of none), which is there until the start. ``tuning``
    is what it asks of its CPUs; ``tuned`` is true from before that is applied until it has been taken back.
    ``runtime_path`` is the runtime program where the platform of its image has one of its own ("": the handler's).
    ``pid`` is the process that lives as long as the container; where it only stands for the first one, ``init_pid`` is
    the latter.
    """

    id: str
    name: str
    pod_id: str
    config: ContainerConfig
    handler: str
    image_id: str
    image_ref: str
    image_name: str
    created_at: int
    bundle: str
    persist_dir: str
    rootfs: str
    log_path: str = ""
    cgroup_path: str = ""
    user: LinuxUser | None = None
    stop_signal: str = "SIGTERM"
    resources: Resources = field(default_factory=Resources)
    mounts: tuple[Mount, ...] = ()
    pid: int = 0
    pid_start_time: int = 0
    monitor_pid: int = 0
    monitor_start_time: int = 0
    state: ContainerState = ContainerState.CREATED
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = -1
    oom_killed: bool = False
    reason: str = ""
    message: str = ""
    restored_from: str = ""
    checkpointed_at: int = 0
    seccomp_path: str = ""
    privileged: bool = False
    paused: bool = False
    tuning: CpuTuning | None = None
    tuned: bool = False
    runtime_path: str = ""
    init_pid: int = 0

    @property
    def first_pid(self) -> int:
        """The container's first process as the host sees it; it may be a hypervisor's."""
        return self.init_pid or self.pid

    @property
    def awaits_restore(self) -> bool:
        """True for a container that is made of a checkpoint and not started: it has no process yet."""
        return bool(self.restored_from) and self.state is ContainerState.CREATED


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a container's main process ended; ``at`` in nanoseconds since the epoch."""

    container_id: str
    exit_code: int
    at: int
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a synchronous exec gave; the two outputs are capped, ``truncated`` tells."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False
