"""Checkpoint a whole pod."""

from __future__ import annotations

from pycrio.errors import NotFound, Unsupported
from pycrio.flows.node_state import Node


async def checkpoint(
    node: Node, ident: str, output_path: str, containers: tuple[str, ...], options: dict[str, str]
) -> None:
    """NotFound when absent, Unsupported with the reason when it cannot be done here."""
    pod = node.pods.resolve(ident)
    if pod is None:
        raise NotFound("pod sandbox", ident, "could not find pod")
    reason = node.host.checkpoints.available(node.host.handlers.get(pod.handler))
    raise Unsupported(f"checkpoint of pods is not available: {reason or 'only single containers can be checkpointed'}")
