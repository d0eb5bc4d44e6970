"""Containers from checkpoints: CreateContainer with an archive or a checkpoint image in the place of the image.

At the creation:

1. Find what the checkpoint was made of: its documents, the image below its root file system.
2. Complete the request by what the checkpoint says of the process.
3. Unpack the checkpoint beside the container, repeat its changes in the new root file system.
4. Check that every bind mount that the processes use is there again.

At the start:

5. The monitor has the runtime restore the processes; the unpacked checkpoint goes.

What a checkpoint says about privileges is not believed: capabilities, profiles and paths to hide come from the request.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pycrio.errors import BadImage, InvalidRequest, NotFound, PycrioError, RuntimeFailure, Unsupported
from pycrio.flows.containers import capture
from pycrio.flows.containers.inputs import inherited_oom_score
from pycrio.flows.images import find as images
from pycrio.flows.node_state import Node
from pycrio.flows.ports import MonitorRequest
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerConfig, ContainerRecord
from pycrio.model.image import ImageSpec, StoredImage
from pycrio.model.node import Handler
from pycrio.model.security import GroupsPolicy
from pycrio.obs import log as obslog

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making

log = obslog.get("restore")
PREFIX = "io.kubernetes.cri-o."
IMAGE_MARK = "io.kubernetes.cri-o.annotations.checkpoint.name"
DIRECTORY = "restore"
DOCUMENTS = ("config.dump", "spec.dump")
LOG_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """A checkpoint to make a container of. ``source`` is an archive or a directory with the content of one, ``config``
    the request as the checkpoint completes it, ``binds`` the destinations of the bind mounts that it was made with."""

    source: str
    title: str
    image: StoredImage
    config: ContainerConfig
    binds: frozenset[str]


async def archive_of(node: Node, config: ContainerConfig) -> str:
    """The archive that a request names in the place of an image; "" when it names an image."""
    path = config.image.image
    if not posixpath.isabs(path) or await node.host.files.check_dir(path):
        return ""
    return await node.host.files.real_path(path) or ""


async def from_archive(node: Node, config: ContainerConfig, handler: Handler, path: str, base: str = "") -> Origin:
    """The checkpoint in an archive. ``base`` is the image that its root file system must be based on ("": as it
    says)."""
    await _allowed(node, handler)
    return await _origin(node, config, path, path, base)


async def from_image(
    node: Node, config: ContainerConfig, handler: Handler, image: StoredImage, ident: str, undo: Undo
) -> Origin:
    """The checkpoint in an image, which is mounted until ``undo`` or ``release``."""
    await _allowed(node, handler)
    target = _image_place(node, ident)
    await node.host.files.make_dirs(target, 0o700)
    undo.push("remove mount point of checkpoint image", node.host.files.remove, target)
    undo.push("unmount checkpoint image", node.host.rootfs.unmount_image, target)
    await node.host.rootfs.mount_image(image.id, target, "")
    return await _origin(node, config, target, config.image.image, "")


def _image_place(node: Node, ident: str) -> str:
    """Below the container's run directory: there a crash's leavings are looked for."""
    return posixpath.join(node.host.options.run_root, "overlay-containers", ident, "userdata", "checkpoint-image")


async def release(node: Node, origin: Origin) -> None:
    """The checkpoint is unpacked: its image is not needed any more."""
    if await node.host.files.check_dir(origin.source):
        await node.host.rootfs.unmount_image(origin.source)
        await node.host.files.remove(origin.source)


async def _allowed(node: Node, handler: Handler) -> None:
    await capture.need(node, handler)
    level = node.host.options.checkpoint
    if level != "checkpoint_restore":
        raise Unsupported(
            f"restoring containers is not allowed: crio.checkpoint_restore.container_level_enabled is {level}"
        )


async def _origin(node: Node, config: ContainerConfig, source: str, title: str, base: str) -> Origin:
    found = await node.host.checkpoints.documents(source, DOCUMENTS)
    try:
        dumped, spec = (json.loads(found[name].decode("utf-8", "surrogateescape")) for name in DOCUMENTS)
        image = await _base(node, title, dumped, base)
        return Origin(source, title, image, completed(config, image, spec), bind_destinations(spec))
    except KeyError as e:
        raise BadImage(f"checkpoint {title} lacks {e}") from e
    except (ValueError, TypeError, AttributeError) as e:
        raise BadImage(f"the documents of checkpoint {title} are malformed: {e}") from e


async def _base(node: Node, title: str, dumped: Mapping[str, Any], base: str) -> StoredImage:
    """The image below the root file system."""
    names = [str(dumped[key]) for key in ("rootfsImageRef", "rootfsImageName", "rootfsImage") if dumped.get(key)]
    if not names:
        raise BadImage(f"config.dump of checkpoint {title} does not tell the image of the container")
    image = None
    for name in names:
        try:
            image = image or await images.find(node, name)
        except InvalidRequest as e:
            log.debug("Checkpoint names its image in an unknown way", name=name, error=str(e))
    if image is None:
        raise NotFound("image", names[-1], f"the checkpoint {title} was made with it: pull it first")
    if base:
        wanted = await images.need(node, ImageSpec(base))
        if wanted.id != image.id:
            raise InvalidRequest(f"the checkpoint {title} was made with image {names[-1]!r}, not with {base!r}")
    return image


def completed(config: ContainerConfig, image: StoredImage, spec: Mapping[str, Any]) -> ContainerConfig:
    """The request with what only the checkpoint knows: what runs there, as whom, with which terminal and stdin."""
    process, notes = spec["process"], spec.get("annotations") or {}
    user = process.get("user") or {}
    terminal = bool(process.get("terminal"))
    security = replace(
        config.security,
        run_as_username="",
        run_as_user=int(user.get("uid", 0)),
        run_as_group=int(user.get("gid", 0)),
        supplemental_groups=tuple(int(g) for g in user.get("additionalGids") or ()),
        groups_policy=GroupsPolicy.STRICT,
    )
    spec_name = image.names[0] if image.names else image.id
    return replace(
        config,
        image=replace(config.image, image=spec_name),
        command=tuple(str(a) for a in process["args"]),
        args=(),
        working_dir=str(process.get("cwd") or "/"),
        envs=tuple(_variable(str(e)) for e in process.get("env") or ()),
        tty=terminal,
        stdin=_flag(notes, "Stdin", config.stdin),
        stdin_once=_flag(notes, "StdinOnce", config.stdin_once),
        labels={**_pairs(notes, "Labels"), **config.labels},
        annotations={**_pairs(notes, "Annotations"), **config.annotations},
        security=security,
    )


def _variable(text: str) -> tuple[str, bytes]:
    key, _, value = text.partition("=")
    return key, value.encode("utf-8", "surrogateescape")


def _flag(notes: Mapping[str, Any], name: str, default: bool) -> bool:
    return str(notes[PREFIX + name]) == "true" if PREFIX + name in notes else default


def _pairs(notes: Mapping[str, Any], name: str) -> dict[str, str]:
    return {str(k): str(v) for k, v in json.loads(notes.get(PREFIX + name) or "{}").items()}


def bind_destinations(spec: Mapping[str, Any]) -> frozenset[str]:
    """Where an OCI config has bind mounts."""
    return frozenset(posixpath.normpath(m["destination"]) for m in spec.get("mounts") or () if is_bind(m))


def is_bind(mount: Mapping[str, Any]) -> bool:
    """True for a bind mount of an OCI config."""
    return mount.get("type") == "bind" or any(o in ("bind", "rbind") for o in mount.get("options") or ())


async def unpack(node: Node, making: Making, origin: Origin) -> None:
    """The checkpoint into the container's directory, its changes into the root file system, which is not mounted."""
    directory = posixpath.join(making.dirs.persist, DIRECTORY)
    log_path = posixpath.join(making.pod.log_directory, making.config.log_path or f"{making.ident}.log")
    await node.host.files.make_dirs(posixpath.dirname(log_path), 0o755)
    await node.host.checkpoints.unpack(origin.source, directory, log_path)
    await node.host.changes.load(making.ident, directory)
    await node.host.files.remove(f"{directory}/rootfs-diff.tar")
    await release(node, origin)


