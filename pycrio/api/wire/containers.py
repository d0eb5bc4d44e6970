"""Containers: requests, list items and status."""

from __future__ import annotations

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import images, mounts, resources, security, signals
from pycrio.api.wire.common import enum_of, given, refuse_nul
from pycrio.errors import InvalidRequest
from pycrio.flows.views import ContainerFilter
from pycrio.model.container import ContainerConfig, ContainerMetadata, ContainerRecord, ContainerState
from pycrio.model.image import ImageSpec

_STATES = {
    ContainerState.CREATED: pb.CONTAINER_CREATED,
    ContainerState.RUNNING: pb.CONTAINER_RUNNING,
    ContainerState.EXITED: pb.CONTAINER_EXITED,
    ContainerState.UNKNOWN: pb.CONTAINER_UNKNOWN,
}


def decode(message: pb.ContainerConfig) -> ContainerConfig:
    """A container as asked for; metadata with a name, and an image, must be there."""
    if not message.HasField("metadata"):
        raise InvalidRequest("the container config has no metadata")
    if not message.HasField("image"):
        raise InvalidRequest("the container config has no image")
    refuse_nul(message, "config")
    return ContainerConfig(
        metadata=ContainerMetadata(
            given(message.metadata.name, "metadata.name of the container"), message.metadata.attempt
        ),
        image=images.decode_spec(message.image),
        command=tuple(message.command),
        args=tuple(message.args),
        working_dir=message.working_dir,
        envs=tuple((e.key, e.value) for e in message.envs),
        mounts=tuple(mounts.decode(m) for m in message.mounts),
        devices=tuple(mounts.decode_device(d) for d in message.devices),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        log_path=message.log_path,
        stdin=message.stdin,
        stdin_once=message.stdin_once,
        tty=message.tty,
        resources=resources.decode(message.linux.resources),
        security=security.decode_container(message.linux.security_context),
        cdi_devices=tuple(d.name for d in message.CDI_devices),
        stop_signal=signals.decode(message.stop_signal),
    )


def decode_filter(message: pb.ContainerFilter) -> ContainerFilter:
    """Conditions of a list."""
    state = enum_of(ContainerState, message.state.state, "filter.state") if message.HasField("state") else None
    return ContainerFilter(message.id, message.pod_sandbox_id, state, dict(message.label_selector))


def decode_stats_filter(message: pb.ContainerStatsFilter) -> ContainerFilter:
    """Conditions of a list of readings."""
    return ContainerFilter(message.id, message.pod_sandbox_id, None, dict(message.label_selector))


def encode(container: ContainerRecord) -> pb.Container:
    """A container in a list; the image is named as the request did."""
    config = container.config
    return pb.Container(
        id=container.id,
        pod_sandbox_id=container.pod_id,
        metadata=_metadata(container),
        image=images.encode_spec(config.image),
        image_ref=container.image_ref,
        state=_STATES[container.state],
        created_at=container.created_at,
        labels=config.labels,
        annotations=config.annotations,
        image_id=container.image_id,
    )


def encode_status(container: ContainerRecord) -> pb.ContainerStatus:
    """A container as it is; the image is named by one of its own names when it has one."""
    config = container.config
    exited = container.state is ContainerState.EXITED
    asked = config.image
    return pb.ContainerStatus(
        id=container.id,
        metadata=_metadata(container),
        state=_STATES[container.state],
        created_at=container.created_at,
        started_at=container.started_at,
        finished_at=container.finished_at,
        exit_code=container.exit_code if exited else 0,
        image=images.encode_spec(
            ImageSpec(
                image=container.image_name or asked.image,
                annotations=asked.annotations,
                user_specified_image=asked.user_specified_image,
                runtime_handler=asked.runtime_handler,
                image_ref=asked.image_ref,
            )
        ),
        image_ref=container.image_ref,
        reason=_reason(container) if exited else container.reason,
        message=container.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=[mounts.encode(m) for m in container.mounts],
        log_path=container.log_path,
        resources=pb.ContainerResources(linux=resources.encode(container.resources)),
        image_id=container.image_id,
        user=security.encode_user(container.user) if container.user else None,
        stop_signal=signals.encode(container.stop_signal),
    )


def encode_attributes(container: ContainerRecord) -> pb.ContainerAttributes:
    """Which container a reading belongs to."""
    return pb.ContainerAttributes(
        id=container.id,
        metadata=_metadata(container),
        labels=container.config.labels,
        annotations=container.config.annotations,
    )


def _metadata(container: ContainerRecord) -> pb.ContainerMetadata:
    return pb.ContainerMetadata(name=container.config.metadata.name, attempt=container.config.metadata.attempt)


def _reason(container: ContainerRecord) -> str:
    """Why it ended, in the words that the kubelet knows."""
    if container.oom_killed:
        return "OOMKilled"
    return container.reason or ("Completed" if container.exit_code == 0 else "Error")
