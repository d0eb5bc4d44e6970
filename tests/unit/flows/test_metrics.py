"""CRI metrics on a host of fakes: every metric of the facts, groups, labels, kinds, values, the collection period."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator

import pytest

from pycrio.errors import StoreFailure
from pycrio.flows.containers import create, start, stop
from pycrio.flows.node import metrics, stats
from pycrio.flows.node.readings import Readings
from pycrio.flows.node_state import Node
from pycrio.flows.pods import remove as remove_pod
from pycrio.flows.pods.run import run
from pycrio.flows.pods.stop import stop as stop_pod
from pycrio.flows.views import ContainerFilter, PodMetrics
from pycrio.model.pod import PodConfig
from pycrio.model.resources import Resources
from pycrio.model.security import NamespaceMode, NamespaceOptions, PodSecurity
from pycrio.model.stats import (
    CgroupStats,
    CpuUsage,
    DiskIo,
    HugepageUsage,
    MemoryUsage,
    Pressure,
    PressureData,
)
from tests.fakes.node import FakeHost, container_config, fake_node, pod_config

S = 10**9
STALL = Pressure(PressureData(3 * S + 5, 0, 0, 0), PressureData(2 * S + 7, 0, 0, 0))
FULL = CgroupStats(
    timestamp=1,
    cpu=CpuUsage(9 * S, 5 * S + 1, 4 * S - 1, 11, 12, 13 * S, per_cpu=(7 * S, 0, 2 * S), pressure=STALL),
    memory=MemoryUsage(
        usage=100,
        working_set=80,
        rss=50,
        cache=40,
        kernel=9,
        mapped_file=8,
        page_faults=7,
        major_page_faults=6,
        max_usage=120,
        failcnt=5,
        swap_usage=4,
        oom_kills=2,
        pressure=STALL,
    ),
    pids=3,
    pids_limit=20,
    io=(DiskIo(8, 16, 1, 2, 3, 4, 5, 6),),
    io_pressure=STALL,
    hugepages=(HugepageUsage("2MB", 2 << 20, 4 << 20),),
)
# name → (group, counter, further labels, values by further labels): what the facts promise, with FULL
EXPECTED: dict[str, tuple[str, bool, tuple[str, ...], dict[tuple[str, ...], int]]] = {
    "container_cpu_user_seconds_total": ("cpu", True, (), {(): 5}),
    "container_cpu_system_seconds_total": ("cpu", True, (), {(): 3}),
    "container_cpu_usage_seconds_total": ("cpu", True, ("cpu",), {("cpu00",): 7, ("cpu02",): 2}),
    "container_cpu_cfs_periods_total": ("cpu", True, (), {(): 11}),
    "container_cpu_cfs_throttled_periods_total": ("cpu", True, (), {(): 12}),
    "container_cpu_cfs_throttled_seconds_total": ("cpu", True, (), {(): 13}),
    "container_fs_inodes_free": ("disk", False, (), {(): 60}),
    "container_fs_inodes_total": ("disk", False, (), {(): 100}),
    "container_fs_limit_bytes": ("disk", False, (), {(): 1000}),
    "container_fs_usage_bytes": ("disk", False, (), {(): 42}),
    "container_fs_reads_bytes_total": ("diskIO", True, ("device",), {("8:16",): 2}),
    "container_fs_reads_total": ("diskIO", True, ("device",), {("8:16",): 1}),
    "container_fs_writes_bytes_total": ("diskIO", True, ("device",), {("8:16",): 4}),
    "container_fs_writes_total": ("diskIO", True, ("device",), {("8:16",): 3}),
    "container_blkio_device_usage_total": (
        "diskIO",
        True,
        ("device", "major", "minor", "operation"),
        {
            ("8:16", "8", "16", "read"): 2,
            ("8:16", "8", "16", "write"): 4,
            ("8:16", "8", "16", "discard"): 6,
        },
    ),
    "container_hugetlb_usage_bytes": ("hugetlb", False, ("pagesize",), {("2MB",): 2 << 20}),
    "container_hugetlb_max_usage_bytes": ("hugetlb", False, ("pagesize",), {("2MB",): 4 << 20}),
    "container_memory_cache": ("memory", False, (), {(): 40}),
    "container_memory_rss": ("memory", False, (), {(): 50}),
    "container_memory_kernel_usage": ("memory", False, (), {(): 9}),
    "container_memory_mapped_file": ("memory", False, (), {(): 8}),
    "container_memory_swap": ("memory", False, (), {(): 4}),
    "container_memory_failcnt": ("memory", True, (), {(): 5}),
    "container_memory_usage_bytes": ("memory", False, (), {(): 100}),
    "container_memory_max_usage_bytes": ("memory", False, (), {(): 120}),
    "container_memory_working_set_bytes": ("memory", False, (), {(): 80}),
    "container_memory_failures_total": (
        "memory",
        True,
        ("failure_type", "scope"),
        {
            ("pgfault", "container"): 7,
            ("pgfault", "hierarchy"): 7,
            ("pgmajfault", "container"): 6,
            ("pgmajfault", "hierarchy"): 6,
        },
    ),
    "container_oom_events_total": ("oom", True, (), {(): 2}),
    "container_file_descriptors": ("process", False, (), {(): 6}),
    "container_processes": ("process", False, (), {(): 3}),
    "container_sockets": ("process", False, (), {(): 2}),
    "container_threads": ("process", False, (), {(): 4}),
    "container_threads_max": ("process", False, (), {(): 20}),
    "container_ulimits_soft": ("process", False, ("ulimit",), {("max_open_files",): 1024}),
    "container_spec_cpu_period": ("spec", False, (), {(): 100000}),
    "container_spec_cpu_shares": ("spec", False, (), {(): 512}),
    "container_spec_cpu_quota": ("spec", False, (), {(): 50000}),
    "container_spec_memory_limit_bytes": ("spec", False, (), {(): 64 << 20}),
    "container_spec_memory_reservation_limit_bytes": ("spec", False, (), {(): 1 << 20}),
    "container_spec_memory_swap_limit_bytes": ("spec", False, (), {(): 128 << 20}),
    **{
        f"container_pressure_{kind}_{word}_seconds_total": ("pressure", True, (), {(): value})
        for kind in ("cpu", "memory", "io")
        for word, value in (("waiting", 3), ("stalled", 2))
    },
}
LINKS = {
    f"container_network_{way}_{what}_total"
    for way in ("receive", "transmit")
    for what in ("bytes", "packets", "packets_dropped", "errors")
}
OTHERS = {"container_last_seen", "container_start_time_seconds"}
RESOURCES = Resources(
    cpu_period=100000,
    cpu_quota=50000,
    cpu_shares=512,
    memory_limit=64 << 20,
    memory_swap_limit=128 << 20,
    unified={"memory.min": str(1 << 20)},
)


@pytest.fixture
async def served(tmp_path: pathlib.Path) -> AsyncIterator[tuple[Node, FakeHost, str, str]]:
    """A node with one pod and one running container: (node, fakes, pod id, container id)."""
    async with fake_node(str(tmp_path), included_pod_metrics=("all",)) as (node, fake):
        fake.images.add("docker.io/library/busybox:latest")
        fake.cgroups.readings = FULL
        fake.cgroups.pids = [12, 11]
        pod_id, ident = await serve(node, pod_config())
        yield node, fake, pod_id, ident


async def serve(node: Node, config: PodConfig) -> tuple[str, str]:
    pod_id = await run(node, config, "")
    wanted = container_config(resources=RESOURCES)
    ident = await create.create(node, pod_id, wanted, config)
    await start.start(node, ident)
    return pod_id, ident


def include(node: Node, *groups: str, period: int = 0) -> None:
    node.host.options = dataclasses.replace(node.host.options, included_pod_metrics=groups, collection_period=period)


async def one(node: Node) -> PodMetrics:
    (found,) = await metrics.pod_metrics(node)
    return found


async def test_every_metric_is_described(served: tuple[Node, FakeHost, str, str]) -> None:
    found = {d.name: d for d in await metrics.descriptors(served[0])}
    assert found.keys() == EXPECTED.keys() | LINKS | OTHERS
    for name, descriptor in found.items():
        more = EXPECTED[name][2] if name in EXPECTED else ("interface",) if name in LINKS else ()
        assert descriptor.label_keys == ("id", "image", "namespace", "pod", "container", *more)
        assert descriptor.help


async def test_every_value_of_a_container(served: tuple[Node, FakeHost, str, str]) -> None:
    node, _, pod_id, ident = served
    found = await one(node)
    assert found.pod_id == pod_id
    (container,) = found.containers
    assert container.container_id == ident
    base = (ident, "docker.io/library/busybox:latest", "default", "web", "app")
    assert all(s.label_values[:5] == base for s in container.samples)
    seen: dict[str, dict[tuple[str, ...], int]] = {}
    for sample in container.samples:
        seen.setdefault(sample.name, {})[sample.label_values[5:]] = sample.value
        if sample.name in EXPECTED:
            assert sample.counter == EXPECTED[sample.name][1], sample.name
        assert sample.timestamp == container.samples[0].timestamp
    record = node.containers.get(ident)
    assert seen.pop("container_start_time_seconds") == {(): record.created_at // S}
    assert seen.pop("container_last_seen") == {(): container.samples[0].timestamp // S}
    assert seen == {name: row[3] for name, row in EXPECTED.items()}


async def test_labels_fit_their_descriptors(served: tuple[Node, FakeHost, str, str]) -> None:
    node = served[0]
    keys = {d.name: d.label_keys for d in await metrics.descriptors(node)}
    found = await one(node)
    for sample in (*found.samples, *(s for c in found.containers for s in c.samples)):
        assert len(sample.label_values) == len(keys[sample.name])


async def test_the_pod_s_interfaces(served: tuple[Node, FakeHost, str, str]) -> None:
    node, _, pod_id, _ = served
    found = await one(node)
    assert {s.name for s in found.samples} == LINKS
    values = {(s.name, s.label_values): s.value for s in found.samples}
    base = (pod_id, "", "default", "web", "POD")
    assert values["container_network_receive_bytes_total", (*base, "eth0")] == 5
    assert values["container_network_transmit_bytes_total", (*base, "lo")] == 0
    assert all(s.counter for s in found.samples)


async def test_a_host_network_pod_shows_the_host_s_interfaces(served: tuple[Node, FakeHost, str, str]) -> None:
    node, fake, _, _ = served
    options = NamespaceOptions(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    pod_id = await run(node, pod_config("host", security=PodSecurity(options)), "")
    found = {m.pod_id: m for m in await metrics.pod_metrics(node)}
    assert {s.name for s in found[pod_id].samples} == LINKS
    assert found[pod_id].containers == ()
    assert "" in fake.namespaces.asked


@pytest.mark.parametrize("group", sorted(metrics.GROUPS))
async def test_a_group_alone(served: tuple[Node, FakeHost, str, str], group: str) -> None:
    node, fake, _, _ = served
    include(node, group)
    fake.script.calls.clear()
    names = {d.name for d in await metrics.descriptors(node)}
    wanted = {n for n, row in EXPECTED.items() if row[0] == group}
    wanted |= LINKS if group == "network" else set()
    wanted |= {"container_start_time_seconds"} if group == "spec" else set()
    assert names == wanted | {"container_last_seen"}
    found = await one(node)
    seen = {s.name for s in (*found.samples, *found.containers[0].samples)}
    assert seen == names
    assert ("cgroups.stats" in fake.script.calls) == (group in metrics.FROM_CGROUP)
    assert ("mounts.space" in fake.script.calls) == (group == "disk")


async def test_no_group_still_tells_that_it_was_seen(served: tuple[Node, FakeHost, str, str]) -> None:
    node = served[0]
    include(node)
    assert [d.name for d in await metrics.descriptors(node)] == ["container_last_seen"]
    found = await one(node)
    assert found.samples == ()
    assert [s.name for s in found.containers[0].samples] == ["container_last_seen"]


async def test_what_the_host_lacks_is_left_out(served: tuple[Node, FakeHost, str, str]) -> None:
    node, fake, _, _ = served
    fake.cgroups.readings = CgroupStats(1, CpuUsage(9 * S))
    found = {s.name: s for s in (await one(node)).containers[0].samples}
    assert found["container_cpu_usage_seconds_total"].label_values[-1] == "total"
    assert not [n for n in found if "pressure" in n or "memory" in n.replace("spec_memory", "") or "hugetlb" in n]
    assert "container_processes" not in found
    fake.cgroups.readings = None
    found = {s.name: s for s in (await one(node)).containers[0].samples}
    assert not [n for n in found if n.startswith("container_cpu")]
    assert "container_last_seen" in found


async def test_limits_that_are_none_are_zero_or_absent(served: tuple[Node, FakeHost, str, str]) -> None:
    node, fake, _, ident = served
    record = node.containers.get(ident)
    resources = Resources(cpu_quota=-1, memory_limit=-1, memory_swap_limit=(1 << 62) + 1, unified={"memory.min": "max"})
    node.containers.put(dataclasses.replace(record, resources=resources))
    fake.cgroups.readings = dataclasses.replace(FULL, pids_limit=None)
    found = {s.name: s.value for s in (await one(node)).containers[0].samples}
    assert found["container_spec_memory_limit_bytes"] == 0
    assert found["container_spec_memory_swap_limit_bytes"] == 0
    assert found["container_spec_memory_reservation_limit_bytes"] == 0
    assert found["container_threads_max"] == 0
    assert "container_spec_cpu_quota" not in found


async def test_ended_containers_and_stopped_pods_are_not_read(served: tuple[Node, FakeHost, str, str]) -> None:
    node, _, pod_id, ident = served
    await stop.stop(node, ident, 1)
    assert (await one(node)).containers == ()
    await stop_pod(node, pod_id, None)
    assert await metrics.pod_metrics(node) == []


async def test_a_part_that_fails_does_not_take_the_rest(served: tuple[Node, FakeHost, str, str]) -> None:
    node, fake, _, _ = served
    fake.script.fail["mounts.space"] = StoreFailure("disk on fire")
    found = {s.name for s in (await one(node)).containers[0].samples}
    assert "container_memory_rss" in found
    assert "container_fs_limit_bytes" not in found


# --- collection period --------------------------------------------------------------------------------------------


async def test_without_a_period_every_call_reads(served: tuple[Node, FakeHost, str, str]) -> None:
    node, fake, _, _ = served
    fake.script.calls.clear()
    await metrics.pod_metrics(node)
    await metrics.pod_metrics(node)
    assert fake.script.count("cgroups.stats") == 2


async def test_within_the_period_the_last_reading_is_answered(served: tuple[Node, FakeHost, str, str]) -> None:
    node, fake, _, ident = served
    include(node, "memory", period=3600)
    fake.script.calls.clear()
    first = await metrics.pod_metrics(node)
    assert await metrics.pod_metrics(node) is first
    assert fake.script.count("cgroups.stats") == 1
    include(node, "cpu", period=3600)
    assert await metrics.pod_metrics(node) is not first
    fake.script.calls.clear()
    view = await stats.container_stats(node, ident)
    listed = await stats.list_container_stats(node, ContainerFilter())
    assert listed[0].usage is view.usage
    assert fake.script.count("cgroups.stats") == 1


async def test_callers_at_the_same_time_share_a_reading() -> None:
    readings, taken, go = Readings(lambda ident: True), [], asyncio.Event()

    async def take() -> object:
        taken.append(1)
        await go.wait()
        return object()

    callers = [asyncio.ensure_future(readings.get(("a", 1), 60, take)) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    assert len(set(await asyncio.gather(*callers))) == 1
    assert len(taken) == 1


async def test_a_reading_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
    readings = Readings(lambda ident: True)

    async def take() -> object:
        return object()

    first = await readings.get(("a", 1), 5, take)
    clock += 4.9
    assert await readings.get(("a", 1), 5, take) is first
    clock += 0.2
    assert await readings.get(("a", 1), 5, take) is not first


async def test_nothing_is_kept_of_what_is_gone(served: tuple[Node, FakeHost, str, str]) -> None:
    node, _, pod_id, ident = served
    include(node, "all", period=3600)
    await stats.container_stats(node, ident)
    await stats.pod_stats(node, pod_id)
    assert {key[0] for key in node.readings._last} == {ident, pod_id}
    assert node.rates._last.keys() == {ident, pod_id}
    await remove_pod.remove(node, pod_id, None)
    assert not node.readings._last
    assert not node.rates._last
    assert node.rates.take(ident, FULL) is None
    assert not node.rates._last
