"""What flows ask drivers for and what they get back, where a call needs more than a few words.

Both sides know these values, so neither has to know the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pycrio.model.node import Handler
from pycrio.model.pod import PodRecord
from pycrio.model.security import IdMapping


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """What a container's record in the shared store says (facts: store.md section 18)."""

    id: str
    names: tuple[str, ...]
    image_id: str
    metadata: Mapping[str, Any]
    mount_label: str = ""
    process_label: str = ""
    uid_map: tuple[IdMapping, ...] = ()
    gid_map: tuple[IdMapping, ...] = ()

    @classmethod
    def of(cls, pod: PodRecord, ident: str, name: str, image: tuple[str, str], more: Mapping[str, Any]) -> StoreEntry:
        """A container of a pod. ``image``: its name in the request, and its id; ``more``: metadata of its own."""
        m = pod.config.metadata
        image_name, image_id = image
        metadata = {
            "pod-name": pod.name,
            "pod-id": pod.id,
            "image-name": image_name,
            "image-id": image_id,
            "name": name,
            "metadata-name": m.name,
            "uid": m.uid,
            "namespace": m.namespace,
            "attempt": m.attempt,
        }
        return cls(
            id=ident,
            names=(name,),
            image_id=image_id,
            metadata=metadata | dict(more),
            mount_label=pod.selinux_mount_label,
            process_label=pod.selinux_process_label,
            uid_map=pod.uid_map,
            gid_map=pod.gid_map,
        )


@dataclass(frozen=True, slots=True)
class ContainerDirs:
    """Directories of a container: ``run`` is volatile (the OCI bundle), ``persist`` survives a reboot."""

    run: str
    persist: str


@dataclass(frozen=True, slots=True)
class MonitorRequest:
    """What a monitor needs to run one container; paths are absolute. ``pod_id`` is the container's own id for a pod's
    infra container. ``restore_from`` is a checkpoint directory.

    ``oom_score_adj``: what the runtime starts with and its processes inherit; None: the daemon's own.
    """

    container_id: str
    name: str
    handler: Handler
    bundle: str
    persist_dir: str
    log_path: str
    cgroup_parent: str
    pod_id: str = ""
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    restore_from: str = ""
    restore_options: tuple[str, ...] = ()
    cpuset: str = ""
    cpu_shares: int = 0
    oom_score_adj: int | None = None


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """The monitor and the container's first process; start times are field 22 of /proc/<pid>/stat. ``init_pid`` is not
    0 when ``pid`` only stands for that process: it lives as long."""

    pid: int
    pid_start_time: int
    monitor_pid: int
    monitor_start_time: int
    init_pid: int = 0


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """An exec in a container: OCI process document, limits. ``timeout`` in seconds, 0: none. ``cap`` per stream."""

    container_id: str
    handler: Handler
    process: Mapping[str, Any]
    timeout: float = 0
    cap: int = 16 << 20
    cgroup_path: str = ""


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """A checkpoint of a paused container. ``directory`` exists and is empty; ``binds`` are sources and destinations of
    the bind mounts that the container's request asked for."""

    container_id: str
    handler: Handler
    directory: str
    log_path: str = ""
    binds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """A pod's attachment to the network. ``cgroup_path`` and ``annotations`` go to plugins that ask for them."""

    pod_id: str
    name: str
    namespace: str
    uid: str
    netns: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_path: str = ""


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """Addresses of the pod, the primary one first, and the CNI result as JSON text."""

    ips: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class NamespaceRequest:
    """Namespaces to be made for a pod. ``kinds``: net, uts, ipc, user, cgroup. Maps only with user."""

    pod_id: str
    kinds: tuple[str, ...]
    hostname: str
    sysctls: Mapping[str, str] = field(default_factory=dict)
    uid_map: tuple[IdMapping, ...] = ()
    gid_map: tuple[IdMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """SELinux labels, empty when SELinux is off."""

    process: str = ""
    mount: str = ""
