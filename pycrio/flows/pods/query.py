"""Status of one pod, list of many. Answers come from the records; nothing asks the host."""

from __future__ import annotations

import json

from pycrio.errors import Ambiguous, NotFound
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods.document import of_none
from pycrio.flows.views import PodFilter, PodStatusView
from pycrio.model.pod import PodRecord, PodState
from pycrio.state.store import selected


async def status(node: Node, ident: str, verbose: bool) -> PodStatusView:
    """NotFound when absent."""
    pod = node.pods.resolve(ident)
    if pod is None:
        raise NotFound("pod sandbox", ident, "could not find pod")
    info: dict[str, str] = {}
    if verbose:
        text = await node.host.files.read(f"{pod.run_dir}/config.json", 16 << 20)
        document: dict[str, object] = {"image": node.host.options.pause_image, "pid": pod.first_pid}
        document["runtimeSpec"] = json.loads(text) if text else of_none(node, pod)
        if not pod.infra_pid:
            del document["image"], document["pid"]
        info["info"] = json.dumps(document)
    if not node.host.options.enable_pod_events:
        return PodStatusView(pod, info)
    return PodStatusView(pod, info, node.newest_of(pod.id), now())


def state(pod: PodRecord) -> PodState:
    """READY until the pod is stopped or its init ends."""
    return PodState.READY if pod.ready else PodState.NOTREADY


async def list_pods(node: Node, wanted: PodFilter) -> list[PodRecord]:
    """Pods that satisfy every condition; an id that fits none or several gives an empty list."""
    if wanted.id:
        try:
            one = node.pods.resolve(wanted.id)
        except Ambiguous:
            return []
        found = [one] if one else []
    else:
        found = list(node.pods)
    if wanted.state is not None:
        found = [p for p in found if state(p) is wanted.state]
    return selected(found, wanted.labels) if wanted.labels else found
