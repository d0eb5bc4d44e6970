"""Make a pod from a checkpoint."""

from __future__ import annotations

from pycrio.errors import Unsupported
from pycrio.flows.node_state import Node
from pycrio.flows.views import RestoredPod
from pycrio.model.container import ContainerConfig
from pycrio.model.pod import PodConfig


async def restore(
    node: Node,
    checkpoint_path: str,
    config: PodConfig,
    handler_name: str,
    containers: tuple[ContainerConfig, ...],
    options: dict[str, str],
) -> RestoredPod:
    """Unsupported with the reason when it cannot be done here."""
    reason = node.host.checkpoints.available(node.host.handlers.get(handler_name))
    raise Unsupported(f"restore of pods is not available: {reason or 'only single containers can be restored'}")
