"""Write a running container to a checkpoint archive."""

from __future__ import annotations

from pycrio.errors import Unsupported
from pycrio.flows.node_state import Node


async def checkpoint(node: Node, ident: str, location: str, timeout: int) -> None:
    """NotFound when absent; ``timeout`` in seconds, 0: none. Unsupported as long as this build writes no archives."""
    container = node.containers.get(ident)
    raise Unsupported(f"checkpoint/restore support not available: container {container.id} is not checkpointed")
