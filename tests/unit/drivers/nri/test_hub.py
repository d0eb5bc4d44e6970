"""Plugins over a real socket: joining, being asked in order, adjusting, failing, leaving."""

from __future__ import annotations

import asyncio
import pathlib
import struct
from typing import Any

import pytest

from pycrio.drivers.nri import plugin as plugin_module
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.nri import listener
from pycrio.drivers.nri.settings import Validation
from pycrio.errors import ConfigError, PluginFailure
from pycrio.model.nri import Eviction, LimitChange, NriEvent
from pycrio.model.resources import Resources
from pycrio.obs import trace
from tests.unit.drivers.nri.support import FakePlugin, Refusal, bits, container, joined, pod, runtime


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "nri.sock")


def allow(key: str) -> bool:
    return True


async def test_without_plugins_nothing_is_wanted(path: str) -> None:
    async with runtime(path) as (nri, _):
        assert not any(nri.wanted(e) for e in NriEvent)
        assert nri._hub is None
        view = container()
        await nri.pod(NriEvent.RUN_POD, pod())
        await nri.container(NriEvent.START, pod(), view)
        assert (await nri.create(pod(), view, allow)).changes == ()
        assert (await nri.update(pod(), view, {})).resources is None
        assert (await nri.stop(pod(), view)).changes == ()


async def test_off(path: str) -> None:
    async with runtime(path, enabled=False):
        assert not pathlib.Path(path).exists()
    async with runtime(path, connections=False):
        assert not pathlib.Path(path).exists()


async def test_joining(path: str) -> None:
    async with runtime(path, registration_timeout=7, request_timeout=3) as (nri, view):
        view.pods, view.containers = [pod()], [container()]
        plugin = await FakePlugin(events=bits(NriEvent.RUN_POD)).join(path)
        await joined(nri, 1)
        asked = plugin.got["Configure"]
        assert (asked.runtime_name, asked.runtime_version) == ("cri-o", "1.0")
        assert (asked.registration_timeout, asked.request_timeout) == (7000, 3000)
        assert asked.NRI_version.startswith("v0.")
        assert [p.id for p in plugin.got["Synchronize"].pods] == ["p1"]
        assert [c.id for c in plugin.got["Synchronize"].containers] == ["c1"]
        assert [e for e in NriEvent if nri.wanted(e)] == [NriEvent.RUN_POD]
        await plugin.leave()
        await joined(nri, 0)
        assert not nri.wanted(NriEvent.RUN_POD)
    assert not pathlib.Path(path).exists()


async def test_events_reach_those_who_want_them_in_order(path: str) -> None:
    order: list[str] = []

    def note(name: str) -> Any:
        return lambda request: order.append(name) or pb.RunPodSandboxResponse()

    async with runtime(path) as (nri, _):
        late = await FakePlugin("late", "90", RunPodSandbox=note("late")).join(path)
        early = await FakePlugin("early", "05", RunPodSandbox=note("early")).join(path)
        deaf = await FakePlugin("deaf", "50", bits(NriEvent.STOP), RunPodSandbox=note("deaf")).join(path)
        await joined(nri, 3)
        await nri.pod(NriEvent.RUN_POD, pod())
        assert order == ["early", "late"]
        await nri.pod(NriEvent.UPDATE_POD, pod(), Resources(cpu_shares=1), Resources(cpu_shares=2))
        assert early.got["UpdatePodSandbox"].overhead_linux_resources.cpu.shares.value == 1
        assert early.got["UpdatePodSandbox"].linux_resources.cpu.shares.value == 2
        for event in (NriEvent.POST_UPDATE_POD, NriEvent.STOP_POD, NriEvent.REMOVE_POD):
            await nri.pod(event, pod())
        for event in (
            NriEvent.POST_CREATE,
            NriEvent.START,
            NriEvent.POST_START,
            NriEvent.POST_UPDATE,
            NriEvent.REMOVE,
        ):
            await nri.container(event, pod(), container())
        await nri.stop(pod(), container())
        assert late.calls[2:] == [
            *("RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox"),
            *("PostCreateContainer", "StartContainer", "PostStartContainer", "PostUpdateContainer", "RemoveContainer"),
            "StopContainer",
        ]
        assert late.got["StopContainer"].container.id == "c1"
        assert deaf.calls[2:] == ["StopContainer"]


