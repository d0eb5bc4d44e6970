"""RuntimeService: each call decodes, runs one flow and encodes (names as in the proto, in snake case).

``remaining`` is what the caller's deadline leaves, in seconds; None without a deadline.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol, cast

from pycrio.api import fragments
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.fragments import Fragments
from pycrio.api.wire import containers, node, pods, resources, stats
from pycrio.api.wire.common import given, refuse_nul
from pycrio.errors import InvalidRequest, Unsupported
from pycrio.flows.containers import checkpoint as container_checkpoint
from pycrio.flows.containers import create as container_create
from pycrio.flows.containers import exec as container_exec
from pycrio.flows.containers import logs as container_logs
from pycrio.flows.containers import query as container_query
from pycrio.flows.containers import remove as container_remove
from pycrio.flows.containers import start as container_start
from pycrio.flows.containers import stop as container_stop
from pycrio.flows.containers import update as container_update
from pycrio.flows.node import events as node_events
from pycrio.flows.node import metrics as node_metrics
from pycrio.flows.node import runtime_config as node_config
from pycrio.flows.node import stats as node_stats
from pycrio.flows.node import status as node_status
from pycrio.flows.node_state import Node
from pycrio.flows.pods import checkpoint as pod_checkpoint
from pycrio.flows.pods import query as pod_query
from pycrio.flows.pods import remove as pod_remove
from pycrio.flows.pods import restore as pod_restore
from pycrio.flows.pods import run as pod_run
from pycrio.flows.pods import stop as pod_stop
from pycrio.flows.pods import update as pod_update
from pycrio.flows.views import ContainerStatsView, EventView

_LONGEST_TIMEOUT = 2**31 - 1


class Streams(Protocol):
    """The streaming server, as far as the CRI's calls need it: each method checks what can be checked before a client
    connects and returns the URL of one session."""

    async def exec(self, request: pb.ExecRequest) -> str:
        """For a command in a container."""

    async def attach(self, request: pb.AttachRequest) -> str:
        """For a container's main process."""

    async def port_forward(self, request: pb.PortForwardRequest) -> str:
        """For ports of a pod."""


