"""The mounts of a new container: the pod's files, the request's mounts, the image's volumes."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pycrio.errors import ImageMountFailed, InvalidRequest, PycrioError
from pycrio.flows.containers import artifacts
from pycrio.flows.containers.labels import confined, labels_of
from pycrio.flows.containers.remove import image_mount_dir_of
from pycrio.flows.images import find as images
from pycrio.flows.node_state import Node
from pycrio.flows.pods.options import value_of
from pycrio.flows.ports import Labels
from pycrio.flows.undo import Undo
from pycrio.model.mount import Mount, OciMount
from pycrio.model.security import NamespaceMode
from pycrio.spec import mounts as spec
from pycrio.spec.process import arguments, is_systemd
from pycrio.spec.users import ResolvedUser

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making

MAX_ACCOUNT_FILE = 16 << 20
FIPS = "/proc/sys/crypto/fips_enabled"


@dataclass(frozen=True, slots=True)
class MountPlan:
    """``mounts`` for the OCI config, ``reported`` for the status, and what the root file system must propagate."""

    mounts: tuple[OciMount, ...]
    reported: tuple[Mount, ...]
    rootfs_propagation: str


async def plan_mounts(node: Node, making: Making, who: ResolvedUser, undo: Undo) -> MountPlan:
    """Prepare every source on the host and put the mounts in order."""
    wanted: list[OciMount] = []
    reported = []
    labels = labels_of(node, making)
    for mount in making.config.mounts:
        binds, shown = await _requested(node, making, mount, labels, undo)
        wanted += binds
        reported.append(shown)
    taken = {m.destination for m in wanted}
    wanted += await _account_files(node, making, who, taken)
    wanted += await _image_volumes(node, making, who, taken)
    wanted += _configured(node, taken)
    wanted += await _without_fips(node, making, taken)
    await node.host.files.symlink_in_root(making.rootfs, "/etc/mtab", "/proc/mounts")
    base = spec.defaults(await _default_parts(node, making, taken))
    return MountPlan(
        mounts=tuple(spec.combine(base, wanted)),
        reported=tuple(reported),
        rootfs_propagation=spec.rootfs_propagation(making.config.mounts),
    )


async def _default_parts(node: Node, making: Making, taken: set[str]) -> spec.DefaultParts:
    pod, security, options = making.pod, making.config.security, node.host.options
    modes = pod.config.security.namespaces
    readonly = security.readonly_rootfs or options.read_only
    host_network = modes.network is NamespaceMode.NODE
    containerenv = f"{making.dirs.run}/.containerenv"
    await node.host.files.write(containerenv, b"")
    writable = value_of(making.annotations, "cgroup2-mount-hierarchy-rw.crio.io", making.config.metadata.name)
    return spec.DefaultParts(
        shm=pod.shm_path,
        resolv_conf=f"{pod.run_dir}/resolv.conf",
        hostname=f"{pod.run_dir}/hostname",
        hosts="/etc/hosts" if host_network and "/etc/hosts" not in taken else "",
        containerenv=containerenv,
        readonly_files=readonly,
        privileged=security.privileged,
        host_network=host_network,
        host_ipc=modes.ipc is NamespaceMode.NODE,
        user_namespace="user" in pod.namespaces,
        cgroup_writable=writable == "true" and node.host.cgroups.unified(),
        systemd=is_systemd(arguments(making.config, making.image.config)),
        read_only_tmpfs=options.read_only and not security.privileged,
    )


async def _requested(
    node: Node, making: Making, mount: Mount, labels: Labels, undo: Undo
) -> tuple[tuple[OciMount, ...], Mount]:
    if not mount.container_path:
        raise InvalidRequest("mount.ContainerPath is empty")
    if mount.image is not None and mount.image.image:
        return await _image_mount(node, making, mount, labels, undo)
    if not mount.host_path:
        raise InvalidRequest(f"mount {mount.container_path}: mount.HostPath is empty")
    source = await _source(node, mount.host_path, making.origin is not None)
    host = node.host
    view = spec.HostView(
        propagation={source: host.mounts.propagation(source)},
        storage_root=host.options.storage_root,
        recursive_read_only=making.handler.recursive_read_only,
        idmap_mounts=making.handler.idmap_mounts,
    )
    if mount.selinux_relabel and labels.mount and confined(labels):
        skip = value_of(making.annotations, "try-skip-volume-selinux-label.crio.io", making.config.metadata.name)
        await host.security.relabel(source, labels.mount, skip != "true")
    return (spec.requested(mount, source, view),), mount


async def _source(node: Node, host_path: str, restoring: bool) -> str:
    """The source on the host, links followed; made as a directory when missing, unless the configuration forbids or
    processes are to be restored, which were at work in it."""
    path = posixpath.normpath(posixpath.join(node.host.options.bind_mount_prefix or "/", host_path.lstrip("/")))
    real = await node.host.files.real_path(path)
    if real is not None:
        return real
    if restoring:
        raise InvalidRequest(f"cannot mount {host_path}: path does not exist, and the checkpoint to restore needs it")
    if path in node.host.options.absent_mount_sources_to_reject:
        raise InvalidRequest(f"cannot mount {host_path}: path does not exist and will not be created as a directory")
    try:
        await node.host.files.make_dirs(path)
    except PycrioError as e:
        raise InvalidRequest(f"failed to mkdir {host_path}: {e}") from e
    return await node.host.files.real_path(path) or path


async def _image_mount(
    node: Node, making: Making, mount: Mount, labels: Labels, undo: Undo
) -> tuple[tuple[OciMount, ...], Mount]:
    """An image's content, read-only: mounted on a directory of the bundle, or a path below it. An artifact's files."""
    assert mount.image is not None
    name = mount.image.image
    if mount.host_path:
        raise InvalidRequest(f"mount {mount.container_path}: an image mount must not have a host path")
    if not mount.readonly:
        raise InvalidRequest(f"mount {mount.container_path}: image {name!r} can only be mounted read-only")
    if node.host.options.artifact_mounts:
        artifact = await images.find_artifact(node, name)
        if artifact is not None:
            return artifacts.mounts_of(artifact, mount)
    image = await images.find(node, name)
    if image is None:
        raise ImageMountFailed(f'image "{name}" does not exist locally')
    target = image_mount_dir_of(making.dirs.run, mount.container_path)
    await node.host.files.make_dirs(target)
    try:
        await node.host.rootfs.mount_image(image.id, target, labels.mount, (making.pod.uid_map, making.pod.gid_map))
    except PycrioError as e:
        raise ImageMountFailed(f'image "{name}" cannot be mounted on {mount.container_path}: {e}') from e
    undo.push("unmount image", node.host.rootfs.unmount_image, target)
    source = target
    if mount.image_sub_path:
        inside = await node.host.files.resolve_in_root(target, mount.image_sub_path)
        if inside is None:
            raise ImageMountFailed(f'sub path "{mount.image_sub_path}" does not exist in image volume "{name}"')
        source = inside
    oci = OciMount(
        posixpath.normpath(mount.container_path),
        "bind",
        source,
        ("rbind", "ro", "rprivate", *spec.attributes(mount), "nosuid", "nodev"),
    )
    shown = replace(mount, image=replace(mount.image, image_ref=image.id))
    return (oci,), shown


async def _account_files(node: Node, making: Making, who: ResolvedUser, taken: set[str]) -> list[OciMount]:
    """Copies of passwd and group with the line that the user lacks. Not where the request mounts over them."""
    out = []
    for name, line in (("passwd", who.passwd_line), ("group", who.group_line)):
        path = f"/etc/{name}"
        if not line or "/etc" in taken or path in taken:
            continue
        text = await node.host.files.read_in_root(making.rootfs, path, MAX_ACCOUNT_FILE)
        if text is None:
            continue
        if text and not text.endswith(b"\n"):
            text += b"\n"
        copy = f"{making.dirs.run}/{name}"
        await node.host.files.write(copy, text + line.encode("utf-8", "surrogateescape") + b"\n")
        out.append(OciMount(path, "bind", copy, ("rw", "rprivate", "bind", "nodev", "nosuid", "noexec")))
    return out


async def _image_volumes(node: Node, making: Making, who: ResolvedUser, taken: set[str]) -> list[OciMount]:
    """Volumes that the image declares, as ``image_volumes`` says: a directory in the root, a bind mount, nothing."""
    mode = node.host.options.image_volumes
    out = []
    owner = (who.user.uid, who.user.gid)
    for index, volume in enumerate(making.image.config.volumes):
        path = posixpath.normpath("/" + volume)
        if mode == "ignore" or path in taken or path == "/":
            continue
        if mode == "mkdir":
            await node.host.files.make_dir_in_root(making.rootfs, path, 0o755, owner)
        else:
            source = f"{making.dirs.run}/mounts/{index}"
            await node.host.files.make_dirs(source, 0o755, owner)
            out.append(OciMount(path, "bind", source, ("private", "bind", "rw")))
    return out


def _configured(node: Node, taken: set[str]) -> list[OciMount]:
    """Mounts of mounts.conf (secrets of the host), and the zone file."""
    out = [
        OciMount(target, "bind", source, ("rbind", "ro", "rprivate"))
        for source, target in node.host.options.default_mounts
        if target not in taken
    ]
    zone = node.host.options.timezone
    if zone and "/etc/localtime" not in taken:
        source = "/etc/localtime" if zone.lower() == "local" else f"/usr/share/zoneinfo/{zone}"
        out.append(OciMount("/etc/localtime", "bind", source, ("bind", "ro", "nodev", "nosuid", "noexec")))
    return out


async def _without_fips(node: Node, making: Making, taken: set[str]) -> list[OciMount]:
    """A pod that says so by its label, and may by the annotation, sees a kernel that is not in FIPS mode."""
    files, config = node.host.files, making.config
    asked = making.pod.config.labels.get("FIPS_DISABLE") == "true"
    if not asked or value_of(making.annotations, "disable-fips.crio.io", config.metadata.name) != "true":
        return []
    if FIPS in taken or await files.real_path(FIPS) is None:  # a kernel that knows no such mode
        return []
    path = f"{making.dirs.run}/sysctl-fips"
    await files.write(path, b"0\n", 0o444)
    return [OciMount(FIPS, "bind", path, ("noexec", "nosuid", "nodev", "ro", "bind"))]
