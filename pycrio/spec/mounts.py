"""The mounts part: the defaults, the pod's files and what the request asks for."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pycrio.errors import InvalidRequest
from pycrio.model.mount import Mount, OciMount, Propagation
from pycrio.model.security import IdMapping

_PRIVATE_FILE = ("nodev", "nosuid", "noexec")


@dataclass(frozen=True, slots=True)
class HostView:
    """What the host says about the sources of the request's mounts.

    ``sources`` maps a host path to where it really leads; ``propagation`` that to ``shared``, ``slave`` or ``private``.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    propagation: Mapping[str, str] = field(default_factory=dict)
    storage_root: str = ""
    recursive_read_only: bool = False
    idmap_mounts: bool = False


@dataclass(frozen=True, slots=True)
class DefaultParts:
    """What decides the default mounts. Paths are on the host, "" where a file is not wanted."""

    shm: str = ""
    resolv_conf: str = ""
    hostname: str = ""
    hosts: str = ""
    containerenv: str = ""
    readonly_files: bool = False
    privileged: bool = False
    host_network: bool = False
    host_ipc: bool = False
    user_namespace: bool = False
    cgroup_writable: bool = False
    systemd: bool = False
    read_only_tmpfs: bool = False


def defaults(parts: DefaultParts) -> list[OciMount]:
    """Mounts that every container has."""
    out = [
        OciMount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
        OciMount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        OciMount(
            "/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
        ),
    ]
    if parts.host_ipc and parts.user_namespace:
        # a mqueue of the host's ipc namespace cannot be mounted from inside a user namespace
        out.append(OciMount("/dev/mqueue", "bind", "/dev/mqueue", ("rbind", "nosuid", "noexec", "nodev")))
    else:
        out.append(OciMount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")))
    out += _sys(parts)
    cgroup = ["nosuid", "noexec", "nodev", "relatime"]
    if parts.privileged:
        cgroup += ["rw", "rslave"]
    else:
        cgroup.append("rw" if parts.cgroup_writable or parts.systemd else "ro")
    out.append(OciMount("/sys/fs/cgroup", "cgroup", "cgroup", tuple(cgroup)))
    if parts.shm:
        out.append(OciMount("/dev/shm", "bind", parts.shm, ("rw", "bind")))
    mode = "ro" if parts.readonly_files else "rw"
    for destination, source in (
        ("/etc/resolv.conf", parts.resolv_conf),
        ("/etc/hostname", parts.hostname),
        ("/etc/hosts", parts.hosts),
        ("/run/.containerenv", parts.containerenv),
    ):
        if source:
            out.append(OciMount(destination, "bind", source, (mode, "bind", *_PRIVATE_FILE)))
    if parts.systemd:
        for where, perm in (("/run", "755"), ("/run/lock", "755"), ("/tmp", "1777"), ("/var/log/journal", "755")):
            out.append(
                OciMount(
                    where,
                    "tmpfs",
                    "tmpfs",
                    ("rw", "rprivate", "noexec", "nosuid", "nodev", "tmpcopyup", f"mode={perm}"),
                )
            )
    elif parts.read_only_tmpfs:
        for where, perm in (("/run", "0755"), ("/tmp", "1777"), ("/var/tmp", "1777")):
            out.append(
                OciMount(where, "tmpfs", "tmpfs", ("rw", "noexec", "nosuid", "nodev", "tmpcopyup", f"mode={perm}"))
            )
    return out


def _sys(parts: DefaultParts) -> list[OciMount]:
    if parts.host_network and parts.user_namespace:
        # sysfs belongs to the net namespace's owner: a user namespace that does not own it may only bind the host's
        return [OciMount("/sys", "bind", "/sys", ("rbind", "nosuid", "noexec", "nodev", "ro", "rro"))]
    options = ("nosuid", "noexec", "nodev", "rw", "rslave") if parts.privileged else ("nosuid", "noexec", "nodev", "ro")
    return [OciMount("/sys", "sysfs", "sysfs", options)]


def requested(mount: Mount, source: str, host: HostView) -> OciMount:
    """One mount of the request whose source on the host is ``source`` (links followed)."""
    if not mount.container_path:
        raise InvalidRequest("mount.ContainerPath is empty")
    propagation = mount.propagation
    if propagation is Propagation.PRIVATE and _holds(source, host.storage_root):
        # A private copy of the tree that holds container roots would keep them busy for ever.
        propagation = Propagation.HOST_TO_CONTAINER
    options = ["rbind", *attributes(mount), _PROPAGATION[propagation]]
    kind = host.propagation.get(source, "private")
    if propagation is Propagation.BIDIRECTIONAL and kind != "shared":
        raise InvalidRequest(f"path {source!r} is mounted but it is not a shared mount, which BIDIRECTIONAL needs")
    if mount.propagation is Propagation.HOST_TO_CONTAINER and kind not in ("shared", "slave"):
        raise InvalidRequest(f"path {source!r} is mounted but it is not a shared or slave mount")
    if mount.recursive_read_only:
        if not mount.readonly:
            raise InvalidRequest(f"mount {mount.container_path}: recursive_read_only requires readonly")
        if mount.propagation is not Propagation.PRIVATE:
            raise InvalidRequest(f"mount {mount.container_path}: recursive_read_only requires private propagation")
        if not host.recursive_read_only:
            raise InvalidRequest(
                f"mount {mount.container_path}: the runtime does not support recursive read-only mounts"
            )
        options.append("rro")
    else:
        options.append("ro" if mount.readonly else "rw")
    if (mount.uid_mappings or mount.gid_mappings) and not host.idmap_mounts:
        raise InvalidRequest(f"mount {mount.container_path}: the runtime does not support id-mapped mounts")
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        raise InvalidRequest(f"mount {mount.container_path}: id-mapped mounts need uid and gid mappings")
    return OciMount(
        posixpath.normpath(mount.container_path), "bind", source, tuple(options), mount.uid_mappings, mount.gid_mappings
    )


def attributes(mount: Mount) -> tuple[str, ...]:
    """The options that a request names; InvalidRequest for any but plain attributes of a mount."""
    unknown = [o for o in mount.mount_options if o not in _ATTRIBUTES]
    if unknown:
        raise InvalidRequest(f"mount option {unknown[0]!r} of {mount.container_path} is not supported")
    return mount.mount_options


_PROPAGATION = {
    Propagation.PRIVATE: "rprivate",
    Propagation.HOST_TO_CONTAINER: "rslave",
    Propagation.BIDIRECTIONAL: "rshared",
}
_ATTRIBUTES = frozenset(
    {"noexec", "nosuid", "nodev", "exec", "suid", "dev", "noatime", "relatime", "strictatime", "nodiratime", "atime"}
)


def _holds(path: str, root: str) -> bool:
    return bool(root) and (root == path or root.startswith(path.rstrip("/") + "/"))


def combine(base: Iterable[OciMount], wanted: Iterable[OciMount]) -> list[OciMount]:
    """Defaults and requested mounts in mount order.

    A requested mount replaces the default of its destination; one of /dev or /sys also those below. Sorted by the
    number of path elements, so that parents come before children.
    """
    extra = list(wanted)
    taken = {m.destination for m in extra}
    kept = []
    for m in base:
        if m.destination in taken:
            continue
        if any(top in taken and m.destination.startswith(top + "/") for top in ("/dev", "/sys")):
            continue
        kept.append(m)
    return sorted([*kept, *extra], key=lambda m: 0 if m.destination == "/" else m.destination.count("/"))


def rootfs_propagation(mounts: Iterable[Mount]) -> str:
    """What the container's root must be for the propagation of its mounts; "" for the runtime's default."""
    kinds = {m.propagation for m in mounts}
    if Propagation.BIDIRECTIONAL in kinds:
        return "rshared"
    return "rslave" if Propagation.HOST_TO_CONTAINER in kinds else ""


def document(mount: OciMount) -> dict[str, object]:
    """The OCI object of one mount."""
    out: dict[str, object] = {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
    }
    for key, maps in (("uidMappings", mount.uid_mappings), ("gidMappings", mount.gid_mappings)):
        if maps:
            out[key] = mappings(maps)
    return out


def mappings(maps: Iterable[IdMapping]) -> list[dict[str, int]]:
    """The OCI form of id maps."""
    return [{"containerID": m.container_id, "hostID": m.host_id, "size": m.length} for m in maps]