class RuntimeService:
    """Pods, containers and the node, for one daemon. Without ``streams`` there are no streaming sessions."""

    service = "RuntimeService"

    def __init__(self, node: Node, streams: Streams | None = None) -> None:
        self._node = node
        self._streams = streams
        self._pods = Fragments(pods.encode)
        self._containers = Fragments(containers.encode)
        self._attributes = Fragments(containers.encode_attributes)
        self._pod_statuses = Fragments(pods.encode_status)
        self._container_statuses = Fragments(containers.encode_status)
        self._event: tuple[EventView, bytes] | None = None
        for of_pods in (self._pods, self._pod_statuses):
            node.pods.listen(of_pods.changed)
        for of_containers in (self._containers, self._attributes, self._container_statuses):
            node.containers.listen(of_containers.changed)

    # --- pods

    async def run_pod_sandbox(
        self, request: pb.RunPodSandboxRequest, remaining: float | None
    ) -> pb.RunPodSandboxResponse:
        if not request.HasField("config"):
            raise InvalidRequest("RunPodSandbox needs a config")
        ident = await pod_run.run(self._node, pods.decode(request.config), request.runtime_handler)
        return pb.RunPodSandboxResponse(pod_sandbox_id=ident)

    async def stop_pod_sandbox(
        self, request: pb.StopPodSandboxRequest, remaining: float | None
    ) -> pb.StopPodSandboxResponse:
        await pod_stop.stop(self._node, given(request.pod_sandbox_id, "PodSandboxId"), remaining)
        return pb.StopPodSandboxResponse()

    async def remove_pod_sandbox(
        self, request: pb.RemovePodSandboxRequest, remaining: float | None
    ) -> pb.RemovePodSandboxResponse:
        await pod_remove.remove(self._node, given(request.pod_sandbox_id, "PodSandboxId"), remaining)
        return pb.RemovePodSandboxResponse()

    async def pod_sandbox_status(
        self, request: pb.PodSandboxStatusRequest, remaining: float | None
    ) -> pb.PodSandboxStatusResponse | bytes:
        view = await pod_query.status(self._node, given(request.pod_sandbox_id, "PodSandboxId"), request.verbose)
        rest = pb.PodSandboxStatusResponse(timestamp=view.timestamp)
        if request.verbose:  # took a while: the records may be gone, and fragments of them would stay
            rest.status.CopyFrom(pods.encode_status(view.record))
            rest.info.update(node.encode_info(view.info))
            rest.containers_statuses.extend(containers.encode_status(c) for c in view.containers)
            return rest
        number = pb.PodSandboxStatusResponse.CONTAINERS_STATUSES_FIELD_NUMBER
        parts = [fragments.numbered(number, self._container_statuses.of(c)) for c in view.containers]
        return b"".join((self._pod_statuses.of(view.record), *parts, rest.SerializeToString()))

    async def list_pod_sandbox(self, request: pb.ListPodSandboxRequest, remaining: float | None) -> bytes:
        return self._pods.join(await pod_query.list_pods(self._node, pods.decode_filter(request.filter)))

    async def stream_pod_sandboxes(
        self, request: pb.StreamPodSandboxesRequest, remaining: float | None
    ) -> AsyncIterator[bytes]:
        for piece in self._pods.pieces(await pod_query.list_pods(self._node, pods.decode_filter(request.filter))):
            yield piece

    async def update_pod_sandbox_resources(
        self, request: pb.UpdatePodSandboxResourcesRequest, remaining: float | None
    ) -> pb.UpdatePodSandboxResourcesResponse:
        await pod_update.update_resources(
            self._node,
            given(request.pod_sandbox_id, "PodSandboxId"),
            resources.decode(request.overhead) if request.HasField("overhead") else None,
            resources.decode(request.resources) if request.HasField("resources") else None,
        )
        return pb.UpdatePodSandboxResourcesResponse()

    # --- containers

    async def create_container(
        self, request: pb.CreateContainerRequest, remaining: float | None
    ) -> pb.CreateContainerResponse:
        if not request.HasField("config"):
            raise InvalidRequest("CreateContainer needs a config")
        if not request.HasField("sandbox_config"):
            raise InvalidRequest("CreateContainer needs the sandbox_config of the pod")
        config, pod = containers.decode(request.config), pods.decode(request.sandbox_config)
        pod_id = given(request.pod_sandbox_id, "PodSandboxId")
        return pb.CreateContainerResponse(container_id=await container_create.create(self._node, pod_id, config, pod))

    async def start_container(
        self, request: pb.StartContainerRequest, remaining: float | None
    ) -> pb.StartContainerResponse:
        await container_start.start(self._node, given(request.container_id, "ContainerId"))
        return pb.StartContainerResponse()

    async def stop_container(
        self, request: pb.StopContainerRequest, remaining: float | None
    ) -> pb.StopContainerResponse:
        ident = given(request.container_id, "ContainerId")
        await container_stop.stop(self._node, ident, _seconds(request.timeout))
        return pb.StopContainerResponse()

    async def remove_container(
        self, request: pb.RemoveContainerRequest, remaining: float | None
    ) -> pb.RemoveContainerResponse:
        await container_remove.remove(self._node, given(request.container_id, "ContainerId"), remaining)
        return pb.RemoveContainerResponse()

    async def list_containers(self, request: pb.ListContainersRequest, remaining: float | None) -> bytes:
        wanted = containers.decode_filter(request.filter)
        return self._containers.join(await container_query.list_containers(self._node, wanted))

    async def stream_containers(
        self, request: pb.StreamContainersRequest, remaining: float | None
    ) -> AsyncIterator[bytes]:
        wanted = containers.decode_filter(request.filter)
        for piece in self._containers.pieces(await container_query.list_containers(self._node, wanted)):
            yield piece

    async def container_status(
        self, request: pb.ContainerStatusRequest, remaining: float | None
    ) -> pb.ContainerStatusResponse | bytes:
        view = await container_query.status(self._node, given(request.container_id, "ContainerId"), request.verbose)
        if not request.verbose:
            return self._container_statuses.of(view.record)
        return pb.ContainerStatusResponse(
            status=containers.encode_status(view.record), info=node.encode_info(view.info)
        )

    async def update_container_resources(
        self, request: pb.UpdateContainerResourcesRequest, remaining: float | None
    ) -> pb.UpdateContainerResourcesResponse:
        ident = given(request.container_id, "ContainerId")
        await container_update.update(self._node, ident, resources.decode(request.linux))
        return pb.UpdateContainerResourcesResponse()

    async def reopen_container_log(
        self, request: pb.ReopenContainerLogRequest, remaining: float | None
    ) -> pb.ReopenContainerLogResponse:
        await container_logs.reopen(self._node, given(request.container_id, "ContainerId"))
        return pb.ReopenContainerLogResponse()

    async def exec_sync(self, request: pb.ExecSyncRequest, remaining: float | None) -> pb.ExecSyncResponse:
        refuse_nul(request, "request")
        ident, argv = given(request.container_id, "ContainerId"), tuple(request.cmd)
        done = await container_exec.exec_sync(self._node, ident, argv, _seconds(request.timeout))
        return pb.ExecSyncResponse(stdout=done.stdout, stderr=done.stderr, exit_code=done.exit_code)

    # --- streaming sessions

    async def exec(self, request: pb.ExecRequest, remaining: float | None) -> pb.ExecResponse:
        refuse_nul(request, "request")
        given(request.container_id, "ContainerId")
        if not request.cmd:
            raise InvalidRequest("exec command cannot be empty")
        _check_streams(request)
        return pb.ExecResponse(url=await self._sessions().exec(request))

    async def attach(self, request: pb.AttachRequest, remaining: float | None) -> pb.AttachResponse:
        given(request.container_id, "ContainerId")
        _check_streams(request)
        return pb.AttachResponse(url=await self._sessions().attach(request))

    async def port_forward(self, request: pb.PortForwardRequest, remaining: float | None) -> pb.PortForwardResponse:
        given(request.pod_sandbox_id, "PodSandboxId")
        for port in request.port:
            if not 0 < port < 65536:
                raise InvalidRequest(f"port {port} is not between 1 and 65535")
        return pb.PortForwardResponse(url=await self._sessions().port_forward(request))

    def _sessions(self) -> Streams:
        if self._streams is None:
            raise Unsupported("this daemon has no streaming server: exec, attach and port-forward are not available")
        return self._streams

    # --- readings

    async def container_stats(
        self, request: pb.ContainerStatsRequest, remaining: float | None
    ) -> pb.ContainerStatsResponse:
        view = await node_stats.container_stats(self._node, given(request.container_id, "ContainerId"))
        return pb.ContainerStatsResponse(stats=stats.encode_container(view))

    async def list_container_stats(self, request: pb.ListContainerStatsRequest, remaining: float | None) -> bytes:
        wanted = containers.decode_stats_filter(request.filter)
        return b"".join(map(self._stats, await node_stats.list_container_stats(self._node, wanted)))

    async def stream_container_stats(
        self, request: pb.StreamContainerStatsRequest, remaining: float | None
    ) -> AsyncIterator[bytes]:
        wanted = containers.decode_stats_filter(request.filter)
        views = await node_stats.list_container_stats(self._node, wanted)
        for start in range(0, len(views), fragments.CHUNK):
            yield b"".join(map(self._stats, views[start : start + fragments.CHUNK]))

    def _stats(self, view: ContainerStatsView) -> bytes:
        """A container's readings as a list item; their attributes are field 1 as well, and seldom change."""
        return fragments.wrap(self._attributes.of(view.record) + stats.encode_readings(view.usage).SerializeToString())

    async def pod_sandbox_stats(
        self, request: pb.PodSandboxStatsRequest, remaining: float | None
    ) -> pb.PodSandboxStatsResponse:
        view = await node_stats.pod_stats(self._node, given(request.pod_sandbox_id, "PodSandboxId"))
        return pb.PodSandboxStatsResponse(stats=stats.encode_pod(view))

    async def list_pod_sandbox_stats(self, request: pb.ListPodSandboxStatsRequest, remaining: float | None) -> bytes:
        wanted = pods.decode_stats_filter(request.filter)
        return fragments.join([stats.encode_pod(v) for v in await node_stats.list_pod_stats(self._node, wanted)])

    async def stream_pod_sandbox_stats(
        self, request: pb.StreamPodSandboxStatsRequest, remaining: float | None
    ) -> AsyncIterator[bytes]:
        wanted = pods.decode_stats_filter(request.filter)
        views = await node_stats.list_pod_stats(self._node, wanted)
        for piece in fragments.pieces([stats.encode_pod(v) for v in views]):
            yield piece

    async def list_metric_descriptors(
        self, request: pb.ListMetricDescriptorsRequest, remaining: float | None
    ) -> pb.ListMetricDescriptorsResponse:
        return node.encode_descriptors(await node_metrics.descriptors(self._node))

    async def list_pod_sandbox_metrics(
        self, request: pb.ListPodSandboxMetricsRequest, remaining: float | None
    ) -> bytes:
        return fragments.join([node.encode_metrics(m) for m in await node_metrics.pod_metrics(self._node)])

    async def stream_pod_sandbox_metrics(
        self, request: pb.StreamPodSandboxMetricsRequest, remaining: float | None
    ) -> AsyncIterator[bytes]:
        for piece in fragments.pieces([node.encode_metrics(m) for m in await node_metrics.pod_metrics(self._node)]):
            yield piece

    async def get_container_events(self, request: pb.GetEventsRequest, remaining: float | None) -> AsyncIterator[bytes]:
        events = cast(AsyncGenerator[EventView, None], node_events.subscribe(self._node))
        async with contextlib.aclosing(events) as views:  # a caller that left must not stay subscribed
            async for view in views:
                if self._event is None or self._event[0] is not view:  # once for all callers that keep up
                    self._event = (view, node.encode_event(view).SerializeToString())
                yield self._event[1]

    # --- the node

    async def version(self, request: pb.VersionRequest, remaining: float | None) -> pb.VersionResponse:
        return node.encode_version(await node_status.version(self._node))

    async def status(self, request: pb.StatusRequest, remaining: float | None) -> pb.StatusResponse:
        return node.encode_status(await node_status.status(self._node, request.verbose))

    async def runtime_config(
        self, request: pb.RuntimeConfigRequest, remaining: float | None
    ) -> pb.RuntimeConfigResponse:
        return node.encode_runtime_config(await node_config.cgroup_driver(self._node))

    async def update_runtime_config(
        self, request: pb.UpdateRuntimeConfigRequest, remaining: float | None
    ) -> pb.UpdateRuntimeConfigResponse:
        """The pod network is the CNI configuration's business: what the kubelet tells here changes nothing."""
        return pb.UpdateRuntimeConfigResponse()

    # --- checkpoints

    async def checkpoint_container(
        self, request: pb.CheckpointContainerRequest, remaining: float | None
    ) -> pb.CheckpointContainerResponse:
        refuse_nul(request, "request")
        ident = given(request.container_id, "ContainerId")
        await container_checkpoint.checkpoint(self._node, ident, request.location, _seconds(request.timeout))
        return pb.CheckpointContainerResponse()

    async def checkpoint_pod(
        self, request: pb.CheckpointPodRequest, remaining: float | None
    ) -> pb.CheckpointPodResponse:
        refuse_nul(request, "request")
        time_left = _need_deadline(remaining, "CheckpointPod")
        ident = given(request.pod_sandbox_id, "PodSandboxId")
        await pod_checkpoint.checkpoint(
            self._node, ident, request.output_path, tuple(request.container_ids), dict(request.options), time_left
        )
        return pb.CheckpointPodResponse()

    async def restore_pod(self, request: pb.RestorePodRequest, remaining: float | None) -> pb.RestorePodResponse:
        refuse_nul(request, "request")
        time_left = _need_deadline(remaining, "RestorePod")
        if not request.HasField("config"):
            raise InvalidRequest("RestorePod needs a config")
        made = await pod_restore.restore(
            self._node,
            given(request.checkpoint_path, "checkpoint_path"),
            pods.decode(request.config),
            request.runtime_handler,
            tuple(containers.decode(c) for c in request.container_configs),
            dict(request.options),
            time_left,
        )
        restored = [pb.RestoredContainer(name=name, container_id=ident) for name, ident in made.containers]
        return pb.RestorePodResponse(pod_sandbox_id=made.pod_id, restored_containers=restored)


def _seconds(timeout: int) -> int:
    """A timeout of a request: not negative, and not longer than an event loop can wait."""
    return min(max(timeout, 0), _LONGEST_TIMEOUT)


def _need_deadline(remaining: float | None, call: str) -> float:
    if remaining is None:
        raise InvalidRequest(f"{call} needs a deadline on the request")
    return remaining


def _check_streams(request: pb.ExecRequest | pb.AttachRequest) -> None:
    if request.tty and request.stderr:
        raise InvalidRequest("tty and stderr cannot both be true: a terminal has one output")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidRequest("one of stdin, stdout and stderr must be true")
