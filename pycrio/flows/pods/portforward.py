"""Connect to a port of a pod, from inside its network namespace."""

from __future__ import annotations

from pycrio.errors import WrongState
from pycrio.flows.node_state import Node
from pycrio.model.pod import PodRecord


def check(node: Node, ident: str) -> PodRecord:
    """The pod, if its ports can be reached. NotFound when there is none, WrongState when it is stopped."""
    pod = node.pods.get(ident)
    if not pod.ready:
        raise WrongState(f"pod sandbox {pod.id} is not ready: its ports cannot be reached")
    return pod


async def connect(node: Node, ident: str, port: int) -> int:
    """A socket connected to TCP ``localhost:port`` as the pod sees it (the host's for a host-network pod).

    The caller owns the descriptor. NetworkFailure when nobody accepts there.
    """
    pod = check(node, ident)
    return await node.host.namespaces.connect(pod.namespaces.get("net", ""), port)
