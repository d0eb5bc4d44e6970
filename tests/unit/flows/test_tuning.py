"""Containers with CPUs of their own: what annotations ask for, when it is applied and when taken back."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace
from typing import Any

import pytest

from pycrio.errors import ExternalFailure, InvalidRequest
from pycrio.flows import recover
from pycrio.flows.containers.create import create
from pycrio.flows.containers.remove import remove
from pycrio.flows.containers.start import start
from pycrio.flows.containers.stop import stop
from pycrio.flows.containers.update import update
from pycrio.flows.node_state import Node
from pycrio.flows.pods.run import run
from pycrio.model.cpus import CpuTuning
from pycrio.model.resources import Resources
from tests.fakes.node import FakeHost, container_config, fake_node, pod_config

WHOLE = Resources(cpu_shares=2048, cpuset_cpus="2-3", cpu_period=100000)
EVERYTHING = {
    "cpu-load-balancing.crio.io": "disable",
    "cpu-quota.crio.io": "disable",
    "irq-load-balancing.crio.io": "disable",
    "cpu-c-states.crio.io": "max_latency:10",
    "cpu-freq-governor.crio.io": "performance",
}
TUNED = CpuTuning("2-3", "", 100000, True, True, "2-3", "10", "performance")


def allow(fake: FakeHost, **more: Any) -> None:
    names = (*EVERYTHING, "cpu-shared.crio.io")
    fake.host.handlers.runc = replace(fake.host.handlers.get(""), allowed_annotations=names, **more)  # type: ignore[attr-defined]
    fake.images.add()


async def made(node: Node, annotations: dict[str, str], resources: Resources = WHOLE, parent: str = "/kubepods") -> str:
    pod = pod_config(annotations=annotations, cgroup_parent=parent)
    return await create(node, await run(node, pod, ""), container_config(resources=resources), pod)


def document(fake: FakeHost, node: Node, ident: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fake.files.files[f"{node.containers.get(ident).bundle}/config.json"])
    return found


async def test_from_start_to_end(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        ident = await made(node, EVERYTHING)
        assert node.containers.get(ident).tuning == TUNED
        assert not fake.cpus.tuned
        await start(node, ident)
        assert fake.cpus.tuned == {ident: TUNED}
        assert list(fake.cpu_groups.applied.values()) == [TUNED]
        assert node.containers.get(ident).tuned
        await stop(node, ident, 0)
        assert not fake.cpus.tuned
        assert not fake.cpu_groups.applied
        assert not node.containers.get(ident).tuned


@pytest.mark.parametrize(
    ("resources", "parent"),
    [
        (WHOLE, "/kubepods/burstable/pod1"),
        (WHOLE, "/kubepods/besteffort/pod1"),
        (replace(WHOLE, cpu_shares=1500), "/kubepods"),
        (replace(WHOLE, cpu_shares=0), "/kubepods"),
    ],
)
async def test_who_shares_cpus_with_others_gets_nothing(
    resources: Resources, parent: str, tmp_path: pathlib.Path
) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        assert node.containers.get(await made(node, EVERYTHING, resources, parent)).tuning is None


async def test_annotations_must_be_allowed_and_mean_something(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        plain = {"cpu-load-balancing.crio.io": "enable", "irq-load-balancing.crio.io": "", "cpu-quota.crio.io": "no"}
        assert node.containers.get(await made(node, plain)).tuning is None
    async with fake_node(str(tmp_path / "2")) as (node, fake):
        fake.images.add()
        assert node.containers.get(await made(node, EVERYTHING)).tuning is None


async def test_an_annotation_for_one_container(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        marks = {"cpu-quota.crio.io/app": "true", "irq-load-balancing.crio.io/other": "disable"}
        assert node.containers.get(await made(node, marks)).tuning == CpuTuning("2-3", period=100000, unlimited=True)


@pytest.mark.parametrize("value", ["", "max_latency:", "max_latency:0", "max_latency:x", "off"])
async def test_idle_states_that_mean_nothing(value: str, tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        with pytest.raises(InvalidRequest, match=r"must be enable, disable or max_latency"):
            await made(node, {"cpu-c-states.crio.io": value})


@pytest.mark.parametrize(("value", "latency"), [("enable", "0"), ("disable", "n/a")])
async def test_idle_states(value: str, latency: str, tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        tuning = node.containers.get(await made(node, {"cpu-c-states.crio.io": value})).tuning
        assert tuning is not None
        assert tuning.latency == latency


async def test_without_cpus_of_its_own(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        with pytest.raises(InvalidRequest, match="has no CPUs of its own: the kubelet's CPU manager must be static"):
            await made(node, {"irq-load-balancing.crio.io": "disable"}, replace(WHOLE, cpuset_cpus=""))
        assert not fake.rootfs.kept


async def test_housekeeping_keeps_the_first_core(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        ident = await made(
            node, {"irq-load-balancing.crio.io": "housekeeping"}, replace(WHOLE, cpuset_cpus="2-5", cpu_shares=4096)
        )
        tuning = node.containers.get(ident).tuning
        assert tuning is not None
        assert tuning.quiet == "4-5"
        assert "OPENSHIFT_HOUSEKEEPING_CPUS=2-3" in document(fake, node, ident)["process"]["env"]


async def test_shared_cpus(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path), shared_cpuset="0") as (node, fake):
        allow(fake, exec_cpu_affinity="first")
        ident = await made(node, {"cpu-shared.crio.io/app": "enable", "irq-load-balancing.crio.io": "true"})
        assert node.containers.get(ident).tuning == CpuTuning("2-3", "0", 100000, quiet="2-3")
        config = document(fake, node, ident)
        assert config["linux"]["resources"]["cpu"]["cpus"] == "0,2-3"
        assert {"OPENSHIFT_ISOLATED_CPUS=2-3", "OPENSHIFT_SHARED_CPUS=0"} <= set(config["process"]["env"])
        assert config["process"]["execCPUAffinity"] == {"initial": "0"}
        await start(node, ident)
        await update(node, ident, Resources(cpuset_cpus="4-5"))
        assert fake.runtime.updates[ident]["cpu"]["cpus"] == "0,4-5"


@pytest.mark.effect("crio.runtime.runtimes.*.exec_cpu_affinity")
async def test_execs_start_on_the_first_own_cpu(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake, exec_cpu_affinity="first")
        assert document(fake, node, await made(node, {}))["process"]["execCPUAffinity"] == {"initial": "2"}


async def test_shared_cpus_that_nobody_configured(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        with pytest.raises(InvalidRequest, match="shared_cpuset names none"):
            await made(node, {"cpu-shared.crio.io/app": "enable"})


@pytest.mark.parametrize("call", ["cpu_groups.apply", "cpus.tune", "runtime.start"])
async def test_a_start_that_fails_leaves_nothing(call: str, tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        ident = await made(node, EVERYTHING)
        fake.script.fail[call] = ExternalFailure("no")
        with pytest.raises(ExternalFailure):
            await start(node, ident)
        assert not fake.cpus.tuned
        assert not fake.cpu_groups.applied
        assert ident not in node.containers


async def test_what_could_not_be_taken_back_is_tried_again(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        ident = await made(node, EVERYTHING)
        await start(node, ident)
        fake.script.fail["cpus.restore"] = ExternalFailure("no")
        await stop(node, ident, 0)
        assert node.containers.get(ident).tuned
        fake.script.fail.clear()
        await remove(node, ident, None)
        assert not fake.cpus.tuned


async def test_after_a_crash(tmp_path: pathlib.Path) -> None:
    """One container ended without being given back, one was tuned without a record of it, one goes on."""
    async with fake_node(str(tmp_path)) as (node, fake):
        allow(fake)
        ident = await made(node, EVERYTHING)
        await start(node, ident)
        fake.script.fail["cpus.restore"] = ExternalFailure("no")
        await stop(node, ident, 0)
        fake.script.fail.clear()
        await fake.cpus.tune("f" * 64, TUNED)
        again = Node(fake.host, str(tmp_path))
        await recover.recover(again)
        assert ident not in fake.cpus.tuned
        await recover.collect_garbage(again)
        assert not fake.cpus.tuned
        assert not again.containers.get(ident).tuned


async def test_ended_containers_balance_no_load_where_others_may_isolate(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path), unbalance_ended=True) as (node, fake):
        allow(fake)
        ident = await made(node, {}, Resources())
        await start(node, ident)
        await stop(node, ident, 0)
        assert fake.cpu_groups.unbalanced == [node.containers.get(ident).cgroup_path]
