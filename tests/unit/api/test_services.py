"""The two services over gRPC, with the real flows on a host of fakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.api import fragments
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.boundary import status_of
from pycrio.api.codes import Code
from pycrio.api.image import ImageService
from pycrio.api.methods import snake
from pycrio.api.runtime import RuntimeService
from pycrio.errors import PycrioError, Timeout
from pycrio.flows.node.events import Bus
from pycrio.flows.node_state import Node
from pycrio.flows.views import EventView
from pycrio.model.event import Event
from tests.fakes.node import FakeHost, fake_node
from tests.unit.api import client, cri_table, strategies
from tests.unit.api.conftest import Serve

ABSENT = "f" * 64


def pod_message(name: str = "web", **changes: Any) -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, uid=f"u-{name}", namespace="default"),
        labels={"app": name},
        linux=pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(pid=pb.CONTAINER))
        ),
        **changes,
    )


def container_message(name: str = "app", **changes: Any) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image="busybox"), labels={"c": name}, **changes
    )


class Caller:
    """Calls by name on one channel."""

    def __init__(self, channel: grpc.aio.Channel, node: Node, fake: FakeHost) -> None:
        self.channel = channel
        self.node = node
        self.fake = fake

    async def __call__(self, name: str, /, **fields: Any) -> Any:
        return await client.call(self.channel, name, **fields)

    async def code(self, name: str, /, **fields: Any) -> tuple[Code, str]:
        """Status of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(self.channel, name, **fields)
        return client.code(caught.value), caught.value.details() or ""

    async def pod(self, name: str = "web") -> str:
        return str((await self("RunPodSandbox", config=pod_message(name))).pod_sandbox_id)

    async def container(self, pod: str, name: str = "app", start: bool = True) -> str:
        if not self.fake.images.stored:
            self.fake.images.add()
        made = await self(
            "CreateContainer", pod_sandbox_id=pod, config=container_message(name), sandbox_config=pod_message()
        )
        if start:
            await self("StartContainer", container_id=made.container_id)
        return str(made.container_id)


@contextlib.asynccontextmanager
async def cri(serve: Serve, tmp_path: pathlib.Path, **options: Any) -> AsyncIterator[Caller]:
    async with fake_node(str(tmp_path / "state"), **options) as (node, fake):
        async with serve(RuntimeService(node), ImageService(node)) as (channel, _):
            yield Caller(channel, node, fake)


def nothing_held(fake: FakeHost) -> bool:
    return not any(fake.held().values())


# --- the life of a pod


