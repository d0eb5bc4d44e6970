"""What NRI plugins are told in the life of pods and containers, and what they may do there."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from pycrio.errors import InvalidRequest, NotFound, PluginFailure, RuntimeFailure, WrongState
from pycrio.flows.containers import create, remove, start, stop, update
from pycrio.flows.node_state import Node
from pycrio.flows.pods import remove as pod_remove
from pycrio.flows.pods import run as pod_run
from pycrio.flows.pods import stop as pod_stop
from pycrio.flows.pods import update as pod_update
from pycrio.model.container import ContainerState
from pycrio.model.nri import Eviction, LimitChange, NriAnswer, NriEvent
from pycrio.model.resources import Resources
from tests.fakes.node import FakeHost, container_config, fake_node, pod_config

E = NriEvent
Env = tuple[Node, FakeHost]


@pytest.fixture
async def env(tmp_path: pathlib.Path) -> AsyncIterator[Env]:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.images.add()
        fake.nri.listening = True
        yield node, fake


async def run(node: Node) -> str:
    return await pod_run.run(node, pod_config(), "")


async def make(node: Node, pod: str, name: str = "app", **changes: Any) -> str:
    return await create.create(node, pod, container_config(name, **changes), pod_config())


async def test_a_whole_life(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    container = await make(node, pod)
    await start.start(node, container)
    await update.update(node, container, Resources(cpu_shares=99))
    await pod_update.update_resources(node, pod, None, Resources(cpu_shares=100))
    await stop.stop(node, container, 1)
    await remove.remove(node, container, None)
    await pod_stop.stop(node, pod, None)
    await pod_stop.stop(node, pod, None)
    await pod_remove.remove(node, pod, None)
    assert fake.nri.told == [
        (E.RUN_POD, pod),
        *((e, container) for e in (E.CREATE, E.POST_CREATE, E.START, E.POST_START, E.UPDATE, E.POST_UPDATE)),
        *((e, pod) for e in (E.UPDATE_POD, E.POST_UPDATE_POD)),
        *((e, container) for e in (E.STOP, E.REMOVE)),
        *((e, pod) for e in (E.STOP_POD, E.REMOVE_POD)),
    ]
    assert fake.nri.seen[container].document["linux"]["resources"]["cpu"]["shares"] == 99


async def test_nobody_listens(env: Env) -> None:
    node, fake = env
    fake.nri.listening = False
    pod = await run(node)
    await start.start(node, await make(node, pod))
    await pod_remove.remove(node, pod, None)
    assert fake.nri.told == []


async def test_an_end_that_nobody_asked_for(env: Env) -> None:
    node, fake = env
    container = await make(node, await run(node))
    await start.start(node, container)
    fake.table.end(container, 3)
    await node.live(container).exited.wait()
    assert fake.nri.told[-1] == (E.STOP, container)
    assert fake.nri.seen[container].record.exit_code == 3


async def test_containers_stop_before_their_pod_while_its_network_is_there(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    container = await make(node, pod)
    await start.start(node, container)
    reached, go_on = fake.script.stop_at("nri.stop_pod")
    stopping = asyncio.create_task(pod_stop.stop(node, pod, None))
    await reached.wait()
    assert node.containers.get(container).state is ContainerState.EXITED
    assert fake.nri.told[-2:] == [(E.STOP, container), (E.STOP_POD, pod)]
    assert fake.network.attached
    go_on.set()
    await stopping
    assert not fake.network.attached


async def test_a_pod_is_not_shown_before_plugins_agree(env: Env) -> None:
    node, fake = env
    reached, go_on = fake.script.stop_at("nri.run_pod")
    running = asyncio.create_task(run(node))
    await reached.wait()
    assert len(node.pods) == 0
    with pytest.raises(NotFound):
        await make(node, fake.nri.told[0][1])
    go_on.set()
    assert node.pods.get(await running).ready


async def test_a_refused_pod_leaves_nothing(env: Env) -> None:
    node, fake = env
    before = fake.held()
    fake.script.fail["nri.run_pod"] = PluginFailure("no")
    with pytest.raises(PluginFailure):
        await run(node)
    pod = fake.nri.told[0][1]
    assert fake.nri.told == [(E.RUN_POD, pod), (E.STOP_POD, pod), (E.REMOVE_POD, pod)]
    assert (fake.held(), len(node.pods)) == (before, 0)
    del fake.script.fail["nri.run_pod"]
    await run(node)


async def test_a_refused_container_leaves_nothing(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    before = fake.held()
    for step in ("nri.create", "monitors.create"):
        fake.nri.told.clear()
        fake.script.fail = {step: PluginFailure("no")}
        with pytest.raises(PluginFailure):
            await make(node, pod)
        assert [e for e, _ in fake.nri.told] == [E.CREATE, E.STOP, E.REMOVE]
        assert (fake.held(), len(node.containers)) == (before, 0)
        assert (await node.plugins.state()).containers == ()
    fake.script.fail = {}
    await make(node, pod)


@pytest.mark.parametrize("event", [e for e in E if e not in {E.RUN_POD, E.CREATE, E.UPDATE, E.UPDATE_POD, E.VALIDATE}])
async def test_what_plugins_cannot_refuse(env: Env, event: NriEvent) -> None:
    node, fake = env
    fake.script.fail[f"nri.{event.name.lower()}"] = PluginFailure("no")
    await test_a_whole_life(env)
    assert (len(node.pods), len(node.containers)) == (0, 0)


async def test_a_refused_update_changes_nothing(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    container = await make(node, pod)
    fake.script.fail = {"nri.update": PluginFailure("no"), "nri.update_pod": PluginFailure("no")}
    with pytest.raises(PluginFailure):
        await update.update(node, container, Resources(cpu_shares=99))
    with pytest.raises(PluginFailure):
        await pod_update.update_resources(node, pod, None, Resources(cpu_shares=100))
    assert node.containers.get(container).resources.cpu_shares == 0
    assert node.pods.get(pod).config.resources is None
    assert fake.runtime.updates == {}


async def test_a_container_that_does_not_start_is_stopped_and_removed(env: Env) -> None:
    node, fake = env
    container = await make(node, await run(node))
    fake.script.fail["runtime.start"] = RuntimeFailure("no")
    with pytest.raises(RuntimeFailure):
        await start.start(node, container)
    assert [e for e, i in fake.nri.told if i == container][-3:] == [E.START, E.STOP, E.REMOVE]


async def test_adjustments_reach_config_and_record(env: Env) -> None:
    node, fake = env
    asked: dict[str, bool] = {}

    def adjust(document: dict[str, Any], permitted: Callable[[str], bool]) -> None:
        asked.update({k: permitted(k) for k in ("harmless", "devices.crio.io", "io.kubernetes.cri-o.Devices/x")})
        document["process"]["env"].append("ADDED=1")
        document["process"]["oomScoreAdj"] = 7
        document["linux"]["cgroupsPath"] = "/else"
        document["linux"]["mountLabel"] = "label"
        document["linux"]["resources"] |= {
            "memory": {"limit": 1 << 30, "swap": 1 << 30},
            "cpu": {"shares": 5},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],  # the fake host has no such controller
        }

    fake.nri.adjust = adjust
    fake.nri.answer = NriAnswer(relabel=("/y",))
    container = await make(node, await run(node), resources=Resources(cpu_quota=10))
    record = node.containers.get(container)
    view = await node.plugins.view(record)
    assert "ADDED=1" in view.document["process"]["env"]
    assert "hugepageLimits" not in view.document["linux"]["resources"]
    assert record.cgroup_path == "/else"
    assert record.resources == Resources(cpu_quota=10, cpu_shares=5, memory_limit=1 << 30, oom_score_adj=7)
    assert asked == {"harmless": True, "devices.crio.io": False, "io.kubernetes.cri-o.Devices/x": False}


async def test_too_little_memory(env: Env) -> None:
    node, fake = env
    fake.nri.adjust = lambda document, _: document["linux"]["resources"].update({"memory": {"limit": 4096}})
    with pytest.raises(InvalidRequest, match="too low"):
        await make(node, await run(node))


async def test_limits_of_others(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    other = await make(node, pod, "other")
    fake.nri.answer = NriAnswer(
        changes=(
            LimitChange(other, {"cpu": {"shares": 3}}),
            LimitChange("gone", {"cpu": {"shares": 3}}),
        )
    )
    await make(node, pod, "app")
    assert fake.runtime.updates == {other: {"cpu": {"shares": 3}}}
    assert node.containers.get(other).resources.cpu_shares == 3
    fake.script.fail["runtime.update"] = RuntimeFailure("no")
    with pytest.raises(RuntimeFailure):
        await make(node, pod, "third")
    fake.nri.answer = NriAnswer(changes=(LimitChange(other, {"cpu": {"shares": 4}}, tolerated=True),))
    await make(node, pod, "fourth")
    assert node.containers.get(other).resources.cpu_shares == 3


async def test_limits_that_a_stop_sets_free(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    one, two = await make(node, pod, "one"), await make(node, pod, "two")
    await start.start(node, one)
    fake.nri.answer = NriAnswer(changes=(LimitChange(two, {"cpu": {"shares": 8}}), LimitChange(one, {"cpu": {}})))
    await stop.stop(node, one, 1)
    assert node.containers.get(two).resources.cpu_shares == 8


async def test_an_update_as_plugins_want_it(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    container, other = await make(node, pod), await make(node, pod, "other")
    fake.nri.answer = NriAnswer(changes=(LimitChange(other, {"cpu": {"quota": 3}}),), resources={"cpu": {"shares": 55}})
    await update.update(node, container, Resources(cpu_shares=99, cpu_period=7))
    assert fake.runtime.updates == {other: {"cpu": {"quota": 3}}, container: {"cpu": {"shares": 55}}}
    assert node.containers.get(container).resources == Resources(cpu_shares=55)


async def test_two_updates_that_change_each_other(env: Env) -> None:
    """Each holds its own container and changes the other's limits: they must not wait for each other."""
    node, fake = env
    pod = await run(node)
    one, two = await make(node, pod, "one"), await make(node, pod, "two")
    fake.nri.answer = NriAnswer(
        changes=(LimitChange(one, {"cpu": {"shares": 1}}), LimitChange(two, {"cpu": {"shares": 2}}))
    )
    await asyncio.gather(*(update.update(node, c, Resources(cpu_quota=9)) for c in (one, two)))
    for ident, shares in ((one, 1), (two, 2)):
        assert node.containers.get(ident).resources == Resources(cpu_shares=shares, cpu_quota=9)


