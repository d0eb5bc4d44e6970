"""Remove a pod with everything in it. Idempotent; a pod that still runs is stopped first."""

from __future__ import annotations

import posixpath

from pycrio.errors import InvalidRequest
from pycrio.flows.containers import remove as remove_container
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods import stop as stop_pod
from pycrio.flows.ports import Labels
from pycrio.model.event import Event, EventType
from pycrio.obs import log as obslog

log = obslog.get("pod")


async def remove(node: Node, ident: str, deadline: float | None) -> None:
    """Stop and remove. ``deadline`` as for stop."""
    if not ident:
        raise InvalidRequest("PodSandboxId should not be empty")
    pod = node.pods.resolve(ident)
    if pod is not None:
        pod_id = pod.id
        await node.removing.run(("remove", pod_id), lambda: _remove(node, pod_id, deadline))


async def _remove(node: Node, ident: str, deadline: float | None) -> None:
    failure = await stop_pod.stop_but_for_network(node, ident, deadline)
    if failure is not None:
        # A broken plugin must not make pods immortal: what it holds is released by CNI GC or by its own tool.
        log.warning("Network of pod sandbox not torn down, removing it nevertheless", id=ident, error=str(failure))
    for container in node.containers_of(ident):
        await remove_container.remove(node, container.id, deadline)
    async with node.turns.of(("pod", ident)):
        pod = node.pods.resolve(ident)
        if pod is None:
            return
        await node.plugins.remove_pod(pod)
        await node.host.namespaces.remove(list(pod.namespaces.values()))
        await node.host.cgroups.remove_pod(pod.cgroup_parent, ident)
        for mount in await node.host.mounts.below(pod.run_dir):
            await node.host.mounts.unmount(mount)
        await node.host.files.remove(posixpath.dirname(pod.run_dir))
        if not pod.config.log_directory:
            await node.host.files.remove(pod.log_directory)
        node.host.namespaces.release_ids(pod.uid_map)
        node.host.security.release(Labels(pod.selinux_process_label, pod.selinux_mount_label))
        node.events.publish(Event(EventType.DELETED, ident, ident, now()))  # first: it says which pod it was
        node.pods.remove(ident)
        node.names.release(pod.name, ident)
    log.info("Removed pod sandbox", id=ident)