async def test_old_plugins_are_told_by_state_change(path: str) -> None:
    async with runtime(path) as (nri, _):
        plugin = FakePlugin()
        plugin.missing = {"RunPodSandbox", "StartContainer", "CreateContainer", "ValidateContainerAdjustment"}
        await plugin.join(path)
        await joined(nri, 1)
        for _ in range(2):
            await nri.pod(NriEvent.RUN_POD, pod())
            assert plugin.got["StateChange"].event == pb.RUN_POD_SANDBOX
            await nri.container(NriEvent.START, pod(), container())
            assert plugin.got["StateChange"].container.id == "c1"
            await nri.create(pod(), container(), allow)
        assert plugin.calls.count("RunPodSandbox") == 1
        assert plugin.calls.count("CreateContainer") == 1
        assert plugin.calls.count("StateChange") == 4


async def test_adjustments_of_two_plugins(path: str) -> None:
    def first(request: Any) -> pb.CreateContainerResponse:
        assert request.container.state == pb.CONTAINER_UNKNOWN
        answer = pb.CreateContainerResponse(update=[pb.ContainerUpdate(container_id="other")])
        answer.adjust.env.add(key="X", value="1")
        answer.update[0].linux.resources.cpu.shares.value = 9
        answer.evict.add(container_id="third", reason="in the way")
        return answer

    def second(request: Any) -> pb.CreateContainerResponse:
        assert "X=1" in request.container.env
        answer = pb.CreateContainerResponse()
        answer.adjust.annotations["forbidden"] = "1"
        answer.adjust.mounts.add(destination="/x", source="/y", options=["relabel"])
        return answer

    async with runtime(path) as (nri, _):
        await FakePlugin("a", "01", CreateContainer=first).join(path)
        await FakePlugin("b", "02", CreateContainer=second).join(path)
        await joined(nri, 2)
        view = container()
        answer = await nri.create(pod(), view, lambda key: key != "forbidden")
        assert "X=1" in view.document["process"]["env"]
        assert view.document["annotations"] == {"own": "1"}
        assert answer.changes == (LimitChange("other", {"cpu": {"shares": 9}}),)
        assert answer.evictions == (Eviction("third", "in the way"),)
        assert answer.relabel == ("/y",)


async def test_contradictions_and_refusals(path: str) -> None:
    def adjust(request: Any) -> pb.CreateContainerResponse:
        return pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(args=["x"]))

    def refuse(request: Any) -> Any:
        raise Refusal(2, "I do not like it")

    async with runtime(path) as (nri, _):
        one = await FakePlugin("a", "01", CreateContainer=adjust).join(path)
        await FakePlugin("b", "02", CreateContainer=adjust, RunPodSandbox=refuse, StopContainer=refuse).join(path)
        await joined(nri, 2)
        with pytest.raises(PluginFailure, match="both tried to set Args"):
            await nri.create(pod(), container(), allow)
        with pytest.raises(PluginFailure, match="02-b failed RunPodSandbox: I do not like it"):
            await nri.pod(NriEvent.RUN_POD, pod())
        await nri.stop(pod(), container())  # a stop has happened, whatever plugins think of it
        await one.leave()
        await joined(nri, 1)
        await nri.create(pod(), container(), allow)


async def test_a_trace_goes_on_in_plugins(path: str) -> None:
    begun: list[str] = []

    class Noted:
        """A tracer whose spans are their names."""

        recording = True

        def __init__(self, name: str) -> None:
            self.name = name
            begun.append(name)

        def server(self, name: str, attributes: trace.Attributes, carrier: trace.Carrier) -> Noted:
            return Noted(name)

        def child(self, name: str, kind: int, attributes: trace.Attributes) -> Noted:
            return Noted(name)

        def carrier(self) -> trace.Carrier:
            return {"traceparent": f"of {self.name}"}

        def set(self, key: str, value: trace.Value) -> None: ...

        def event(self, name: str, attributes: trace.Attributes) -> None: ...

        def fail(self, text: str) -> None: ...

        def end(self) -> None: ...

    async with runtime(path) as (nri, _):
        plugin = await FakePlugin(events=bits(NriEvent.RUN_POD)).join(path)
        await joined(nri, 1)
        stop = trace.start(Noted("tracer"))
        try:
            with trace.server("call", {}, {}):
                await nri.pod(NriEvent.RUN_POD, pod())
        finally:
            stop()
        name = "nri.pkg.api.v1alpha1.Plugin/RunPodSandbox"
        assert plugin.told["RunPodSandbox"] == {"traceparent": f"of {name}"}
        assert begun == ["tracer", "call", name]
        await nri.pod(NriEvent.RUN_POD, pod())
        assert plugin.told["RunPodSandbox"] == {}


