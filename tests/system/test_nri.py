"""NRI plugins on the real thing: what they adjust is what containers get, and they follow what happens."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import grpc
import pytest

from pycrio.api._pb import api_pb2 as cri
from pycrio.drivers.nri._pb import nri_pb2 as pb
from tests.isolation import Isolation, short_directory
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, refused, secured
from tests.unit.drivers.nri.support import FakePlugin, Refusal

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
T = TypeVar("T")


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    place = pathlib.Path(short_directory())
    socket = f"{place}/nri.sock"
    text = f'[crio.nri]\nenable_nri = true\nnri_listen = "{socket}"\nnri_plugin_request_timeout = "20s"\n'
    node = make_node(images, isolation, drop_in=text)
    node.daemon.env["NRI"] = socket
    yield node
    end_node(node)
    assert not pathlib.Path(socket).exists()
    place.rmdir()


async def off(work: Callable[..., T], *args: Any, **more: Any) -> T:
    """A call of the node beside the loop, on which the plugins answer."""
    return await asyncio.to_thread(work, *args, **more)


@contextlib.asynccontextmanager
async def plugged(node: Node, plugin: FakePlugin) -> AsyncIterator[FakePlugin]:
    """A plugin that has joined."""
    await plugin.join(node.daemon.env["NRI"])
    try:
        yield plugin
    finally:
        FakePlugin.everyone.remove(plugin)
        await plugin.leave()


@pytest.mark.effect("crio.nri.enable_nri", "crio.nri.nri_listen")
async def test_what_plugins_adjust_is_what_a_container_gets(node: Node, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("from the host\n")

    def adjust(request: Any) -> pb.CreateContainerResponse:
        answer = pb.CreateContainerResponse()
        answer.adjust.env.add(key="ADDED", value="by a plugin")
        answer.adjust.env.add(key="-GONE")
        answer.adjust.mounts.add(
            destination="/mnt", source=str(tmp_path), type="bind", options=["bind", "ro", "rprivate"]
        )
        answer.adjust.args.extend(["sh", "-c", "echo $ADDED/$GONE; cat /mnt/file; ls -l /dev/other; ulimit -n"])
        answer.adjust.linux.devices.add(path="/dev/other", type="c", major=1, minor=5).file_mode.value = 0o640
        answer.adjust.rlimits.add(type="RLIMIT_NOFILE", hard=77, soft=77)
        return answer

    async with plugged(node, FakePlugin(CreateContainer=adjust)) as plugin:
        pod = await off(node.pod, "adjusted")
        code, text = await off(node.run, pod, "false", envs=[{"key": "GONE", "value": b"x"}])
        assert code == 0, text
        first, second, device, limit = text.splitlines()
        assert (first, second, limit) == ("by a plugin/", "from the host", "77")
        assert device.startswith("crw-r-----")
        seen = plugin.got["PostCreateContainer"].container
        assert "ADDED=by a plugin" in seen.env
        assert plugin.got["CreateContainer"].pod.name == "adjusted"
        await off(node.remove_pod, pod)
        assert [c for c in plugin.calls if c not in {"Configure", "Synchronize"}] == [
            "RunPodSandbox",
            *("CreateContainer", "ValidateContainerAdjustment", "PostCreateContainer"),
            *("StartContainer", "PostStartContainer", "StopContainer", "RemoveContainer"),
            *("StopPodSandbox", "RemovePodSandbox"),
        ]


async def test_limits_by_plugins(node: Node) -> None:
    def double(request: Any) -> pb.UpdateContainerResponse:
        answer = pb.UpdateContainerResponse(update=[pb.ContainerUpdate(container_id=request.container.id)])
        answer.update[0].linux.resources.cpu.shares.value = 2 * request.linux_resources.cpu.shares.value
        return answer

    def shares(ident: str) -> int:
        return int(node.status(ident).resources.linux.cpu_shares)

    async with plugged(node, FakePlugin(UpdateContainer=double)) as plugin:
        pod = await off(node.pod)
        ident = await off(node.start, pod, "sleep", "1000")
        await off(node.cri.UpdateContainerResources, container_id=ident, linux={"cpu_shares": 300})
        assert await off(shares, ident) == 600
        assert plugin.got["PostUpdateContainer"].container.linux.resources.cpu.shares.value == 600
        request = pb.UpdateContainersRequest(update=[pb.ContainerUpdate(container_id=ident)])
        request.update[0].linux.resources.cpu.shares.value = 900
        assert pb.UpdateContainersResponse.FromString(await plugin.call("UpdateContainers", request)).failed == []
        assert await off(shares, ident) == 900
        request.update[0].linux.resources.cpu.cpus = "4000"
        failed = pb.UpdateContainersResponse.FromString(await plugin.call("UpdateContainers", request)).failed
        assert [f.container_id for f in failed] == [ident]
        await plugin.call(
            "UpdateContainers", pb.UpdateContainersRequest(evict=[pb.ContainerEviction(container_id=ident)])
        )
        assert (await off(node.ended, ident)).exit_code == 137


async def test_refusals_leave_nothing(node: Node) -> None:
    def refuse(request: Any) -> Any:
        raise Refusal(2, "not with me")

    pod = await off(node.pod)
    async with plugged(node, FakePlugin(RunPodSandbox=refuse, CreateContainer=refuse)):

        def attempts() -> None:
            with refused(grpc.StatusCode.UNKNOWN, "10-test", "not with me"):
                node.pod("refused")
            with refused(grpc.StatusCode.UNKNOWN, "10-test", "not with me"):
                node.create(pod, "true")

        await off(attempts)
    assert await off(node.sh, pod, "echo fine") == "fine\n"


async def test_a_plugin_that_dies_takes_nothing_along(node: Node) -> None:
    plugin = FakePlugin()

    def die(request: Any) -> asyncio.Future[Any]:
        plugin.writer.transport.abort()
        return asyncio.get_running_loop().create_future()

    plugin.handlers["CreateContainer"] = die
    async with plugged(node, plugin):
        pod = await off(node.pod)
        assert await off(node.sh, pod, "echo fine") == "fine\n"


async def test_after_a_restart_plugins_learn_what_runs(node: Node) -> None:
    pod = await off(node.pod)
    ident = await off(node.start, pod, "sleep", "1000")
    before = FakePlugin()
    async with plugged(node, before):
        await off(node.daemon.kill)
        await before.closed.wait()
        await off(node.daemon.start)
    async with plugged(node, FakePlugin()) as plugin:
        state = plugin.got["Synchronize"]
        assert [p.id for p in state.pods] == [pod]
        assert [(c.id, c.state) for c in state.containers] == [(ident, pb.CONTAINER_RUNNING)]
        assert list(state.containers[0].args) == ["sleep", "1000"]


VALIDATOR = """
[crio.nri.default_validator]
nri_enable_default_validator = true
nri_validator_reject_oci_hook_adjustment = true
nri_validator_reject_runtime_default_seccomp_adjustment = true
nri_validator_reject_unconfined_seccomp_adjustment = true
nri_validator_reject_custom_seccomp_adjustment = true
nri_validator_reject_namespace_adjustment = true
nri_validator_required_plugins = ["10-test"]
nri_validator_tolerate_missing_plugins_annotation = "without.it"
"""


@pytest.mark.effect(
    "crio.nri.default_validator.nri_enable_default_validator",
    "crio.nri.default_validator.nri_validator_reject_oci_hook_adjustment",
    "crio.nri.default_validator.nri_validator_reject_runtime_default_seccomp_adjustment",
    "crio.nri.default_validator.nri_validator_reject_unconfined_seccomp_adjustment",
    "crio.nri.default_validator.nri_validator_reject_custom_seccomp_adjustment",
    "crio.nri.default_validator.nri_validator_reject_namespace_adjustment",
    "crio.nri.default_validator.nri_validator_required_plugins",
    "crio.nri.default_validator.nri_validator_tolerate_missing_plugins_annotation",
)
async def test_the_default_validator(node: Node, tmp_path: pathlib.Path) -> None:
    custom = tmp_path / "profile.json"
    custom.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    kind = cri.SecurityProfile
    profiles = {
        "unconfined": kind(profile_type=kind.Unconfined),
        "default": kind(profile_type=kind.RuntimeDefault),
        "custom": kind(profile_type=kind.Localhost, localhost_ref=str(custom)),
    }
    adjustments: dict[str, Callable[[Any], Any]] = {
        "OCI hooks": lambda a: a.hooks.poststop.add(path="/bin/true"),
        "namespaces": lambda a: a.linux.namespaces.add(type="uts"),
        **dict.fromkeys(
            profiles, lambda a: a.linux.seccomp_policy.MergeFrom(pb.LinuxSeccomp(default_action="SCMP_ACT_ALLOW"))
        ),
    }

    def work(words: dict[str, str]) -> None:
        pod = node.pod()
        for name, word in words.items():
            with refused(grpc.StatusCode.UNKNOWN, word):
                node.create(pod, "true", linux=secured(seccomp=profiles.get(name)))
        node.remove_pod(pod)

    with node.configured(VALIDATOR):
        await off(work, {"nobody": "10-test"})
        tolerant = await off(node.pod, annotations={"without.it": "true"})
        assert await off(node.run, tolerant, "true") == (0, "")
        for name, adjust in adjustments.items():

            def create(request: Any, adjust: Callable[[Any], Any] = adjust) -> pb.CreateContainerResponse:
                answer = pb.CreateContainerResponse()
                adjust(answer.adjust)
                return answer

            word = {"default": "runtime's default", "custom": "custom profiles"}.get(name, name)
            async with plugged(node, FakePlugin(CreateContainer=create)):
                await off(work, {name: word})
        async with plugged(node, FakePlugin()):
            pod = await off(node.pod)
            assert await off(node.run, pod, "true") == (0, "")
            await off(node.remove_pod, pod)
        await off(node.remove_pod, tolerant)