async def test_a_container_that_waits_to_be_restored_has_no_limits_to_change(env: Env) -> None:
    node, fake = env
    container = await make(node, await run(node))
    node.containers.put(replace(node.containers.get(container), restored_from="/checkpoint"))
    with pytest.raises(WrongState, match="not restored yet"):
        await update.update(node, container, Resources(cpu_shares=99))
    assert fake.runtime.updates == {}
    node.containers.put(replace(node.containers.get(container), restored_from=""))


async def test_evictions(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    victim, container = await make(node, pod, "victim"), await make(node, pod)
    await start.start(node, victim)
    fake.nri.answer = NriAnswer(evictions=(Eviction(victim, "in the way"), Eviction("gone")))
    await update.update(node, container, Resources(cpu_shares=99))
    await node.live(victim).exited.wait()
    assert node.containers.get(victim).state is ContainerState.EXITED


async def test_what_a_joining_plugin_learns(env: Env) -> None:
    node, fake = env
    pod = await run(node)
    ended, alive = await make(node, pod, "ended"), await make(node, pod, "alive")
    await start.start(node, alive)
    await stop.stop(node, ended, 0)
    fake.nri.listening = False  # a plugin that joins later
    reached, go_on = fake.script.stop_at("monitors.create")
    making = asyncio.create_task(make(node, pod, "made"))
    await reached.wait()
    state = await node.plugins.state()
    assert [p.id for p in state.pods] == [pod]
    assert [c.record.config.metadata.name for c in state.containers] == ["made", "alive"]
    go_on.set()
    made = await making
    state = await node.plugins.state()
    assert sorted(c.record.id for c in state.containers) == sorted([made, alive])
    fake.nri.listening = True
    reached, go_on = fake.script.stop_at("nri.remove_pod")
    removing = asyncio.create_task(pod_remove.remove(node, pod, None))
    await reached.wait()
    assert (await node.plugins.state()).containers == ()
    go_on.set()
    await removing
    assert (await node.plugins.state()).pods == ()
