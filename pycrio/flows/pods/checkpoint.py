"""Write running containers of a pod to a checkpoint directory."""

from __future__ import annotations

from collections.abc import Mapping

from pycrio.errors import Unsupported
from pycrio.flows.node_state import Node


async def checkpoint(
    node: Node, ident: str, directory: str, container_ids: tuple[str, ...], options: Mapping[str, str]
) -> None:
    """NotFound when absent. Unsupported as long as this build writes no archives."""
    pod = node.pods.get(ident)
    raise Unsupported(f"checkpoint/restore support not available: pod sandbox {pod.id} is not checkpointed")
