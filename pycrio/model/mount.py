"""Mounts, shared by layers, spec and mounts; devices asked for by a container."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pycrio.model.image import ImageSpec
from pycrio.model.security import IdMapping


class Propagation(Enum):
    """CRI MountPropagation (values are the wire numbers)."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount asked for by a container (CRI Mount): a host path, or an image when ``image`` is set."""

    container_path: str
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: Propagation = Propagation.PRIVATE
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    recursive_read_only: bool = False
    image: ImageSpec | None = None
    image_sub_path: str = ""
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OciMount:
    """One entry of ``mounts`` of an OCI config."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """A device asked for (CRI Device); ``permissions`` is a combination of r, w and m."""

    host_path: str
    container_path: str = ""
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node to be made inside a container, with its cgroup rule (OCI linux.devices + resources.devices)."""

    path: str
    type: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rwm"
