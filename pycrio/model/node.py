"""The node's own condition, and what its runtime handlers can do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of the CRI Status answer (``RuntimeReady``, ``NetworkReady``)."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Handler:
    """A configured runtime handler with what its runtime was found to support.

    ``oci_max`` is the highest OCI version that the runtime accepts ("" when it cannot tell).
    ``allowed_annotations`` are prefixes. ``wants_joined_maps``: its config must repeat the id maps of a user namespace
    that a container joins, which other runtimes read from the namespace and do not like to be told. ``config_path`` and
    ``pull_image`` (the guest pulls the image) are for type vm only.
    """

    name: str
    path: str
    root: str
    monitor_path: str
    monitor_cgroup: str = ""
    monitor_env: tuple[str, ...] = ()
    type: str = "oci"
    privileged_without_host_devices: bool = False
    privileged_without_host_devices_all_devices_allowed: bool = False
    allowed_annotations: tuple[str, ...] = ()
    default_annotations: dict[str, str] = field(default_factory=dict)
    container_min_memory: int = 12 << 20
    no_sync_log: bool = False
    create_timeout: int = 240
    seccomp_profile: str = ""
    exec_cpu_affinity: str = ""
    monitor_exec_cgroup: str = ""
    config_path: str = ""
    pull_image: bool = False
    platform_runtime_paths: dict[str, str] = field(default_factory=dict)
    oci_max: str = ""
    recursive_read_only: bool = False
    idmap_mounts: bool = False
    net_devices: bool = False
    wants_joined_maps: bool = True


@dataclass(frozen=True, slots=True)
class Identity:
    """What the daemon calls itself towards callers."""

    runtime_name: str
    runtime_version: str
