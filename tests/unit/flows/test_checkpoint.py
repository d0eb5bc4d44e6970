"""Checkpoints and restores as flows: who is frozen when, what failures undo, what is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator

import pytest

from pycrio.errors import InvalidRequest, PycrioError, RuntimeFailure, Timeout, Unsupported
from pycrio.flows import recover
from pycrio.flows.containers import checkpoint, create, start, stop
from pycrio.flows.node_state import Node
from pycrio.flows.pods import checkpoint as pod_checkpoint
from pycrio.flows.pods import restore as pod_restore
from pycrio.flows.pods import run as run_pod
from pycrio.model.container import ContainerState
from pycrio.model.image import ImageSpec
from tests.fakes.node import FakeHost, container_config, fake_node, pod_config

TARGET = "/var/ckpt.tar"


@contextlib.asynccontextmanager
async def running(
    tmp_path: pathlib.Path, count: int = 1, **options: object
) -> AsyncIterator[tuple[Node, FakeHost, str, list[str]]]:
    """A pod with running containers, on a host that can checkpoint."""
    async with fake_node(str(tmp_path), **options) as (node, fake):
        fake.checkpoints.reason = ""
        fake.images.add()
        pod = await run_pod.run(node, pod_config(), "")
        idents = []
        for number in range(count):
            idents.append(await create.create(node, pod, container_config(f"app{number}"), pod_config()))
            await start.start(node, idents[-1])
        yield node, fake, pod, idents


def scratch(fake: FakeHost) -> list[str]:
    return [path for path in fake.files.files if "/capture-" in path]


async def test_it_is_frozen_for_the_capture_only(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (node, fake, _, (ident,)):
        await checkpoint.checkpoint(node, ident, TARGET, 0)
        assert fake.checkpoints.frozen_at_capture == [{ident}]
        calls = fake.script.calls
        assert calls.index("changes.save") < len(calls) - 1 - calls[::-1].index("runtime.pause")
        assert not fake.runtime.frozen
        assert {"config.dump", "spec.dump"} <= set(fake.checkpoints.archives[TARGET])
        record = node.containers.get(ident)
        assert (record.paused, record.checkpointed_at > 0, record.state) == (False, True, ContainerState.RUNNING)
        assert scratch(fake) == []


@pytest.mark.parametrize("step", ["runtime.pause", "checkpoints.capture", "changes.save", "checkpoints.pack"])
async def test_every_failure_lets_it_run_on(tmp_path: pathlib.Path, step: str) -> None:
    async with running(tmp_path, 2) as (node, fake, pod, idents):
        fake.files.dirs.add("/out")
        fake.script.fail[step] = RuntimeFailure("no")
        with pytest.raises(RuntimeFailure):
            await checkpoint.checkpoint(node, idents[0], TARGET, 0)
        with pytest.raises(RuntimeFailure):
            await pod_checkpoint.checkpoint(node, pod, "/out", tuple(idents), {}, 60)
        del fake.script.fail[step]
        if step != "runtime.pause":
            assert not fake.runtime.frozen
            assert not any(node.containers.get(i).paused for i in idents)
        assert scratch(fake) == []
        assert not [path for path in fake.files.files if path.startswith(("/out", TARGET))]
        assert all(node.live(i).unfrozen.is_set() for i in idents)


async def test_all_of_a_pod_are_frozen_before_the_first_is_captured(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path, 3) as (node, fake, pod, idents):
        fake.files.dirs.add("/out")
        await pod_checkpoint.checkpoint(node, pod, "/out", (idents[2], idents[0]), {}, 60)
        assert fake.checkpoints.frozen_at_capture == [{idents[2], idents[0]}] * 2
        assert not fake.runtime.frozen
        manifest = json.loads(fake.files.files["/out/pod-checkpoint.json"])
        assert [c["name"] for c in manifest["containers"]] == ["app2", "app0"]


async def test_a_deadline_that_has_passed(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (node, fake, pod, idents):
        fake.files.dirs.add("/out")
        with pytest.raises(Timeout):
            await pod_checkpoint.checkpoint(node, pod, "/out", tuple(idents), {}, 0)
        assert not fake.runtime.frozen
        await pod_checkpoint.checkpoint(node, pod, "/out", tuple(idents), {}, 60)
        with pytest.raises(Timeout):
            await pod_restore.restore(node, "/out", pod_config("new"), "", (container_config("app0"),), {}, 0)
        assert [p.id for p in node.pods] == [pod]


async def test_a_stop_waits_for_the_capture(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (node, fake, _, (ident,)):
        reached, go_on = fake.script.stop_at("checkpoints.capture")
        saving = asyncio.create_task(checkpoint.checkpoint(node, ident, TARGET, 0))
        await reached.wait()
        stopping = asyncio.create_task(stop.stop(node, ident, 0))
        for _ in range(20):
            await asyncio.sleep(0)
        assert ident in fake.table.alive.values()
        go_on.set()
        await asyncio.gather(saving, stopping)
        assert node.containers.get(ident).state is ContainerState.EXITED


async def test_an_interrupted_checkpoint_is_ended_at_the_next_start(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (node, fake, _, (ident,)):
        reached, _ = fake.script.stop_at("checkpoints.capture")
        saving = asyncio.create_task(checkpoint.checkpoint(node, ident, TARGET, 0))
        await reached.wait()
        assert fake.runtime.frozen == {ident}
        again = Node(fake.host, str(tmp_path))  # what a daemon finds that comes after a killed one
        await recover.recover(again)
        assert not fake.runtime.frozen
        assert again.containers.get(ident).paused is False
        assert scratch(fake) == []
        saving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await saving


@pytest.mark.parametrize("level", ["checkpoint_only", "checkpoint_restore"])
async def test_restores_may_be_forbidden(tmp_path: pathlib.Path, level: str) -> None:
    async with running(tmp_path, checkpoint=level) as (node, fake, pod, (ident,)):
        await checkpoint.checkpoint(node, ident, TARGET, 0)
        config = container_config("restored", image=ImageSpec(TARGET))
        if level == "checkpoint_only":
            with pytest.raises(Unsupported, match="checkpoint_only"):
                await create.create(node, pod, config, pod_config())
            return
        new = await create.create(node, pod, config, pod_config())
        assert new not in fake.monitors.requests
        record = node.containers.get(new)
        assert (record.awaits_restore, record.pid, record.config.image.image) == (True, 0, record.image_name)
        fake.files.dirs.add(
            node.pods.get(pod).shm_path
        )  # a mount of the fake host, which keeps no directories for them
        await start.start(node, new)
        request = fake.monitors.requests[new]
        assert request.restore_from == f"{record.persist_dir}/restore/checkpoint"
        assert request.restore_options == ("--file-locks",)
        assert node.containers.get(new).state is ContainerState.RUNNING
        assert not [path for path in fake.files.files if "/restore/" in path]


async def test_a_host_that_cannot(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (node, fake, pod, idents):
        await checkpoint.checkpoint(node, idents[0], TARGET, 0)
        fake.checkpoints.reason = "no criu"
        fake.files.dirs.add("/out")
        with pytest.raises(Unsupported, match="no criu"):
            await checkpoint.checkpoint(node, idents[0], TARGET, 0)
        with pytest.raises(Unsupported, match="no criu"):
            await pod_checkpoint.checkpoint(node, pod, "/out", tuple(idents), {}, 60)
        with pytest.raises(Unsupported, match="no criu"):
            await create.create(node, pod, container_config("x", image=ImageSpec(TARGET)), pod_config())
        with pytest.raises(Unsupported, match="no criu"):
            await pod_restore.restore(node, "/out", pod_config("new"), "", (), {}, 60)


async def test_a_pod_of_a_checkpoint(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path, 2) as (node, fake, pod, idents):
        fake.files.dirs.add("/out")
        await pod_checkpoint.checkpoint(node, pod, "/out", tuple(idents), {}, 60)
        configs = (container_config("app0"), container_config("app1"))
        with pytest.raises(InvalidRequest, match="exactly"):
            await pod_restore.restore(node, "/out", pod_config("new"), "", configs[:1], {}, 60)
        before = fake.held()
        for step in ("checkpoints.unpack", "changes.load", "rootfs.mount", "network.add"):
            fake.script.fail[step] = RuntimeFailure("no")
            with pytest.raises(PycrioError):
                await pod_restore.restore(node, "/out", pod_config("new"), "", configs, {}, 60)
            del fake.script.fail[step]
            assert [p.id for p in node.pods] == [pod]
            assert fake.held() == before
        fake.images.add("docker.io/library/other:latest")
        other = (configs[0], container_config("app1", image=ImageSpec("other")))
        with pytest.raises(InvalidRequest, match="was made with image"):
            await pod_restore.restore(node, "/out", pod_config("new"), "", other, {}, 60)
        assert fake.held() == before
        made = await pod_restore.restore(node, "/out", pod_config("new"), "", configs, {}, 60)
        assert [name for name, _ in made.containers] == ["app0", "app1"]
        assert all(node.containers.get(i).awaits_restore for _, i in made.containers)
        await stop.stop(node, made.containers[0][1], 0)
        assert node.containers.get(made.containers[0][1]).exit_code == 137
