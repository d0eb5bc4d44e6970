"""Take notice of a pod's new resources (in-place resize); the kubelet has already changed the pod's cgroup."""

from __future__ import annotations

from dataclasses import replace

from pycrio.flows.node_state import Node
from pycrio.model.resources import Resources


async def update_resources(node: Node, ident: str, overhead: Resources | None, resources: Resources | None) -> None:
    """Record overhead and sum of the pod's resources; NotFound when the pod is absent."""
    async with node.turns.of(("pod", node.pods.get(ident).id)):
        pod = node.pods.get(ident)
        await node.plugins.update_pod(pod, overhead, resources)
        config = replace(
            pod.config, overhead=overhead or pod.config.overhead, resources=resources or pod.config.resources
        )
        pod = replace(node.pods.get(ident), config=config)
        node.pods.put(pod)
        await node.plugins.pod_updated(pod)
