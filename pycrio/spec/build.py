"""The whole OCI config of a container, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio.model.mount import DeviceNode, OciMount
from pycrio.model.security import IdMapping
from pycrio.spec import mounts as mounts_part
from pycrio.spec import resources as resources_part
from pycrio.spec.process import ProcessParts, process

OCI_VERSION = "1.0.2"  # claims no more than is used: older runtimes refuse newer versions


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that the config is made of."""

    process: ProcessParts
    rootfs: str
    readonly_rootfs: bool
    hostname: str
    mounts: Sequence[OciMount]
    namespaces: Sequence[Mapping[str, str]]
    cgroup_path: str
    resources: Mapping[str, Any]
    devices: Sequence[DeviceNode] = ()
    all_devices: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    masked_paths: Sequence[str] = ()
    readonly_paths: Sequence[str] = ()
    seccomp: Mapping[str, Any] | None = None
    mount_label: str = ""
    rootfs_propagation: str = ""
    uid_map: Sequence[IdMapping] = ()
    gid_map: Sequence[IdMapping] = ()


def build(parts: Parts) -> dict[str, Any]:
    """The document for ``config.json``."""
    linux: dict[str, Any] = {
        "namespaces": [dict(n) for n in parts.namespaces],
        "cgroupsPath": parts.cgroup_path,
        "resources": {
            **parts.resources,
            "devices": resources_part.device_rules(parts.devices, parts.all_devices),
        },
    }
    for key, value in (
        ("devices", resources_part.device_documents(parts.devices)),
        ("maskedPaths", list(parts.masked_paths)),
        ("readonlyPaths", list(parts.readonly_paths)),
        ("mountLabel", parts.mount_label),
        ("rootfsPropagation", parts.rootfs_propagation),
        ("seccomp", parts.seccomp),
        ("uidMappings", mounts_part.mappings(parts.uid_map)),
        ("gidMappings", mounts_part.mappings(parts.gid_map)),
    ):
        if value:
            linux[key] = value
    out: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": process(parts.process),
        "root": {"path": parts.rootfs, "readonly": parts.readonly_rootfs},
        "mounts": [mounts_part.document(m) for m in parts.mounts],
        "annotations": dict(parts.annotations),
        "linux": linux,
    }
    # A hostname needs a uts namespace of the pod's own; with the host's it would rename the node.
    if parts.hostname and any(n["type"] == "uts" for n in parts.namespaces):
        out["hostname"] = parts.hostname
    return out