async def test_a_life(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        pod = await call.pod()
        container = await call.container(pod)
        assert [p.id for p in (await call("ListPodSandbox")).items] == [pod]
        assert [c.id for c in (await call("ListContainers")).containers] == [container]
        status = (await call("ContainerStatus", container_id=container[:12])).status
        assert (status.id, status.state, status.image.image) == (
            container,
            pb.CONTAINER_RUNNING,
            "docker.io/library/busybox:latest",
        )
        assert status.image_id == (await call("ImageStatus", image=pb.ImageSpec(image="busybox"))).image.id
        sandbox = await call("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
        assert sandbox.status.network.ip == "10.88.0.2"
        assert "runtimeSpec" in json.loads(sandbox.info["info"])
        done = await call("ExecSync", container_id=container, cmd=["echo", "hi"])
        assert (done.stdout, done.exit_code) == (b"echo hi", 0)
        assert (await call("ExecSync", container_id=container, cmd=["false"])).exit_code == 1
        await call("UpdateContainerResources", container_id=container, linux=pb.LinuxContainerResources(cpu_shares=512))
        assert (await call("ContainerStatus", container_id=container)).status.resources.linux.cpu_shares == 512
        await call("ReopenContainerLog", container_id=container)
        await call("StopContainer", container_id=container, timeout=5)
        assert (await call("ContainerStatus", container_id=container)).status.state == pb.CONTAINER_EXITED
        await call("RemoveContainer", container_id=container)
        await call("StopPodSandbox", pod_sandbox_id=pod)
        assert (await call("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        await call("RemovePodSandbox", pod_sandbox_id=pod)
        assert (await call("ListPodSandbox")).items == []
        assert nothing_held(call.fake)


async def test_statuses_asked_again_are_those_of_verbose_answers(serve: Serve, tmp_path: pathlib.Path) -> None:
    """Short answers are joined from kept parts, verbose ones are made anew: the same but for what only those have."""
    async with cri(serve, tmp_path, enable_pod_events=True) as call:
        pod = await call.pod()
        container, other = await call.container(pod), await call.container(pod, "other", start=False)

        async def compared() -> tuple[Any, Any]:
            found = []
            for name, ident in (
                ("ContainerStatus", {"container_id": container}),
                ("PodSandboxStatus", {"pod_sandbox_id": pod}),
            ):
                first, again = await call(name, **ident), await call(name, **ident)
                verbose = await call(name, **ident, verbose=True)
                assert verbose.info["info"]
                verbose.info.clear()
                for answer in (first, again, verbose):
                    if name == "PodSandboxStatus":
                        assert answer.timestamp
                        answer.timestamp = 0
                assert first == again == verbose
                found.append(first)
            return found[0], found[1]

        status, sandbox = await compared()
        assert status.status.state == pb.CONTAINER_RUNNING
        # newest first: of several containers of a name a kubelet takes the first one
        assert [(c.id, c.state) for c in sandbox.containers_statuses] == [
            (other, pb.CONTAINER_CREATED),
            (container, pb.CONTAINER_RUNNING),
        ]
        await call("StopContainer", container_id=container)
        await call("RemoveContainer", container_id=other)
        status, sandbox = await compared()
        assert status.status.state == pb.CONTAINER_EXITED
        assert [(c.id, c.state) for c in sandbox.containers_statuses] == [(container, pb.CONTAINER_EXITED)]


async def test_the_same_request_gives_the_same_object(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        assert await call.pod() == await call.pod()
        pod = await call.pod()
        assert await call.container(pod, start=False) == await call.container(pod, start=False)


async def test_readings(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        pod = await call.pod()
        container = await call.container(pod)
        one = (await call("ContainerStats", container_id=container)).stats
        assert one.memory.working_set_bytes.value == 80
        assert one.attributes.metadata.name == "app"
        many = (await call("ListContainerStats")).stats
        assert [m.attributes for m in many] == [one.attributes]
        assert many[0].writable_layer.used_bytes.value == 42
        stats = (await call("PodSandboxStats", pod_sandbox_id=pod)).stats
        assert stats.linux.network.default_interface.name == "eth0"
        assert stats.linux.containers[0].attributes.id == container
        assert [s.attributes.id for s in (await call("ListPodSandboxStats")).stats] == [pod]


async def test_the_node(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        assert (await call("Version")).runtime_api_version == "v1"
        status = await call("Status", verbose=True)
        assert {c.type for c in status.status.conditions} == {"RuntimeReady", "NetworkReady"}
        assert json.loads(status.info["config"])["crio"]["Runtimes"]["runc"]["RuntimePath"] == "/usr/sbin/runc"
        assert {h.name for h in status.runtime_handlers} == {"", "runc"}
        assert (await call("RuntimeConfig")).linux.cgroup_driver == pb.CGROUPFS
        await call("UpdateRuntimeConfig")


# --- images


async def test_images(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path, pinned_images=("docker.io/library/kept*",)) as call:
        for name in ("docker.io/library/busybox:latest", "docker.io/library/kept:1"):
            call.fake.registry.offer(name, ("a", "b"))
        pulled = await call("PullImage", image=pb.ImageSpec(image="busybox"), auth=pb.AuthConfig(username="u"))
        await call("PullImage", image=pb.ImageSpec(image="kept:1"), sandbox_config=pod_message())
        images = {i.repo_tags[0]: i for i in (await call("ListImages")).images}
        assert images["docker.io/library/busybox:latest"].id == pulled.image_ref
        assert images["docker.io/library/kept:1"].pinned
        only = await call("ListImages", filter=pb.ImageFilter(image=pb.ImageSpec(image="kept:1")))
        assert len(only.images) == 1
        status = await call("ImageStatus", image=pb.ImageSpec(image="busybox"), verbose=True)
        assert status.image.size > 0
        assert "info" in status.info
        assert not (await call("ImageStatus", image=pb.ImageSpec(image="absent"))).HasField("image")
        usage = await call("ImageFsInfo")
        assert usage.image_filesystems[0].fs_id.mountpoint
        assert usage.container_filesystems[0].HasField("used_bytes")
        await call("RemoveImage", image=pb.ImageSpec(image=pulled.image_ref))
        await call("RemoveImage", image=pb.ImageSpec(image=pulled.image_ref))
        assert not (await call("ImageStatus", image=pb.ImageSpec(image="busybox"))).HasField("image")


async def test_bad_image_requests(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        for name in ("PullImage", "ImageStatus", "RemoveImage"):
            assert (await call.code(name))[0] is Code.INVALID_ARGUMENT
            assert (await call.code(name, image=pb.ImageSpec(image="a\0b")))[0] is Code.INVALID_ARGUMENT
            assert (await call.code(name, image=pb.ImageSpec(image="a b\n")))[0] is Code.INVALID_ARGUMENT
        code, text = await call.code("PullImage", image=pb.ImageSpec(image="absent"))
        assert (code, "manifest unknown" in text) == (Code.UNKNOWN, True)


async def test_an_abandoned_pull_ends(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        call.fake.registry.offer("docker.io/library/busybox:latest")
        reached, _ = call.fake.script.stop_at("layers.unpack")
        first = asyncio.ensure_future(call("PullImage", image=pb.ImageSpec(image="busybox")))
        await reached.wait()
        ((pull, _),) = call.node.pulling._running.values()
        first.cancel()
        await asyncio.wait({first, pull})
        call.fake.script.hold.clear()
        await call("PullImage", image=pb.ImageSpec(image="busybox"))
        assert call.fake.script.count("registry.resolve") == 2
        assert nothing_held(call.fake)


# --- lists


async def test_filters(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        web, db = await call.pod("web"), await call.pod("db")
        one, two = await call.container(web, "one"), await call.container(db, "two", start=False)

        async def pods(**fields: Any) -> set[str]:
            return {p.id for p in (await call("ListPodSandbox", filter=pb.PodSandboxFilter(**fields))).items}

        async def containers(**fields: Any) -> set[str]:
            return {c.id for c in (await call("ListContainers", filter=pb.ContainerFilter(**fields))).containers}

        await call("StopPodSandbox", pod_sandbox_id=web)
        assert await pods() == {web, db}
        assert await pods(id=web[:20]) == {web}
        assert await pods(id=ABSENT) == set()
        assert await pods(state=pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY)) == {web}
        assert await pods(label_selector={"app": "db"}) == {db}
        assert await pods(label_selector={"app": "db"}, id=web) == set()
        assert await containers() == {one, two}
        assert await containers(pod_sandbox_id=db[:20]) == {two}
        assert await containers(pod_sandbox_id=ABSENT) == set()
        assert await containers(state=pb.ContainerStateValue(state=pb.CONTAINER_EXITED)) == {one}
        assert await containers(label_selector={"c": "one"}, pod_sandbox_id=db) == set()


async def test_lists_follow_changes(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        container = await call.container(await call.pod(), start=False)
        for verb, state in (("StartContainer", pb.CONTAINER_RUNNING), ("StopContainer", pb.CONTAINER_EXITED)):
            await call(verb, container_id=container)
            (item,) = (await call("ListContainers")).containers
            assert item.state == state


async def test_stream_lists_in_chunks(serve: Serve, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "CHUNK", 2)
    async with cri(serve, tmp_path) as call:
        pods = [await call.pod(f"p{i}") for i in range(5)]
        containers = [await call.container(p) for p in pods]
        for name, field, ids in (
            ("StreamPodSandboxes", "pod_sandboxes", pods),
            ("StreamContainers", "containers", containers),
        ):
            answers = [getattr(a, field) async for a in client.stream(call.channel, name)]
            assert [len(a) for a in answers] == [2, 2, 1]
            assert sorted(item.id for a in answers for item in a) == sorted(ids)
        for name, field in (
            ("StreamContainerStats", "container_stats"),
            ("StreamPodSandboxStats", "pod_sandbox_stats"),
        ):
            answers = [getattr(a, field) async for a in client.stream(call.channel, name)]
            assert [len(a) for a in answers] == [2, 2, 1]
        assert [len(a.images) async for a in client.stream(call.channel, "StreamImages")] == [1]
        nothing = pb.ContainerFilter(id=ABSENT)
        assert [a async for a in client.stream(call.channel, "StreamContainers", filter=nothing)] == []


class Telling(Bus):
    """Tells when somebody listens."""

    def __init__(self, view: Callable[[Event], EventView], expected: int) -> None:
        super().__init__(view)
        self._expected = expected
        self.all_there = asyncio.Event()

    async def listen(self) -> AsyncIterator[EventView]:
        self._expected -= 1
        if not self._expected:
            self.all_there.set()
        async for event in super().listen():
            yield event


async def test_events_show_what_was_then_to_listeners_of_any_speed(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path, enable_pod_events=True) as call:
        call.node.events = bus = Telling(call.node._seen, 2)
        streams = [client.stream(call.channel, "GetContainerEvents", deadline=None) for _ in range(2)]
        first = [asyncio.ensure_future(s.read()) for s in streams]
        await bus.all_there.wait()
        pod = await call.pod()
        container = await call.container(pod)
        await call("StopContainer", container_id=container)
        await call("StopPodSandbox", pod_sandbox_id=pod)
        await call("RemovePodSandbox", pod_sandbox_id=pod)
        for began, stream in zip(first, streams, strict=True):
            found = [await began] + [await stream.read() for _ in range(7)]
            kinds = [(e.container_event_type, e.container_id == pod) for e in found]
            created, started, stopped, deleted = range(4)
            assert kinds == [
                (created, True),
                (started, True),
                (created, False),
                (started, False),
                (stopped, False),
                (stopped, True),
                (deleted, False),
                (deleted, True),
            ]
            # though everything had gone before the second one was read
            assert {e.pod_sandbox_status.metadata.name for e in found} == {"web"}
            states = [e.pod_sandbox_status.state for e in found]
            assert states == [pb.SANDBOX_READY] * 5 + [pb.SANDBOX_NOTREADY] * 3
            assert [[c.state for c in e.containers_statuses] for e in found] == [
                [],
                [],
                [pb.CONTAINER_CREATED],
                [pb.CONTAINER_RUNNING],
                [pb.CONTAINER_EXITED],
                [pb.CONTAINER_EXITED],
                [],
                [],
            ]
            stream.cancel()


async def test_no_events_when_off(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        assert [e async for e in client.stream(call.channel, "GetContainerEvents")] == []


# --- refusals


@pytest.mark.parametrize(
    "name",
    ["StopPodSandbox", "RemovePodSandbox", "StopContainer", "RemoveContainer"],
)
async def test_taking_down_the_absent_succeeds(serve: Serve, tmp_path: pathlib.Path, name: str) -> None:
    async with cri(serve, tmp_path) as call:
        field = "pod_sandbox_id" if "Pod" in name else "container_id"
        await call(name, **{field: ABSENT})
        assert (await call.code(name))[0] is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("PodSandboxStatus", "pod_sandbox_id"),
        ("UpdatePodSandboxResources", "pod_sandbox_id"),
        ("PodSandboxStats", "pod_sandbox_id"),
        ("ContainerStatus", "container_id"),
        ("StartContainer", "container_id"),
        ("ContainerStats", "container_id"),
        ("UpdateContainerResources", "container_id"),
        ("ReopenContainerLog", "container_id"),
        ("CheckpointContainer", "container_id"),
    ],
)
async def test_asking_for_the_absent(serve: Serve, tmp_path: pathlib.Path, name: str, field: str) -> None:
    async with cri(serve, tmp_path) as call:
        code, text = await call.code(name, **{field: ABSENT})
        assert code is Code.NOT_FOUND
        assert ABSENT in text
        assert (await call.code(name))[0] is Code.INVALID_ARGUMENT


async def test_exec_sync_refusals(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        assert (await call.code("ExecSync", container_id=ABSENT, cmd=["true"]))[0] is Code.NOT_FOUND
        container = await call.container(await call.pod())
        assert (await call.code("ExecSync", container_id=container))[0] is Code.INVALID_ARGUMENT
        assert (await call.code("ExecSync", container_id=container, cmd=["a\0"]))[0] is Code.INVALID_ARGUMENT
        code, text = await call.code("ExecSync", container_id=container, cmd=["sleep", "9"], timeout=1)
        assert (code, text) == (Code.DEADLINE_EXCEEDED, "command timed out")
        await call("StopContainer", container_id=container)
        assert (await call.code("ExecSync", container_id=container, cmd=["true"]))[0] is Code.NOT_FOUND


async def test_states_that_do_not_allow_it(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        pod = await call.pod()
        container = await call.container(pod)
        assert (await call.code("StartContainer", container_id=container))[0] is Code.FAILED_PRECONDITION
        await call("StopPodSandbox", pod_sandbox_id=pod)
        code, text = await call.code(
            "CreateContainer", pod_sandbox_id=pod, config=container_message("x"), sandbox_config=pod_message()
        )
        assert (code, "sandbox was stopped" in text) == (Code.FAILED_PRECONDITION, True)


async def test_creates_that_lack_something(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        assert (await call.code("RunPodSandbox"))[0] is Code.INVALID_ARGUMENT
        assert (await call.code("RunPodSandbox", config=pod_message(), runtime_handler="x"))[0] is Code.INVALID_ARGUMENT
        pod = await call.pod()
        for fields in (
            {},
            {"config": container_message()},
            {"config": container_message(), "sandbox_config": pb.PodSandboxConfig()},
            {"sandbox_config": pod_message()},
        ):
            assert (await call.code("CreateContainer", pod_sandbox_id=pod, **fields))[0] is Code.INVALID_ARGUMENT
        whole = {"config": container_message(), "sandbox_config": pod_message()}
        assert (await call.code("CreateContainer", pod_sandbox_id=pod, **whole))[0] is Code.NOT_FOUND
        assert (await call.code("CreateContainer", pod_sandbox_id=ABSENT, **whole))[0] is Code.NOT_FOUND


async def test_failures_of_the_host_undo_everything(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        call.fake.script.fail["network.add"] = Timeout("CNI plugin bridge did not answer")
        code, text = await call.code("RunPodSandbox", config=pod_message())
        assert (code, text) == (Code.DEADLINE_EXCEEDED, "CNI plugin bridge did not answer")
        assert nothing_held(call.fake)
        call.fake.script.fail["network.add"] = KeyError("bug")
        code, text = await call.code("RunPodSandbox", config=pod_message())
        assert (code, "KeyError" in text) == (Code.INTERNAL, True)
        assert nothing_held(call.fake)


async def test_a_run_whose_caller_left_is_kept_for_the_retry(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        reached, go = call.fake.script.stop_at("network.add")
        first = asyncio.ensure_future(call.pod())
        await reached.wait()
        first.cancel()
        await asyncio.wait({first})
        go.set()
        pod = await call.pod()
        assert call.fake.script.count("network.add") == 1
        assert [p.id for p in (await call("ListPodSandbox")).items] == [pod]


# --- sessions


class Urls:
    """A streaming server that only hands URLs out."""

    async def exec(self, request: pb.ExecRequest) -> str:
        return f"http://h/exec/{request.container_id}"

    async def attach(self, request: pb.AttachRequest) -> str:
        return "http://h/attach"

    async def port_forward(self, request: pb.PortForwardRequest) -> str:
        return f"http://h/portforward/{list(request.port)}"


async def test_sessions(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path / "state")) as (node, fake):
        async with serve(RuntimeService(node, Urls())) as (channel, _):
            call = Caller(channel, node, fake)
            assert (await call("Exec", container_id="c", cmd=["sh"], stdout=True)).url == "http://h/exec/c"
            assert (await call("Attach", container_id="c", stdin=True)).url == "http://h/attach"
            assert (await call("PortForward", pod_sandbox_id="p", port=[80])).url == "http://h/portforward/[80]"
            for name, fields in (
                ("Exec", {"container_id": "c", "cmd": ["sh"], "tty": True, "stderr": True}),
                ("Exec", {"container_id": "c", "cmd": ["sh"]}),
                ("Exec", {"container_id": "c", "stdout": True}),
                ("Exec", {"cmd": ["sh"], "stdout": True}),
                ("Attach", {"container_id": "c"}),
                ("Attach", {"stdin": True}),
                ("PortForward", {}),
                ("PortForward", {"pod_sandbox_id": "p", "port": [0]}),
                ("PortForward", {"pod_sandbox_id": "p", "port": [65536]}),
            ):
                assert (await call.code(name, **fields))[0] is Code.INVALID_ARGUMENT


async def test_without_a_streaming_server(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        for name, fields in (
            ("Exec", {"container_id": "c", "cmd": ["sh"], "stdout": True}),
            ("Attach", {"container_id": "c", "stdout": True}),
            ("PortForward", {"pod_sandbox_id": "p"}),
        ):
            assert (await call.code(name, **fields))[0] is Code.UNIMPLEMENTED


async def test_pod_checkpoints_need_a_deadline(serve: Serve, tmp_path: pathlib.Path) -> None:
    async with cri(serve, tmp_path) as call:
        for name in ("CheckpointPod", "RestorePod"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.call(call.channel, name, deadline=None)
            assert (client.code(caught.value), "deadline" in (caught.value.details() or "")) == (
                Code.INVALID_ARGUMENT,
                True,
            )


# --- any request at all

NAMES = [m for methods in cri_table.SERVICES.values() for m, *_ in methods]
REQUESTS = {m: request for methods in cri_table.SERVICES.values() for m, request, *_ in methods}


def with_real_ids(message: Any, ids: dict[str, str]) -> Any:
    """The message with the ids of objects that exist, and with what every pod and container must have."""
    for name, value in ids.items():
        if name in message.DESCRIPTOR.fields_by_name:
            setattr(message, name, value)
    if isinstance(message, pb.RunPodSandboxRequest):
        message.config.MergeFrom(pod_message("other"))
        message.runtime_handler = ""
    if isinstance(message, pb.CreateContainerRequest):
        message.config.MergeFrom(container_message("other"))
        message.sandbox_config.MergeFrom(pod_message())
    return message


async def answer(services: tuple[Any, ...], name: str, message: Any) -> None:
    """Make one call as the boundary does; what it raises is raised."""
    method = next(getattr(s, snake(name)) for s in services if hasattr(s, snake(name)))
    called = method(message, 10.0)
    if hasattr(called, "__aiter__"):
        async for piece in called:
            assert piece
    else:
        found = await called
        assert isinstance(found, bytes) or found.IsInitialized()


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(NAMES), st.data(), st.booleans())
def test_any_request_gets_an_answer_or_a_sensible_code(name: str, data: st.DataObject, real: bool) -> None:
    message = data.draw(strategies.message(REQUESTS[name]))

    async def run(directory: str) -> None:
        async with fake_node(directory) as (node, fake):
            services = (RuntimeService(node), ImageService(node))
            fake.images.add()
            runtime = services[0]
            made = await runtime.run_pod_sandbox(pb.RunPodSandboxRequest(config=pod_message()), None)
            create = pb.CreateContainerRequest(
                pod_sandbox_id=made.pod_sandbox_id, config=container_message(), sandbox_config=pod_message()
            )
            container = (await runtime.create_container(create, None)).container_id
            ids = {"pod_sandbox_id": made.pod_sandbox_id, "container_id": container}
            try:
                await asyncio.wait_for(answer(services, name, with_real_ids(message, ids) if real else message), 20)
            except PycrioError as e:
                code, text = status_of(e)
                assert code is not Code.INTERNAL
                assert text
            for pod in list(node.pods):
                await runtime.remove_pod_sandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), 10.0)
            assert nothing_held(fake)
            assert len(node.containers) == 0

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        asyncio.run(run(directory))


def test_every_call_is_there() -> None:
    for service, kind in (("RuntimeService", RuntimeService), ("ImageService", ImageService)):
        for name, *_ in cri_table.SERVICES[service]:
            assert callable(getattr(kind, snake(name)))
