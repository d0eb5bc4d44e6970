"""After a restart: the records against what the host shows.

1. Read the records; what cannot be read is removed from the host as far as its name says what it was.
2. Containers whose process is gone have ended: with the monitor's report, or without one. Created ones whose start
   was cut off run if the runtime says so.
3. Pods whose init or namespaces are gone are not ready.
4. What belongs to no record is garbage of flows that were cut off: store containers, pins, cgroups of pods, host
   ports, CNI attachments, bundles in the runtime, staging of layers. It is removed.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace

from pycrio.errors import PycrioError
from pycrio.flows import exits
from pycrio.flows.containers import capture, notifier, tuning
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods import linklogs
from pycrio.flows.pods.run import network_request
from pycrio.flows.ports import Labels
from pycrio.model.container import ContainerRecord, ContainerState, ExitReport
from pycrio.model.pod import PodRecord
from pycrio.model.requests import StoreEntry
from pycrio.obs import log as obslog

log = obslog.get("recover")
AT_ONCE = 16


async def recover(node: Node) -> None:
    """Bring records and host together. What fails for one object is logged, not raised: the janitor meets it.

    StoreFailure when records are of a later pycrio: its pods must not be taken for garbage.
    """
    for table in (node.pods, node.containers):
        for ident, error in table.load():
            log.error("Record is unreadable, its object is removed", id=ident, error=str(error))
            table.forget(ident)
    for pod in node.pods:
        node.names.reserve(pod.name, pod.id)
        node.host.namespaces.reserve_ids(pod.uid_map)
        node.host.security.reserve(Labels(pod.selinux_process_label, pod.selinux_mount_label))
    for container in node.containers:
        if container.pod_id not in node.pods:
            log.warning("Container's pod sandbox is gone, removing it", id=container.id)
            node.containers.remove(container.id)
            continue
        node.names.reserve(container.name, container.id)
    await _at_once(_container(node, c) for c in node.containers)
    pins = await node.host.namespaces.pins()
    await _at_once(_pod(node, p, pins) for p in node.pods)
    log.info("Recovered", pods=len(node.pods), containers=len(node.containers))


async def _at_once(works: Iterable[Awaitable[None]]) -> None:
    """Side by side, AT_ONCE of them; what fails for one object is logged and holds no other up."""
    limit = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(_bounded(limit, work) for work in works))


async def _bounded(limit: asyncio.Semaphore, work: Awaitable[None]) -> None:
    async with limit:
        try:
            await work
        except PycrioError as e:
            log.error("Object not recovered, going on", error=str(e))


async def _container(node: Node, container: ContainerRecord) -> None:
    if container.state is ContainerState.EXITED:
        node.live(container.id).exited.set()
        if container.tuned:
            await tuning.take_back(node, container.id)
        return
    if container.awaits_restore:
        await _half_restored(node, container)
        return
    await _end_checkpoint(node, container)
    if node.host.processes.alive(container.pid, container.pid_start_time):
        await _living(node, container)
        return
    report = await node.host.monitors.exit_of(container.id, container.persist_dir)
    if report is None:
        log.warning("Container ended while nobody watched", id=container.id)
    await exits.handle(node, report or ExitReport(container.id, exits.UNKNOWN_EXIT, now()))


async def _living(node: Node, container: ContainerRecord) -> None:
    """A container with a process. One that was created may have been started since: the runtime knows, and a record
    that does not would have the repeated start fail, which removes the container."""
    if container.state is ContainerState.CREATED:
        state = await node.host.runtime.state(node.handler_of(container), container.id)
        if state is not None and state.get("status") in ("running", "paused"):
            log.info("Start of container was cut off after it had happened, the container runs", id=container.id)
            node.containers.put(replace(container, state=ContainerState.RUNNING, started_at=now()))
    await notifier.again(node, container)
    if not node.host.processes.alive(container.monitor_pid, container.monitor_start_time):
        log.warning("Container's monitor is gone, its end will be noticed by its process", id=container.id)


async def _half_restored(node: Node, container: ContainerRecord) -> None:
    """A container that awaits its restore is as it was, unless the restore was cut off: nobody can tell how far its
    processes got."""
    handler = node.handler_of(container)
    if await node.host.runtime.state(handler, container.id) is None:
        return
    log.warning("Restore of container was cut off, it has ended", id=container.id)
    await node.host.runtime.delete(handler, container.id)
    await exits.unstarted(node, container.id)


async def _end_checkpoint(node: Node, container: ContainerRecord) -> None:
    """Let a container run on that a checkpoint held frozen when it was cut off, and remove its scratch files."""
    if container.paused:
        log.warning("Checkpoint of container was cut off, the container runs on", id=container.id)
        await capture.thaw(node, container.id)
    for name in await node.host.files.names(container.persist_dir):
        if name.startswith(capture.SCRATCH):
            await node.host.files.remove(f"{container.persist_dir}/{name}")


async def _pod(node: Node, pod: PodRecord, pins: Mapping[str, str]) -> None:
    if not pod.ready:
        return
    lost = [path for path in pod.namespaces.values() if path not in pins]
    init_gone = pod.infra_pid and not node.host.processes.alive(pod.infra_pid, pod.infra_start_time)
    if lost or init_gone:
        log.warning("Pod sandbox lost its namespaces or its init, it is not ready", id=pod.id, lost=",".join(lost))
        node.pods.put(replace(pod, ready=False, stopped_at=now()))


async def collect_garbage(node: Node) -> None:
    """Remove what belongs to no record. Runs once after ``recover``, before anything new is made."""
    host = node.host
    for step in (
        _store_entries(node),
        _pins(node),
        host.hostports.sweep([p.id for p in node.pods if p.network_ready]),
        _network(node),
        _run_directories(node),
        linklogs.sweep(node),
        host.cpus.sweep([c.id for c in node.containers if c.tuned]),
        host.cgroups.sweep([*(p.id for p in node.pods), *(c.id for c in node.containers)]),
    ):
        try:
            await step
        except PycrioError as e:
            log.warning("Garbage of an earlier run not removed, going on", error=str(e))
    removed = await host.layers.garbage()
    if removed:
        log.info("Removed unfinished layers", count=removed)
    removed = await host.runtime.garbage()
    if removed:
        log.info("Removed scratch files of unfinished execs", count=removed)
    removed = await host.artifacts.garbage()
    if removed:
        log.info("Removed unfinished artifacts", count=removed)


def _accounted(node: Node) -> set[str]:
    """Ids that a record stands for: of pods, of containers, of the store's containers that pods' inits run in."""
    return {p.id for p in node.pods} | {c.id for c in node.containers} | {p.infra_rootfs for p in node.pods}


async def _store_entries(node: Node) -> None:
    found = await node.host.rootfs.entries()
    known = _accounted(node)
    stale = [e for e in found if e.id not in known]
    await _at_once(_store_entry(node, e) for e in stale)  # since what runs a container may be slow to answer


async def _store_entry(node: Node, entry: StoreEntry) -> None:
    log.info("Removing container without a record", id=entry.id, name=entry.names[0] if entry.names else "")
    await _release(node, entry.id)
    await node.host.rootfs.remove(entry.id)


async def _pins(node: Node) -> None:
    known = {path for p in node.pods for path in p.namespaces.values()}
    stale = [path for path in await node.host.namespaces.pins() if path not in known]
    if stale:
        log.info("Removing namespaces without a pod", count=len(stale))
        await node.host.namespaces.remove(stale)


async def _network(node: Node) -> None:
    await node.host.network.gc([network_request(p, p.cgroup_parent) for p in node.pods if p.network_ready])


async def _run_directories(node: Node) -> None:
    """Run directories of pods (and of containers, whose store entries are gone) that have no record."""
    names = await node.host.files.names(_run_base(node))
    known = _accounted(node)
    stale = [n for n in names if n not in known]
    await _at_once(_run_directory(node, n) for n in stale)


async def _run_directory(node: Node, name: str) -> None:
    path = posixpath.join(_run_base(node), name)
    inside = await node.host.files.names(path)  # of a making that was cut off at once: nothing
    foreign = bool(inside) and "userdata" not in inside
    if foreign or await node.host.rootfs.known(name):
        return
    await _release(node, name)
    await node.host.files.remove(path)


async def _release(node: Node, ident: str) -> None:
    """Give back what a container or a pod's init without a record holds, but for its files."""
    for handler in node.host.handlers.all():
        await node.host.runtime.delete(handler, ident)
    await node.host.monitors.forget_exit(ident)  # conmon leaves its attach link, too
    await _unmount_below(node, posixpath.join(_run_base(node), ident))


def _run_base(node: Node) -> str:
    return posixpath.join(node.host.options.run_root, "overlay-containers")


async def _unmount_below(node: Node, path: str) -> None:
    """Unmount what a flow that was cut off mounted there: shm of a pod, images of a container."""
    for mount in await node.host.mounts.below(path):
        await node.host.mounts.unmount(mount)
