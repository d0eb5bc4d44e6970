"""CRI metrics: what there is, and the samples of all pods.

The groups of ``included_pod_metrics`` decide what is read at all. Between two readings ``collection_period`` seconds
pass; 0: every call reads anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pycrio.errors import PycrioError
from pycrio.flows.node.metric_table import (
    ALWAYS,
    BASE_LABELS,
    LINK_LABELS,
    LINK_PREFIX,
    LINK_ROWS,
    ROWS,
    Reading,
    Row,
)
from pycrio.flows.node.stats import AT_ONCE, living, network
from pycrio.flows.node_state import Node, now
from pycrio.flows.views import ContainerMetrics, MetricDescriptor, MetricSample, PodMetrics
from pycrio.model.container import ContainerRecord
from pycrio.model.pod import PodRecord
from pycrio.model.stats import FsSpace, FsUsage, ProcessUsage
from pycrio.obs import log as obslog

log = obslog.get("metrics")
GROUPS = frozenset({"cpu", "disk", "diskIO", "hugetlb", "memory", "network", "oom", "process", "spec", "pressure"})
FROM_CGROUP = frozenset({"cpu", "diskIO", "hugetlb", "memory", "oom", "process", "pressure"})
POD_NAME = "POD"


def wanted(node: Node) -> frozenset[str]:
    """The groups that the configuration includes; that of ``container_last_seen`` always."""
    included = node.host.options.included_pod_metrics
    return frozenset({ALWAYS, *(GROUPS if "all" in included else included)})


async def descriptors(node: Node) -> Sequence[MetricDescriptor]:
    """Metrics of the included groups; constant until the configuration changes."""
    groups = wanted(node)
    found = [MetricDescriptor(r.name, r.help, (*BASE_LABELS, *r.labels)) for r in ROWS if r.group in groups]
    if "network" in groups:
        labels = (*BASE_LABELS, *LINK_LABELS)
        found += [MetricDescriptor(LINK_PREFIX + r.name, r.help, labels) for r in LINK_ROWS]
    return found


async def pod_metrics(node: Node) -> Sequence[PodMetrics]:
    """Samples of every ready pod and of its living containers."""
    options = node.host.options
    return await node.readings.get(
        ("", options.included_pod_metrics), options.collection_period, lambda: _collect(node)
    )


async def _collect(node: Node) -> Sequence[PodMetrics]:
    groups = wanted(node)
    rows = [r for r in ROWS if r.group in groups]
    limit = asyncio.Semaphore(AT_ONCE)

    async def container(pod: PodRecord, record: ContainerRecord) -> ContainerMetrics:
        async with limit:
            reading = await _read(node, record, groups)
        labels = (record.id, record.image_name, *_names(pod), record.config.metadata.name)
        return ContainerMetrics(record.id, tuple(s for row in rows for s in _samples(row, reading, labels)))

    async def one(pod: PodRecord) -> PodMetrics:
        containers = [c for c in node.containers_of(pod.id) if living(c)]
        found = await asyncio.gather(*(container(pod, c) for c in containers))
        return PodMetrics(pod.id, await _links(node, pod) if "network" in groups else (), tuple(found))

    return await asyncio.gather(*(one(pod) for pod in node.pods if pod.ready))


def _names(pod: PodRecord) -> tuple[str, str]:
    return pod.config.metadata.namespace, pod.config.metadata.name


def _samples(row: Row, reading: Reading, labels: tuple[str, ...]) -> list[MetricSample]:
    return [
        MetricSample(row.name, row.counter, (*labels, *extra), max(value, 0), reading.at)
        for extra, value in row.values(reading)
    ]


async def _links(node: Node, pod: PodRecord) -> tuple[MetricSample, ...]:
    labels = (pod.id, "", *_names(pod), POD_NAME)
    links, at = await network(node, pod), now()
    return tuple(
        MetricSample(LINK_PREFIX + row.name, True, (*labels, link.name), row.value(link), at)
        for row in LINK_ROWS
        for link in links
    )


async def _read(node: Node, record: ContainerRecord, groups: frozenset[str]) -> Reading:
    """Only what the groups need; a part that cannot be read is left out."""
    host = node.host
    cgroup = await host.tasks.stats(record.id, record.cgroup_path) if groups & FROM_CGROUP else None
    layer, space, processes = None, None, None
    try:
        if "disk" in groups:
            layer, space = await _disk(node, record)
        if "process" in groups:
            processes = await _processes(node, record)
    except PycrioError as e:
        log.warning("Container cannot be measured as a whole, going on", id=record.id, error=str(e))
    return Reading(record, now(), cgroup, layer, space, processes)


async def _disk(node: Node, record: ContainerRecord) -> tuple[FsUsage | None, FsSpace | None]:
    return await node.host.rootfs.usage(record.id), await node.host.mounts.space(record.rootfs)


async def _processes(node: Node, record: ContainerRecord) -> ProcessUsage:
    """Its first process first, whose limits stand for the container's."""
    pids = await node.host.cgroups.processes(record.cgroup_path)
    return await node.host.processes.usage(sorted(pids, key=lambda pid: (pid != record.first_pid, pid)))
