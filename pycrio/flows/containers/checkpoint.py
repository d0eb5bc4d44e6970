"""Checkpoint a running container into an archive."""

from __future__ import annotations

from pycrio.errors import NotFound, Unsupported, WrongState
from pycrio.flows.node_state import Node
from pycrio.model.container import ContainerState


async def checkpoint(node: Node, ident: str, location: str, timeout: int) -> None:
    """NotFound when absent, WrongState unless running, Unsupported with the reason when CRIU cannot do it here."""
    container = node.containers.resolve(ident)
    if container is None:
        raise NotFound("container", ident, "could not find container")
    reason = node.host.checkpoints.available(node.host.handlers.get(container.handler))
    if reason:
        raise Unsupported(f"checkpoint/restore support not available: {reason}")
    if container.state is not ContainerState.RUNNING:
        raise WrongState(f"container {container.id} is not running")
