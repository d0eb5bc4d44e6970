"""Remove a container, running or not, with everything that it holds. Idempotent."""

from __future__ import annotations

import hashlib

from pycrio.errors import InvalidRequest
from pycrio.flows.containers import stop as stop_container
from pycrio.flows.containers import tuning
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods import linklogs
from pycrio.model.container import ContainerRecord
from pycrio.model.event import Event, EventType
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics

log = obslog.get("container")
DEFAULT_TIMEOUT = 10


async def remove(node: Node, ident: str, deadline: float | None) -> None:
    """``deadline``: seconds that the request has left, used as the grace period; None: ten."""
    if not ident:
        raise InvalidRequest("ContainerId should not be empty")
    container = node.containers.resolve(ident)
    if container is not None:
        found = container
        await node.removing.run(("container", found.id), lambda: _remove(node, found, deadline))


async def _remove(node: Node, container: ContainerRecord, deadline: float | None) -> None:
    seconds = DEFAULT_TIMEOUT if deadline is None else max(0, int(deadline) - 1)
    await stop_container.stop(node, container.id, seconds)
    async with node.turns.of(("container", container.id)):
        if container.id not in node.containers:
            return
        await node.plugins.removing(node.containers.get(container.id))
        await tuning.take_back(node, container.id)
        await release(node, container)
        node.containers.remove(container.id)
        node.events.publish(Event(EventType.DELETED, container.pod_id, container.id, now()))
        node.names.release(container.name, container.id)
        node.forget_live(container.id)
        metrics.container_removed(container.name)
    log.info("Removed container", id=container.id)


async def release(node: Node, container: ContainerRecord) -> None:
    """Give back what a container holds on the host; each step bears being repeated."""
    host = node.host
    await host.runtime.delete(node.handler_of(container), container.id)
    await host.notifier.forget(container.id)
    await host.monitors.forget_exit(container.id)
    pod = node.pods.resolve(container.pod_id)
    if pod is not None:
        await linklogs.unlink(node, pod, container)
        await host.cgroups.leave(pod.cgroup_parent, container.id)
    for mount in container.mounts:
        if mount.image is not None:
            await host.rootfs.unmount_image(image_mount_dir(container, mount.container_path))
    await host.rootfs.remove(container.id)


def image_mount_dir(container: ContainerRecord, container_path: str) -> str:
    """Where the content of an image mount is put together on the host."""
    return image_mount_dir_of(container.bundle, container_path)


def image_mount_dir_of(bundle: str, container_path: str) -> str:
    """Likewise, before there is a record."""
    return f"{bundle}/image-mounts/{hashlib.sha256(container_path.encode()).hexdigest()[:16]}"
