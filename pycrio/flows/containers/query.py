"""Status of one container, list of many. Answers come from the records."""

from __future__ import annotations

import json

from pycrio.errors import Ambiguous, NotFound
from pycrio.flows.containers.capture import timestamp
from pycrio.flows.node_state import Node
from pycrio.flows.views import ContainerFilter, ContainerStatusView
from pycrio.model.container import ContainerRecord
from pycrio.state.store import selected


async def status(node: Node, ident: str, verbose: bool) -> ContainerStatusView:
    """NotFound when absent."""
    container = node.containers.resolve(ident)
    if container is None:
        raise NotFound("container", ident, "could not find container")
    if not verbose:
        return ContainerStatusView(container)
    text = await node.host.files.read(f"{container.bundle}/config.json", 16 << 20)
    document: dict[str, object] = {
        "sandboxID": container.pod_id,
        "pid": container.first_pid,
        "runtimeSpec": json.loads(text) if text else None,
        "privileged": container.privileged,
    }
    if container.checkpointed_at:
        document["checkpointedAt"] = timestamp(container.checkpointed_at)
    if container.restored_from:
        document["restored"] = True
    return ContainerStatusView(container, {"info": json.dumps(document)})


async def list_containers(node: Node, wanted: ContainerFilter) -> list[ContainerRecord]:
    """Containers that satisfy every condition; an id that fits none or several gives an empty list."""
    try:
        pod_id = _full_pod_id(node, wanted.pod_id)
        one = node.containers.resolve(wanted.id) if wanted.id else None
    except Ambiguous:
        return []
    if wanted.pod_id and not pod_id:
        return []
    found = ([one] if one else []) if wanted.id else list(node.containers)
    if pod_id:
        found = [c for c in found if c.pod_id == pod_id]
    if wanted.state is not None:
        found = [c for c in found if c.state is wanted.state]
    return selected(found, wanted.labels) if wanted.labels else found


def _full_pod_id(node: Node, prefix: str) -> str:
    pod = node.pods.resolve(prefix) if prefix else None
    return pod.id if pod else ""
