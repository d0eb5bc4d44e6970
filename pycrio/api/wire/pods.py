"""Pods: requests, list items and status."""

from __future__ import annotations

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import resources, security
from pycrio.api.wire.common import enum_of, given, refuse_nul
from pycrio.errors import InvalidRequest
from pycrio.flows.views import PodFilter
from pycrio.model.pod import DNSConfig, PodConfig, PodMetadata, PodRecord, PodState, PortMapping, Protocol
from pycrio.model.security import NamespaceMode, PodSecurity


def decode(message: pb.PodSandboxConfig) -> PodConfig:
    """A pod as asked for; name, namespace and uid must be there."""
    if not message.HasField("metadata"):
        raise InvalidRequest("the pod sandbox config has no metadata")
    refuse_nul(message, "config")
    linux = message.linux
    return PodConfig(
        metadata=_decode_metadata(message.metadata),
        hostname=message.hostname,
        log_directory=message.log_directory,
        dns=_decode_dns(message.dns_config) if message.HasField("dns_config") else None,
        port_mappings=tuple(_decode_port(p) for p in message.port_mappings),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        cgroup_parent=linux.cgroup_parent,
        security=security.decode_pod(linux.security_context) if linux.HasField("security_context") else PodSecurity(),
        sysctls=dict(linux.sysctls),
        overhead=resources.decode(linux.overhead) if linux.HasField("overhead") else None,
        resources=resources.decode(linux.resources) if linux.HasField("resources") else None,
    )


def decode_filter(message: pb.PodSandboxFilter) -> PodFilter:
    """Conditions of a list."""
    state = enum_of(PodState, message.state.state, "filter.state") if message.HasField("state") else None
    return PodFilter(message.id, state, dict(message.label_selector))


def decode_stats_filter(message: pb.PodSandboxStatsFilter) -> PodFilter:
    """Conditions of a list of readings."""
    return PodFilter(message.id, None, dict(message.label_selector))


def encode_metadata(metadata: PodMetadata) -> pb.PodSandboxMetadata:
    """What makes the pod unique."""
    return pb.PodSandboxMetadata(
        name=metadata.name, uid=metadata.uid, namespace=metadata.namespace, attempt=metadata.attempt
    )


def encode(pod: PodRecord) -> pb.PodSandbox:
    """A pod in a list."""
    return pb.PodSandbox(
        id=pod.id,
        metadata=encode_metadata(pod.config.metadata),
        state=_state(pod),
        created_at=pod.created_at,
        labels=pod.config.labels,
        annotations=pod.config.annotations,
        runtime_handler=pod.requested_handler,
    )


def encode_status(pod: PodRecord) -> pb.PodSandboxStatus:
    """A pod as it is."""
    return pb.PodSandboxStatus(
        id=pod.id,
        metadata=encode_metadata(pod.config.metadata),
        state=_state(pod),
        created_at=pod.created_at,
        network=_encode_network(pod),
        linux=pb.LinuxPodSandboxStatus(
            namespaces=pb.Namespace(options=security.encode_namespaces(pod.config.security.namespaces))
        ),
        labels=pod.config.labels,
        annotations=pod.config.annotations,
        runtime_handler=pod.requested_handler,
    )


def encode_attributes(pod: PodRecord) -> pb.PodSandboxAttributes:
    """Which pod a reading belongs to."""
    return pb.PodSandboxAttributes(
        id=pod.id,
        metadata=encode_metadata(pod.config.metadata),
        labels=pod.config.labels,
        annotations=pod.config.annotations,
    )


def _encode_network(pod: PodRecord) -> pb.PodSandboxNetworkStatus | None:
    """Addresses. A kubelet makes a ready pod anew when it sees a network without an address, so a pod that has none
    has no network here; a pod in the host's network has an empty one, because clients look into it unasked."""
    if pod.ips:
        return pb.PodSandboxNetworkStatus(ip=pod.ips[0], additional_ips=[pb.PodIP(ip=ip) for ip in pod.ips[1:]])
    host = pod.config.security.namespaces.network is NamespaceMode.NODE
    return pb.PodSandboxNetworkStatus() if host else None


def _state(pod: PodRecord) -> pb.PodSandboxState:
    return pb.SANDBOX_READY if pod.ready else pb.SANDBOX_NOTREADY


def _decode_metadata(message: pb.PodSandboxMetadata) -> PodMetadata:
    return PodMetadata(
        name=given(message.name, "metadata.name of the pod sandbox"),
        uid=given(message.uid, "metadata.uid of the pod sandbox"),
        namespace=given(message.namespace, "metadata.namespace of the pod sandbox"),
        attempt=message.attempt,
    )


def _decode_dns(message: pb.DNSConfig) -> DNSConfig:
    return DNSConfig(tuple(message.servers), tuple(message.searches), tuple(message.options))


def _decode_port(message: pb.PortMapping) -> PortMapping:
    """A port; without a (positive) host port nothing will be done for it, whatever else it says."""
    if message.container_port > 65535 or message.host_port > 65535:
        raise InvalidRequest(f"port mapping {message.host_port} to {message.container_port}: a port is at most 65535")
    return PortMapping(
        protocol=enum_of(Protocol, message.protocol, "protocol of a port mapping"),
        container_port=message.container_port,
        host_port=max(message.host_port, 0),
        host_ip=message.host_ip,
    )
