"""CRI metrics: what there is, and the samples of all pods."""

from __future__ import annotations

from collections.abc import Sequence

from pycrio.errors import Unsupported
from pycrio.flows.node_state import Node
from pycrio.flows.views import MetricDescriptor, PodMetrics


async def descriptors(node: Node) -> Sequence[MetricDescriptor]:
    """Constant while the daemon lives. Unsupported as long as this build gathers none."""
    raise Unsupported("CRI metrics are not gathered by this build: the Prometheus endpoint and the stats calls are")


async def pod_metrics(node: Node) -> Sequence[PodMetrics]:
    """Samples of every pod. Unsupported as long as this build gathers none."""
    raise Unsupported("CRI metrics are not gathered by this build: the Prometheus endpoint and the stats calls are")
