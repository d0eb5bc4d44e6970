"""What the kubelet asks once at its start."""

from __future__ import annotations

from pycrio.flows.node_state import Node


async def cgroup_driver(node: Node) -> str:
    """``systemd`` or ``cgroupfs``."""
    return node.host.cgroups.driver()