def check_binds(origin: Origin, document: Mapping[str, Any]) -> None:
    """InvalidRequest when processes of the checkpoint use a bind mount that the new container has not."""
    missing = origin.binds - bind_destinations(document)
    if missing:
        raise InvalidRequest(
            f"restoring {origin.title} expects the following bind mounts to be defined: {', '.join(sorted(missing))}"
        )


async def run(node: Node, container: ContainerRecord, handler: Handler) -> ContainerRecord:
    """Restore the processes of a container that awaits it; the record with their pid.

    InvalidRequest when a mount's source is gone, RuntimeFailure with what CRIU complained of.
    """
    host = node.host
    text = await host.files.read(f"{container.bundle}/config.json", capture.DOCUMENT_LIMIT)
    spec = json.loads(text or b"{}")
    gone = [m["source"] for m in spec.get("mounts") or () if is_bind(m) and not await host.files.real_path(m["source"])]
    if gone:
        raise InvalidRequest(f"container {container.id} cannot be restored: bind mount sources are gone: {gone}")
    config, pod = container.config, node.pods.get(container.pod_id)
    request = MonitorRequest(
        container_id=container.id,
        name=container.name,
        handler=handler,
        bundle=container.bundle,
        persist_dir=container.persist_dir,
        log_path=container.log_path,
        cgroup_parent=pod.cgroup_parent,
        tty=config.tty,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        restore_from=posixpath.join(container.restored_from, "checkpoint"),
        restore_options=_options(spec),
        oom_score_adj=inherited_oom_score(node, container.resources.oom_score_adj),
    )
    try:
        report = await host.monitors.create(request)
    except RuntimeFailure as e:
        said = await _complaints(node, f"{container.bundle}/restore.log")
        raise RuntimeFailure(f"{e} ({said})" if said else str(e)) from e
    try:
        await host.files.remove(container.restored_from)
    except PycrioError as e:
        log.warning("Checkpoint of restored container stays until it goes", id=container.id, error=str(e))
    return replace(
        container,
        pid=report.pid,
        pid_start_time=report.pid_start_time,
        monitor_pid=report.monitor_pid,
        monitor_start_time=report.monitor_start_time,
    )


def _options(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Locks are taken again; with SELinux processes and mounts get the labels of the new pod."""
    process = (spec.get("process") or {}).get("selinuxLabel")
    mount = (spec.get("linux") or {}).get("mountLabel")
    options = ["--file-locks"]
    options += [f"--lsm-profile=selinux:{process}"] if process else []
    options += [f"--lsm-mount-context={mount}"] if mount else []
    return tuple(options)


async def _complaints(node: Node, path: str) -> str:
    """The last errors of CRIU's log."""
    text = (await node.host.files.read(path, LOG_LIMIT) or b"").decode("utf-8", "replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if "Error (" in line]
    return "; ".join(lines[-3:])[:1000]