async def test_events_reach_everybody_though_one_fails(path: str) -> None:
    def refuse(request: Any) -> Any:
        raise Refusal(2, "no")

    async with runtime(path) as (nri, _):
        await FakePlugin("a", "01", StartContainer=refuse).join(path)
        second = await FakePlugin("b", "02").join(path)
        await joined(nri, 2)
        with pytest.raises(PluginFailure, match="01-a"):
            await nri.container(NriEvent.START, pod(), container())
        assert "StartContainer" in second.calls


@pytest.mark.effect("crio.nri.nri_plugin_request_timeout")
async def test_a_plugin_that_does_not_answer_is_dropped(path: str) -> None:
    def never(request: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    async with runtime(path, request_timeout=0.05) as (nri, _):
        plugin = await FakePlugin("slow", RunPodSandbox=never).join(path)
        await joined(nri, 1)
        await nri.pod(NriEvent.RUN_POD, pod())
        await plugin.closed.wait()
        await joined(nri, 0)


async def test_a_plugin_that_leaves_in_the_middle(path: str) -> None:
    async with runtime(path) as (nri, _):
        plugin = FakePlugin("gone")

        def leave(request: Any) -> asyncio.Future[Any]:
            plugin.writer.close()
            return asyncio.get_running_loop().create_future()

        plugin.handlers["CreateContainer"] = leave
        await plugin.join(path)
        await joined(nri, 1)
        view = container()
        assert (await nri.create(pod(), view, allow)).changes == ()
        await joined(nri, 0)


async def test_limits_are_changed_on_their_way(path: str) -> None:
    def change(request: Any) -> pb.UpdateContainerResponse:
        answer = pb.UpdateContainerResponse(update=[pb.ContainerUpdate(container_id=i) for i in ("c1", "other")])
        answer.update[0].linux.resources.cpu.shares.value = request.linux_resources.cpu.shares.value + 1
        answer.update[1].linux.resources.cpu.quota.value = 5
        answer.update[1].ignore_failure = True
        answer.evict.add(container_id="third")
        return answer

    async with runtime(path) as (nri, _):
        await FakePlugin("a", "01", UpdateContainer=change).join(path)
        await FakePlugin("b", "02").join(path)
        await joined(nri, 2)
        answer = await nri.update(pod(), container(), {"cpu": {"shares": 10, "period": 3}})
        assert answer.resources == {"cpu": {"shares": 11, "period": 3}}
        assert answer.changes == (LimitChange("other", {"cpu": {"quota": 5}}, True),)
        assert answer.evictions == (Eviction("third"),)


async def test_what_a_plugin_asks_by_itself(path: str) -> None:
    async with runtime(path) as (nri, view):
        view.refuse = {"bad", "worse"}
        plugin = await FakePlugin().join(path)
        await joined(nri, 1)
        request = pb.UpdateContainersRequest(
            update=[
                pb.ContainerUpdate(container_id="good"),
                pb.ContainerUpdate(container_id="bad"),
                pb.ContainerUpdate(container_id="worse", ignore_failure=True),
            ],
            evict=[pb.ContainerEviction(container_id="third", reason="why not")],
        )
        request.update[0].linux.resources.cpu.cpus = "0"
        answer = pb.UpdateContainersResponse.FromString(await plugin.call("UpdateContainers", request))
        assert [u.container_id for u in answer.failed] == ["bad"]
        assert view.changes == [LimitChange("good", {"cpu": {"cpus": "0"}})]
        assert view.evictions == [Eviction("third", "why not")]


async def test_what_a_plugin_asks_while_it_is_asked(path: str) -> None:
    async with runtime(path) as (nri, view):
        plugin = FakePlugin()

        async def handler(request: Any) -> pb.CreateContainerResponse:
            await plugin.call(
                "UpdateContainers", pb.UpdateContainersRequest(update=[pb.ContainerUpdate(container_id="x")])
            )
            return pb.CreateContainerResponse()

        plugin.handlers["CreateContainer"] = handler
        await plugin.join(path)
        await joined(nri, 1)
        await nri.create(pod(), container(), allow)
        assert [c.container_id for c in view.changes] == ["x"]


async def test_updates_of_a_joining_plugin(path: str) -> None:
    def synchronize(request: Any) -> pb.SynchronizeResponse:
        answer = pb.SynchronizeResponse(update=[pb.ContainerUpdate(container_id="c1")])
        answer.update[0].linux.resources.cpu.shares.value = 3
        return answer

    async with runtime(path) as (_, view):
        await FakePlugin(Synchronize=synchronize).join(path)
        await view.changed.wait()
        assert view.changes == [LimitChange("c1", {"cpu": {"shares": 3}})]


async def test_what_happens_while_one_joins_waits_for_it(path: str) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def synchronize(request: Any) -> pb.SynchronizeResponse:
        reached.set()
        await go_on.wait()
        return pb.SynchronizeResponse()

    async with runtime(path) as (nri, _):
        plugin = FakePlugin(Synchronize=synchronize)
        joining = asyncio.create_task(plugin.join(path))
        await reached.wait()
        assert nri.wanted(NriEvent.CREATE)
        creating = asyncio.create_task(nri.create(pod(), container("late"), allow))
        go_on.set()
        await creating
        await joining
        assert plugin.got["CreateContainer"].container.id == "late"


async def test_a_large_node_comes_in_parts(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_module, "_ROOM", 2000)
    async with runtime(path) as (nri, view):
        view.pods = [pod(f"p{i}") for i in range(10)]
        view.containers = [container(f"c{i}") for i in range(10)]
        parts: list[Any] = []

        def collect(request: Any) -> pb.SynchronizeResponse:
            parts.append(request)
            return pb.SynchronizeResponse(more=request.more)

        await FakePlugin(Synchronize=collect).join(path)
        await joined(nri, 1)
        assert len(parts) > 2
        assert [p.more for p in parts] == [True] * (len(parts) - 1) + [False]
        assert [p.id for part in parts for p in part.pods] == [f"p{i}" for i in range(10)]
        assert [c.id for part in parts for c in part.containers] == [f"c{i}" for i in range(10)]
        unable = await FakePlugin(Synchronize=lambda r: pb.SynchronizeResponse()).connect(path)
        await unable.register()
        await unable.closed.wait()
        await joined(nri, 1)


@pytest.mark.parametrize(
    ("name", "index", "complaint"),
    [("", "10", "name"), ("a/b", "10", "name"), ("ok", "1", "index"), ("ok", "ab", "index")],
)
async def test_identities_that_are_refused(path: str, name: str, index: str, complaint: str) -> None:
    async with runtime(path):
        plugin = await FakePlugin(name, index).connect(path)
        with pytest.raises(Refusal, match=complaint) as caught:
            await plugin.register()
        assert caught.value.code == 3
        await plugin.leave()


async def test_misuse_of_the_runtime_service(path: str) -> None:
    async with runtime(path) as (nri, _):
        plugin = await FakePlugin().connect(path)
        for method, service, flags, code in (
            ("UpdateContainers", "Runtime", 0, 9),
            ("Nonsense", "Runtime", 0, 12),
            ("RegisterPlugin", "Plugin", 0, 12),
            ("RegisterPlugin", "Runtime", 2, 12),
        ):
            with pytest.raises(Refusal) as caught:
                await plugin.call(method, pb.Empty(), service, flags)
            assert caught.value.code == code
        await plugin.register()
        await plugin.synchronized.wait()
        await joined(nri, 1)
        with pytest.raises(Refusal) as caught:
            await plugin.register()
        assert caught.value.code == 9
        await plugin.leave()


async def test_who_does_not_register_is_dropped(path: str) -> None:
    async with runtime(path, registration_timeout=0.05) as (nri, _):
        plugin = await FakePlugin().connect(path)
        await plugin.closed.wait()
        await joined(nri, 0)


async def test_configurations_that_fail(path: str) -> None:
    def refuse(request: Any) -> Any:
        raise Refusal(2, "no")

    async with runtime(path) as (nri, _):
        for handler in (refuse, lambda r: pb.ConfigureResponse(events=1 << 20)):
            plugin = await FakePlugin(Configure=handler).connect(path)
            await plugin.register()
            await plugin.closed.wait()
        refused = await FakePlugin(Synchronize=refuse).connect(path)
        await refused.register()
        await refused.closed.wait()
        await joined(nri, 0)


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">II", 2, 12) + struct.pack(">IIBB", 2, 1, 1, 0) + b"\xff\xff",
        struct.pack(">II", 2, 10) + struct.pack(">IIBB", 0, 2, 1, 0),
        struct.pack(">II", 2, 20) + struct.pack(">IIBB", 0, 1, 1, 0) * 2,
        struct.pack(">II", 2, 10) + struct.pack(">IIBB", 1 << 30, 1, 1, 0),
    ],
    ids=["http", "not protobuf", "even stream", "stream again", "huge"],
)
async def test_who_does_not_speak_the_protocol_is_dropped(path: str, junk: bytes) -> None:
    async with runtime(path) as (nri, _):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(junk)
        while await reader.read(4096):
            pass
        writer.close()
        await writer.wait_closed()
        await (await FakePlugin().join(path)).leave()
        await joined(nri, 0)


