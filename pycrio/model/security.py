"""Who a process is and what it may do: namespaces, users, profiles, capabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class NamespaceMode(Enum):
    """Whose namespace is used (CRI NamespaceMode; values are the wire numbers)."""

    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class ProfileType(Enum):
    """Kind of a seccomp or AppArmor profile (values are the wire numbers)."""

    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


class GroupsPolicy(Enum):
    """Whether the image's /etc/group adds groups (MERGE) or not (STRICT)."""

    MERGE = 0
    STRICT = 1


@dataclass(frozen=True, slots=True)
class IdMapping:
    """``length`` ids from ``container_id`` inside map to those from ``host_id`` outside."""

    container_id: int
    host_id: int
    length: int


IdMaps = tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]
"""Of users and of groups."""


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """The pod's user namespace; NODE means none."""

    mode: NamespaceMode = NamespaceMode.NODE
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class NamespaceOptions:
    """Namespace choice per kind; ``target_id`` names a container for pid mode TARGET."""

    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""
    userns: UserNamespace | None = None


@dataclass(frozen=True, slots=True)
class SELinuxOptions:
    """Parts of an SELinux label; empty parts are chosen by the host's policy."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class SecurityProfile:
    """A seccomp or AppArmor profile by kind; ``localhost_ref`` is a path (seccomp) or a name (AppArmor)."""

    type: ProfileType
    localhost_ref: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capability names (with or without ``CAP_``, or ``ALL``) to add, drop, and add to the ambient set."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    add_ambient: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodSecurity:
    """Security context of a pod (CRI LinuxSandboxSecurityContext)."""

    namespaces: NamespaceOptions = field(default_factory=NamespaceOptions)
    selinux: SELinuxOptions | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    groups_policy: GroupsPolicy = GroupsPolicy.MERGE
    privileged: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


@dataclass(frozen=True, slots=True)
class ContainerSecurity:
    """Security context of a container (CRI LinuxContainerSecurityContext)."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    privileged: bool = False
    namespaces: NamespaceOptions | None = None
    selinux: SELinuxOptions | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    groups_policy: GroupsPolicy = GroupsPolicy.MERGE
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


@dataclass(frozen=True, slots=True)
class LinuxUser:
    """The resolved identity of a container's first process."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
