"""Readings of containers and pods, at request or from the last collection (``collection_period``)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pycrio.errors import Ambiguous, NotFound, PycrioError
from pycrio.flows.containers.query import list_containers
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods.query import list_pods
from pycrio.flows.views import ContainerFilter, ContainerStatsView, PodFilter, PodStatsView
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.pod import PodRecord
from pycrio.model.security import NamespaceMode
from pycrio.model.stats import CgroupStats, ContainerUsage, CpuUsage, InterfaceStats, MemoryUsage, PodUsage
from pycrio.obs import log as obslog

log = obslog.get("stats")
AT_ONCE = 16


def living(container: ContainerRecord) -> bool:
    """True while it has processes to be measured."""
    return container.state in (ContainerState.RUNNING, ContainerState.CREATED)


async def _usage(node: Node, container: ContainerRecord) -> ContainerUsage:
    key = (container.id, ("container", living(container)))
    return await node.readings.get(key, node.host.options.collection_period, lambda: _read(node, container))


async def _read(node: Node, container: ContainerRecord) -> ContainerUsage:
    cgroup = await node.host.tasks.stats(container.id, container.cgroup_path) if living(container) else None
    try:
        layer = await node.host.rootfs.usage(container.id)
    except PycrioError as e:
        log.warning("Writable layer cannot be measured, going on", id=container.id, error=str(e))
        layer = None
    return ContainerUsage(container.id, cgroup, node.rates.take(container.id, cgroup), layer)


async def container_stats(node: Node, ident: str) -> ContainerStatsView:
    """One container; NotFound when absent."""
    container = node.containers.resolve(ident)
    if container is None:
        raise NotFound("container", ident, "could not find container")
    return ContainerStatsView(container, await _usage(node, container))


async def list_container_stats(node: Node, wanted: ContainerFilter) -> list[ContainerStatsView]:
    """Containers that satisfy the filter; ended ones only when an id or a pod asks for them."""
    found = await list_containers(node, wanted)
    if not (wanted.id or wanted.pod_id):
        found = [c for c in found if living(c)]
    return await _views(node, found)


async def _views(node: Node, containers: Sequence[ContainerRecord]) -> list[ContainerStatsView]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(container: ContainerRecord) -> ContainerStatsView:
        async with limit:
            return ContainerStatsView(container, await _usage(node, container))

    return list(await asyncio.gather(*(one(c) for c in containers)))


async def pod_stats(node: Node, ident: str) -> PodStatsView:
    """One pod; NotFound when absent."""
    try:
        pod = node.pods.resolve(ident)
    except Ambiguous:
        pod = None
    if pod is None:
        raise NotFound("pod sandbox", ident, "could not find pod")
    return await _pod_view(node, pod)


async def list_pod_stats(node: Node, wanted: PodFilter) -> list[PodStatsView]:
    """Ready pods that satisfy the filter."""
    pods = [p for p in await list_pods(node, wanted) if p.ready or wanted.id]
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(pod: PodRecord) -> PodStatsView:
        async with limit:
            return await _pod_view(node, pod)

    return list(await asyncio.gather(*(one(p) for p in pods)))


async def _pod_view(node: Node, pod: PodRecord) -> PodStatsView:
    key = (pod.id, ("pod", pod.ready))
    return await node.readings.get(key, node.host.options.collection_period, lambda: _read_pod(node, pod))


async def _read_pod(node: Node, pod: PodRecord) -> PodStatsView:
    containers = await _views(node, [c for c in node.containers_of(pod.id) if living(c)])
    # The pod's slice holds the pod alone under a kubelet; without one (the default parent) it is shared.
    own = pod.config.cgroup_parent != ""
    cgroup = await node.host.cgroups.stats(pod.cgroup_parent) if own else _sum(containers)
    processes = await node.host.cgroups.processes(pod.cgroup_parent) if own else ()
    count = len(processes) if own else sum(v.usage.cgroup.pids or 0 for v in containers if v.usage.cgroup)
    usage = PodUsage(
        pod_id=pod.id,
        timestamp=now(),
        cgroup=cgroup,
        nano_cores=node.rates.take(pod.id, cgroup),
        network=tuple(await network(node, pod)),
        process_count=count,
        containers=tuple(v.usage for v in containers),
    )
    return PodStatsView(pod, usage, tuple(containers))


async def network(node: Node, pod: PodRecord) -> Sequence[InterfaceStats]:
    """Interfaces of a pod; those of the host for a host-network pod, none for a stopped one."""
    if not pod.ready:
        return ()
    try:
        if pod.config.security.namespaces.network is NamespaceMode.NODE:
            return await node.host.namespaces.interfaces("")
        return await node.host.namespaces.interfaces(pod.namespaces["net"]) if "net" in pod.namespaces else ()
    except PycrioError as e:
        log.warning("Interfaces of pod sandbox cannot be read, going on", id=pod.id, error=str(e))
        return ()


def _sum(containers: Sequence[ContainerStatsView]) -> CgroupStats | None:
    """A pod without a cgroup of its own uses what its containers use."""
    found = [v.usage.cgroup for v in containers if v.usage.cgroup is not None]
    if not found:
        return None
    cpu = [s.cpu for s in found if s.cpu is not None]
    memory = [s.memory for s in found if s.memory is not None]
    return CgroupStats(
        timestamp=now(),
        cpu=CpuUsage(total=sum(c.total for c in cpu), user=sum(c.user for c in cpu), system=sum(c.system for c in cpu)),
        memory=MemoryUsage(
            usage=sum(m.usage for m in memory),
            working_set=sum(m.working_set for m in memory),
            rss=sum(m.rss for m in memory),
            cache=sum(m.cache for m in memory),
            page_faults=sum(m.page_faults for m in memory),
            major_page_faults=sum(m.major_page_faults for m in memory),
        ),
    )
