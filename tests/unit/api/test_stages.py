"""Each call of the host fails, or the caller leaves during it: nothing half-made stays, and a retry succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.boundary import Boundary, status_of
from pycrio.api.codes import Code
from pycrio.api.image import ImageService
from pycrio.api.runtime import RuntimeService
from pycrio.errors import PycrioError, RuntimeFailure
from pycrio.flows.node_state import Node
from tests.fakes.node import FakeHost, fake_node
from tests.unit.api.test_services import container_message, pod_message

MOST = 60


@dataclass
class World:
    """A node with an image, and the ids of what was made so far."""

    node: Node
    fake: FakeHost
    runtime: RuntimeService
    images: ImageService
    pod: str = ""
    container: str = ""

    async def run_pod(self) -> None:
        config = pod_message()
        config.port_mappings.add(container_port=80, host_port=8080)
        config.linux.security_context.namespace_options.pid = pb.POD
        made = await self.runtime.run_pod_sandbox(pb.RunPodSandboxRequest(config=config), 30)
        self.pod = made.pod_sandbox_id

    async def create(self) -> None:
        config = container_message()
        config.mounts.add(container_path="/image", image=pb.ImageSpec(image="busybox"), readonly=True)
        config.mounts.add(container_path="/data", host_path="/srv/data")
        request = pb.CreateContainerRequest(pod_sandbox_id=self.pod, config=config, sandbox_config=pod_message())
        self.container = (await self.runtime.create_container(request, 30)).container_id

    async def start(self) -> None:
        await self.runtime.start_container(pb.StartContainerRequest(container_id=self.container), 30)

    async def stop(self) -> None:
        await self.runtime.stop_container(pb.StopContainerRequest(container_id=self.container), 30)

    async def remove(self) -> None:
        await self.runtime.remove_container(pb.RemoveContainerRequest(container_id=self.container), 30)

    async def stop_pod(self) -> None:
        await self.runtime.stop_pod_sandbox(pb.StopPodSandboxRequest(pod_sandbox_id=self.pod), 30)

    async def remove_pod(self) -> None:
        await self.runtime.remove_pod_sandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=self.pod), 30)

    async def pull(self) -> None:
        await self.images.pull_image(pb.PullImageRequest(image=pb.ImageSpec(image="other")), 30)

    def whole(self) -> bool:
        """Records and what is held fit together: what a record names is there, and nothing else is."""
        held = self.fake.held()
        if not len(self.node.pods) and any(held.values()):
            return False
        return set(self.fake.rootfs.kept) == {c.id for c in self.node.containers}


BEFORE: dict[str, tuple[str, ...]] = {
    "run_pod": (),
    "create": ("run_pod",),
    "start": ("run_pod", "create"),
    "stop": ("run_pod", "create", "start"),
    "remove": ("run_pod", "create", "start"),
    "stop_pod": ("run_pod", "create", "start"),
    "remove_pod": ("run_pod", "create", "start"),
    "pull": (),
}


@contextlib.asynccontextmanager
async def world(step: str) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        async with fake_node(str(pathlib.Path(directory))) as (node, fake):
            fake.images.add()
            fake.registry.offer("docker.io/library/other:latest", ("a", "b", "c"))
            made = World(node, fake, RuntimeService(node), ImageService(node))
            for earlier in BEFORE[step]:
                await getattr(made, earlier)()
            yield made


async def take_down(made: World, failed_call: str = "") -> None:
    """Remove everything that there is, and look that nothing is left but what a removal could not release."""
    for pod in list(made.node.pods):
        await made.runtime.remove_pod_sandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), 30)
    assert not len(made.node.pods)
    assert not len(made.node.containers)
    await asyncio.sleep(0)
    assert not made.node._live
    assert not made.node.turns._locks
    assert not made.node.unborn
    # RemovePodSandbox goes on past a broken network, which is swept at the next start.
    excused = {"hostports.remove": "hostports", "network.delete": "network"}.get(failed_call)
    left = {k: v for k, v in made.fake.held().items() if v and k != excused}
    assert not left


async def refusal(act: Callable[[], Coroutine[Any, Any, None]]) -> str:
    """What a call refuses with, "" when it does not."""
    try:
        await act()
    except (PycrioError, ValueError) as e:
        return str(e)
    return ""


@pytest.mark.parametrize("kind", [RuntimeFailure, ValueError], ids=["foreseen", "unforeseen"])
@pytest.mark.parametrize("step", sorted(BEFORE))
async def test_every_call_fails_once(step: str, kind: type[Exception]) -> None:
    for index in range(MOST):
        async with world(step) as made:
            before = len(made.fake.script.calls)
            made.fake.script.arm(index, kind("this call fails"))
            said = await refusal(getattr(made, step))
            if not made.fake.script.disarm():
                assert not said
                break
            call = made.fake.script.calls[before + index]
            if said:
                assert "this call fails" in said
                if step in ("run_pod", "create", "pull"):
                    assert made.whole(), f"{step} call {index}: {call}: {made.fake.held()}"
                if step != "start":  # a container that did not start is gone
                    await getattr(made, step)()
            await take_down(made, call if step == "remove_pod" else "")
    else:
        pytest.fail(f"{step} makes more than {MOST} calls: is there no end?")


@pytest.mark.parametrize("step", sorted(BEFORE))
async def test_the_caller_leaves_during_every_call(step: str) -> None:
    """The boundary shields what makes or removes something: the flow ends well and the retry finds its work done."""
    for index in range(MOST):
        async with world(step) as made:
            there, go = asyncio.Event(), asyncio.Event()
            boundary = Boundary()

            async def pause(there: asyncio.Event = there, go: asyncio.Event = go) -> None:
                there.set()
                await go.wait()

            act: Callable[[], Coroutine[Any, Any, None]] = getattr(made, step)
            made.fake.script.arm(index, pause)
            call = asyncio.ensure_future(boundary.shield(act()) if step != "pull" else act())
            reached = asyncio.ensure_future(there.wait())
            await asyncio.wait({call, reached}, return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            if not there.is_set():
                await call
                break
            call.cancel()
            await asyncio.wait({call}) if step != "pull" else await asyncio.sleep(0)
            go.set()
            await boundary.drain(30)
            await asyncio.wait({call})
            made.fake.script.disarm()
            assert made.whole(), f"{step} call {index}: {made.fake.held()}"
            if step != "start":
                await act()
            await take_down(made)
    else:
        pytest.fail(f"{step} makes more than {MOST} calls: is there no end?")


class Crowd:
    """Many callers at once, who do anything to a few pods and containers."""

    def __init__(self, made: World, seed: int) -> None:
        self.made = made
        self.random = random.Random(seed)
        made.fake.script.jitter = self.random
        self.pods: list[str] = []
        self.containers: list[str] = []
        self.refused: list[PycrioError] = []
        self.boundary = Boundary()

    def some(self, known: list[str]) -> str:
        return self.random.choice(known[-3:]) if known else "0" * 64

    async def come(self) -> None:
        """Make one call at some time, and perhaps leave during it."""
        for _ in range(self.random.randrange(60)):
            await asyncio.sleep(0)

        async def enter() -> None:
            await self.boundary.shield(self.act())

        call = asyncio.ensure_future(enter())
        for _ in range(self.random.randrange(200)):
            await asyncio.sleep(0)
        if self.random.random() < 0.3:
            call.cancel()
        await asyncio.wait({call})

    async def act(self) -> None:
        """One call."""
        runtime = self.made.runtime
        (choice,) = self.random.choices(range(11), (3, 3, 6, 6, 6, 3, 2, 1, 1, 3, 3))
        try:
            if choice < 2:
                config = pod_message(self.random.choice(["a", "b"]))
                made = await runtime.run_pod_sandbox(pb.RunPodSandboxRequest(config=config), 30)
                self.pods.append(made.pod_sandbox_id)
            elif choice < 4:
                request = pb.CreateContainerRequest(
                    pod_sandbox_id=self.some(self.pods),
                    config=container_message(self.random.choice(["x", "y"])),
                    sandbox_config=pod_message(),
                )
                self.containers.append((await runtime.create_container(request, 30)).container_id)
            elif choice == 4:
                await runtime.start_container(pb.StartContainerRequest(container_id=self.some(self.containers)), 30)
            elif choice == 5:
                await runtime.stop_container(pb.StopContainerRequest(container_id=self.some(self.containers)), 30)
            elif choice == 6:
                await runtime.remove_container(pb.RemoveContainerRequest(container_id=self.some(self.containers)), 30)
            elif choice == 9:
                self.made.fake.table.end(self.some(self.containers), 3)
            elif choice == 10:
                command = pb.ExecSyncRequest(container_id=self.some(self.containers), cmd=["true"])
                await runtime.exec_sync(command, 30)
            elif choice == 7:
                await runtime.stop_pod_sandbox(pb.StopPodSandboxRequest(pod_sandbox_id=self.some(self.pods)), 30)
            else:
                await runtime.remove_pod_sandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=self.some(self.pods)), 30)
        except PycrioError as e:
            self.refused.append(e)


@pytest.mark.parametrize("seed", range(40))
async def test_a_crowd_leaves_nothing(seed: int) -> None:
    async with world("run_pod") as made:
        crowd = Crowd(made, seed)
        for _ in range(3):
            await asyncio.wait_for(asyncio.gather(*(crowd.come() for _ in range(40))), 60)
            assert await crowd.boundary.drain(60) == 0
        assert {status_of(e)[0] for e in crowd.refused} <= {Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.ABORTED}
        assert crowd.pods
        await take_down(made)