async def test_an_answer_that_is_no_message(path: str) -> None:
    class Answer:
        def SerializeToString(self) -> bytes:
            return b"\xff\xff\xff"

    async with runtime(path) as (nri, _):
        plugin = await FakePlugin(CreateContainer=lambda r: Answer()).join(path)
        await joined(nri, 1)
        await nri.create(pod(), container(), allow)
        await plugin.closed.wait()


async def test_validators(path: str) -> None:
    seen: list[Any] = []

    def adjust(request: Any) -> pb.CreateContainerResponse:
        return pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(args=["x"]))

    def judge(request: Any) -> pb.ValidateContainerAdjustmentResponse:
        seen.append(request)
        return pb.ValidateContainerAdjustmentResponse(reject=len(seen) > 1, reason="seen enough")

    async with runtime(path) as (nri, _):
        await FakePlugin("a", "01", bits(NriEvent.CREATE), CreateContainer=adjust).join(path)
        await FakePlugin("v", "99", bits(NriEvent.VALIDATE), ValidateContainerAdjustment=judge).join(path)
        await joined(nri, 2)
        await nri.create(pod(), container(), allow)
        assert list(seen[0].container.args) == ["sh"]
        assert list(seen[0].adjust.args) == ["x"]
        assert seen[0].owners.owners["c1"].simple[pb.Args] == "01-a"
        assert [(p.index, p.name) for p in seen[0].plugins] == [("01", "a"), ("99", "v")]
        view = container()
        with pytest.raises(PluginFailure, match="99-v rejected the adjustment: seen enough"):
            await nri.create(pod(), view, allow)
        assert view.document["process"]["args"] == ["sh"]


