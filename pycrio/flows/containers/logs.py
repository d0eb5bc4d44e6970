"""Reopen a container's log after its rotation."""

from __future__ import annotations

from pycrio.errors import NotFound, WrongState
from pycrio.flows.node_state import Node
from pycrio.model.container import ContainerState


async def reopen(node: Node, ident: str) -> None:
    """Returns when the new file exists; one request after the other, so that a repeated one finds it in use and leaves
    it. NotFound when absent, WrongState unless running."""
    container = node.containers.resolve(ident)
    if container is None:
        raise NotFound("container", ident, "could not find container")
    if container.state is not ContainerState.RUNNING:
        raise WrongState(f"container {container.id}: container is not running")
    async with node.turns.of(("log", container.id)):
        await node.host.monitors.reopen_log(container.bundle, container.log_path)
