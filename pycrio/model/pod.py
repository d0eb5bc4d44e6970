"""Pods: what was asked for, what is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pycrio.model.resources import Resources
from pycrio.model.security import IdMapping, PodSecurity


class PodState(Enum):
    """CRI PodSandboxState (values are the wire numbers)."""

    READY = 0
    NOTREADY = 1


class Protocol(Enum):
    """Transport protocol of a port mapping (values are the wire numbers)."""

    TCP = 0
    UDP = 1
    SCTP = 2


@dataclass(frozen=True, slots=True)
class PodMetadata:
    """What makes a pod unique: name, namespace, uid and attempt."""

    name: str
    uid: str
    namespace: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class DNSConfig:
    """Contents of the pod's resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A host port; ``host_port`` 0 means none."""

    protocol: Protocol
    container_port: int
    host_port: int = 0
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class PodConfig:
    """A pod as asked for (CRI PodSandboxConfig)."""

    metadata: PodMetadata
    hostname: str = ""
    log_directory: str = ""
    dns: DNSConfig | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    security: PodSecurity = field(default_factory=PodSecurity)
    sysctls: dict[str, str] = field(default_factory=dict)
    overhead: Resources | None = None
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod as persisted: the request, what was made for it, how far it is.

    ``namespaces`` maps a kind (net, uts, ipc, user) to the path of its pin; a kind that is missing is the host's.
    ``infra_pid`` is the pause process (0: none) or, where
    ``infra_init_pid`` is not 0, what stands for it; ``infra_rootfs`` is the store's container whose root it has, "" for
    pycrio's own program. ``handler`` is the runtime handler's name after resolution,
    ``requested_handler`` what the request said. Times in nanoseconds since the epoch.
    """

    id: str
    name: str
    config: PodConfig
    handler: str
    requested_handler: str
    created_at: int
    run_dir: str
    hostname: str = ""
    log_directory: str = ""
    cgroup_parent: str = ""
    namespaces: dict[str, str] = field(default_factory=dict)
    uid_map: tuple[IdMapping, ...] = ()
    gid_map: tuple[IdMapping, ...] = ()
    ips: tuple[str, ...] = ()
    cni_result: str = ""
    infra_pid: int = 0
    infra_start_time: int = 0
    shm_path: str = ""
    selinux_process_label: str = ""
    selinux_mount_label: str = ""
    privileged: bool = False
    ready: bool = True
    network_ready: bool = False
    stopped_at: int = 0
    infra_init_pid: int = 0
    infra_rootfs: str = ""

    @property
    def first_pid(self) -> int:
        """The pause process as the host sees it; it may be a hypervisor's. 0: none."""
        return self.infra_init_pid or self.infra_pid