async def test_a_validator_that_dies_says_no(path: str) -> None:
    async with runtime(path, request_timeout=0.05) as (nri, _):
        plugin = FakePlugin("v", "99", bits(NriEvent.VALIDATE))
        plugin.handlers["ValidateContainerAdjustment"] = lambda r: asyncio.get_running_loop().create_future()
        await plugin.join(path)
        await joined(nri, 1)
        with pytest.raises(PluginFailure, match="did not answer"):
            await nri.create(pod(), container(), allow)


async def test_the_built_in_validator_needs_no_plugin(path: str) -> None:
    async with runtime(path, validation=Validation(enabled=True, required=("a",))) as (nri, _):
        assert nri.wanted(NriEvent.CREATE)
        with pytest.raises(PluginFailure, match="required NRI plugins are not there: a"):
            await nri.create(pod(), container(), allow)
        await FakePlugin("a", "10").join(path)
        await joined(nri, 1)
        await nri.create(pod(), container(), allow)


async def test_plugins_are_told_of_the_end(path: str) -> None:
    async with runtime(path) as (nri, _):
        plugin = await FakePlugin().join(path)
        await joined(nri, 1)
    await plugin.closed.wait()
    assert plugin.calls[-1] == "Shutdown"


async def test_the_socket(path: str) -> None:
    async with runtime(path):
        assert pathlib.Path(path).stat().st_mode & 0o777 == 0o600
        assert listener(path) is None  # a live one belongs to somebody
        async with runtime(path) as (other, _):
            assert other._server is None
        await FakePlugin().join(path)  # accepted after those who only looked whether anybody is there
    stale = listener(path)
    assert stale is not None
    stale.close()
    again = listener(path)
    assert again is not None
    again.close()
    with pytest.raises(ConfigError, match="nri_listen"):
        listener("/proc/nowhere/nri.sock")
