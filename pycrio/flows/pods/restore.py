"""Make a pod with created containers from a pod checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from pycrio.errors import Unsupported
from pycrio.flows.node_state import Node
from pycrio.flows.views import RestoredPod
from pycrio.model.container import ContainerConfig
from pycrio.model.pod import PodConfig


async def restore(
    node: Node,
    path: str,
    config: PodConfig,
    handler: str,
    containers: tuple[ContainerConfig, ...],
    options: Mapping[str, str],
) -> RestoredPod:
    """The new pod. Unsupported as long as this build reads no archives."""
    raise Unsupported(f"checkpoint/restore support not available: {path} is not restored")
