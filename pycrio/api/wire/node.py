"""The node: version, status, runtime configuration, events, CRI metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import containers, pods
from pycrio.flows.views import EventView, MetricDescriptor, MetricSample, NodeStatusView, PodMetrics
from pycrio.model.event import EventType
from pycrio.model.node import Identity

KUBELET_API_VERSION = "0.1.0"
"""What kubelets compare ``VersionResponse.version`` with, whatever CRI version they speak."""
RUNTIME_API_VERSION = "v1"

_EVENTS = {
    EventType.CREATED: pb.CONTAINER_CREATED_EVENT,
    EventType.STARTED: pb.CONTAINER_STARTED_EVENT,
    EventType.STOPPED: pb.CONTAINER_STOPPED_EVENT,
    EventType.DELETED: pb.CONTAINER_DELETED_EVENT,
}
_DRIVERS = {"systemd": pb.SYSTEMD, "cgroupfs": pb.CGROUPFS}


def encode_info(info: Mapping[str, object]) -> dict[str, str]:
    """Verbose answers: texts as they are, everything else as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for k, v in info.items()}


def encode_version(identity: Identity) -> pb.VersionResponse:
    """Names and versions."""
    return pb.VersionResponse(
        version=KUBELET_API_VERSION,
        runtime_name=identity.runtime_name,
        runtime_version=identity.runtime_version,
        runtime_api_version=RUNTIME_API_VERSION,
    )


def encode_status(view: NodeStatusView) -> pb.StatusResponse:
    """Condition of the node, its handlers and features."""
    return pb.StatusResponse(
        status=pb.RuntimeStatus(
            conditions=[
                pb.RuntimeCondition(type=c.type, status=c.status, reason=c.reason, message=c.message)
                for c in view.conditions
            ]
        ),
        info=encode_info(view.info),
        runtime_handlers=[
            pb.RuntimeHandler(
                name=h.name,
                features=pb.RuntimeHandlerFeatures(
                    recursive_read_only_mounts=h.recursive_read_only, user_namespaces=h.user_namespaces
                ),
            )
            for h in view.handlers
        ],
        features=pb.RuntimeFeatures(
            supplemental_groups_policy=view.supplemental_groups_policy,
            user_namespaces_host_network=view.user_namespaces_host_network,
            mount_options=view.mount_options,
        ),
    )


def encode_runtime_config(driver: str) -> pb.RuntimeConfigResponse:
    """The cgroup driver; a kubelet that is told none uses its own setting."""
    known = _DRIVERS.get(driver)
    return pb.RuntimeConfigResponse(linux=None if known is None else pb.LinuxRuntimeConfiguration(cgroup_driver=known))


def encode_event(view: EventView) -> pb.ContainerEventResponse:
    """One event with the pod and its containers as they were then."""
    return pb.ContainerEventResponse(
        container_id=view.event.container_id,
        container_event_type=_EVENTS[view.event.type],
        created_at=view.event.at,
        pod_sandbox_status=pods.encode_status(view.pod) if view.pod else None,
        containers_statuses=[containers.encode_status(c) for c in view.containers],
    )


def encode_descriptors(descriptors: Iterable[MetricDescriptor]) -> pb.ListMetricDescriptorsResponse:
    """Metrics that samples may belong to."""
    return pb.ListMetricDescriptorsResponse(
        descriptors=[pb.MetricDescriptor(name=d.name, help=d.help, label_keys=d.label_keys) for d in descriptors]
    )


def encode_metrics(metrics: PodMetrics) -> pb.PodSandboxMetrics:
    """Samples of a pod and of its containers."""
    return pb.PodSandboxMetrics(
        pod_sandbox_id=metrics.pod_id,
        metrics=[_sample(s) for s in metrics.samples],
        container_metrics=[
            pb.ContainerMetrics(container_id=c.container_id, metrics=[_sample(s) for s in c.samples])
            for c in metrics.containers
        ],
    )


def _sample(sample: MetricSample) -> pb.Metric:
    return pb.Metric(
        name=sample.name,
        timestamp=sample.timestamp,
        metric_type=pb.COUNTER if sample.counter else pb.GAUGE,
        label_values=sample.label_values,
        value=pb.UInt64Value(value=max(sample.value, 0)),
    )
