"""Logs of a pod inside the pod: with the annotation ``link-logs.crio.io`` its log directory is shown, read-only, in one
of its emptyDir volumes, whose name the annotation gives, and each container has a link ``<id>.log`` there."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from pycrio.errors import InvalidRequest
from pycrio.flows.node_state import Node
from pycrio.flows.pods.options import allowed, value_of
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerConfig, ContainerRecord
from pycrio.model.mount import OciMount
from pycrio.model.pod import PodRecord
from pycrio.obs import log as obslog

log = obslog.get("pod")
ANNOTATION = "link-logs.crio.io"
VOLUMES = "/var/lib/kubelet/pods"  # where kubelets keep them; CRI-O knows no other place either
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_POINT = re.compile(rf"{VOLUMES}/([^/]+)/volumes/kubernetes\.io~empty-dir/[^/]+")


def volume_of(pod: PodRecord, annotations: Mapping[str, str]) -> str:
    """The directory of the volume that the annotation names; "" for none, or for what can be no volume."""
    name = value_of(dict(annotations), ANNOTATION)
    if name is None or not _LABEL.fullmatch(name):
        return ""
    return f"{VOLUMES}/{pod.config.metadata.uid}/volumes/kubernetes.io~empty-dir/{name}"


async def show(node: Node, pod: PodRecord, undo: Undo) -> None:
    """Mount the log directory if the pod asks for it and may."""
    host = node.host
    annotations = allowed(pod.config, host.handlers.get(pod.handler), host.options)
    name = value_of(annotations, ANNOTATION)
    if name is None:
        return
    volume = volume_of(pod, annotations)
    if not volume:
        raise InvalidRequest(f"annotation {ANNOTATION}: {name!r} is not the name of a volume")
    if not await host.files.check_dir(volume):
        raise InvalidRequest(f"annotation {ANNOTATION}: there is no volume {volume}")
    if pod.selinux_mount_label:
        await host.security.relabel(pod.log_directory, pod.selinux_mount_label, False)
    undo.push("hide linked logs", _hide, node, volume, pod.log_directory)
    options = ("bind", "ro", "nosuid", "nodev", "noexec", "rprivate")
    await host.mounts.bind(OciMount(volume, "bind", pod.log_directory, options))
    log.info("Logs are shown in a volume of the pod", id=pod.id, volume=volume)


async def hide(node: Node, pod: PodRecord) -> None:
    """Take the mount away, so that the kubelet can remove the volume; bears being repeated. Whether the pod may have it
    does not matter here: a reload may have changed that."""
    volume = volume_of(pod, pod.config.annotations)
    if volume:
        await _hide(node, volume, pod.log_directory)


async def _hide(node: Node, volume: str, directory: str) -> None:
    """Ours alone: the volume itself may be a mount (medium Memory), and is the kubelet's."""
    name = posixpath.basename(directory)
    if any(
        point == volume and posixpath.basename(root) == name for point, root in await node.host.mounts.binds(volume)
    ):
        await node.host.mounts.unmount_top(volume)


async def link(node: Node, pod: PodRecord, annotations: Mapping[str, str], config: ContainerConfig, ident: str) -> str:
    """A link to a new container's log, by its relative path, which holds inside and outside; its path, "" for none."""
    if not volume_of(pod, annotations) or not config.log_path:  # the log itself has the link's name
        return ""
    target = f"{config.metadata.name}/{config.metadata.attempt}.log"
    await node.host.files.symlink_in_root(pod.log_directory, f"/{ident}.log", target)
    return path_of(pod, ident)


def path_of(pod: PodRecord, ident: str) -> str:
    """Where the link of a container is."""
    return posixpath.join(pod.log_directory, f"{ident}.log")


async def unlink(node: Node, pod: PodRecord, container: ContainerRecord) -> None:
    """Remove the link of a container; bears being repeated."""
    if container.config.log_path and volume_of(pod, pod.config.annotations):
        await node.host.files.remove(path_of(pod, container.id))


async def sweep(node: Node) -> None:
    """Take mounts away that a cut-off run left: they show a log directory of the pod whose volume it is."""
    kept = {volume_of(p, p.config.annotations) for p in node.pods if p.ready}
    for point, root in await node.host.mounts.binds(VOLUMES):
        found = _POINT.fullmatch(point)
        if found and point not in kept and posixpath.basename(root).endswith(f"_{found[1]}"):
            log.info("Removing linked logs of a pod that is not there", volume=point)
            await node.host.mounts.unmount_top(point)
