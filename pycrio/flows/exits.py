"""Exits of containers: from the monitor's report to the record, the event and the release of the root file system."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

from pycrio.errors import PycrioError
from pycrio.flows.containers.tuning import take_back
from pycrio.flows.node_state import Node, now
from pycrio.model.container import ContainerRecord, ContainerState, ExitReport
from pycrio.model.event import Event, EventType
from pycrio.model.pod import PodRecord
from pycrio.model.security import NamespaceMode
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics

log = obslog.get("exits")
REPORT_WAIT = 5.0
UNKNOWN_EXIT = 255


async def watch(node: Node) -> None:
    """Handle exits until cancelled. Each in a task of its own: a slow unmount delays nobody else's report."""
    tasks: set[asyncio.Task[None]] = set()
    try:
        async for report in node.host.monitors.exits():
            task = asyncio.get_running_loop().create_task(handle(node, report))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    finally:
        if tasks:
            await asyncio.wait(tasks)


async def handle(node: Node, report: ExitReport) -> None:
    """Record one exit. A report of an unknown container is dropped, one of a pod's init makes the pod not ready."""
    try:
        if report.container_id in node.pods:
            _infra_ended(node, node.pods.get(report.container_id))
            await node.host.monitors.forget_exit(report.container_id)
            return
        async with node.turns.of(("container", report.container_id)):
            container = node.containers.resolve(report.container_id)
            if container is not None:
                await _record(node, container, report)
                await node.host.monitors.forget_exit(report.container_id)
            elif report.container_id not in node.unborn:
                await node.host.monitors.forget_exit(report.container_id)
    except PycrioError as e:
        log.error("Exit not recorded, it stays on disk", id=report.container_id, error=str(e))


def _infra_ended(node: Node, pod: PodRecord) -> None:
    if pod.ready:
        node.pods.put(replace(pod, ready=False, stopped_at=now()))
        node.events.publish(Event(EventType.STOPPED, pod.id, pod.id, now()))
        log.warning("Init of pod sandbox ended, the sandbox is not ready any more", id=pod.id)


async def kill_rest(node: Node, container: ContainerRecord) -> None:
    """End what is left of a container whose first process has gone."""
    pod = node.pods.resolve(container.pod_id)
    modes = container.config.security.namespaces or (pod.config.security.namespaces if pod is not None else None)
    shared = modes is not None and modes.pid is not NamespaceMode.CONTAINER
    await node.host.tasks.end_rest(container.id, container.cgroup_path, shared)


async def unstarted(node: Node, container_id: str) -> None:
    """End a container that awaits its restore; it has no process whose end somebody could report."""
    async with node.turns.of(("container", container_id)):
        container = node.containers.resolve(container_id)
        if container is not None and container.awaits_restore:
            await _record(node, container, ExitReport(container_id, 128 + signal.SIGKILL, now()))


async def _record(node: Node, container: ContainerRecord, report: ExitReport) -> None:
    if container.state is ContainerState.EXITED:
        return
    oom = report.oom_killed or node.host.monitors.oom_recorded(container.persist_dir, container.bundle)
    oom = oom or await node.host.tasks.oom_killed(container.id, container.cgroup_path)
    reason = "OOMKilled" if oom else "Completed" if report.exit_code == 0 else "Error"
    # A container may end between the runtime's start and our note of it, and files have the time of the last tick.
    at = max(report.at, container.created_at)
    ended = replace(
        container,
        state=ContainerState.EXITED,
        exit_code=report.exit_code,
        finished_at=at,
        started_at=min(container.started_at or container.created_at, at),
        oom_killed=oom,
        reason=container.reason or reason,
    )
    node.containers.put(ended)
    await node.plugins.stopped(ended)
    await take_back(node, container.id)
    node.live(container.id).exited.set()
    if oom:
        metrics.container_oom(container.name)
    # Of now, not of the end: a kubelet passes over events that are older than the last one of the pod.
    node.events.publish(Event(EventType.STOPPED, container.pod_id, container.id, now()))
    log.info("Container exited", id=container.id, code=report.exit_code, reason=ended.reason)
    try:
        await kill_rest(node, container)
        await node.host.rootfs.unmount(container.id)
    except PycrioError as e:
        log.warning("Root file system of ended container stays mounted", id=container.id, error=str(e))


async def settle(node: Node, container_id: str) -> None:
    """After a container's process has gone: wait for the monitor's report, and do without it if none comes."""
    container = node.containers.resolve(container_id)
    if container is None or container.state is ContainerState.EXITED:
        return  # the report was faster, or so was a removal: asking for its live part would make it anew
    live = node.live(container_id)
    try:
        await asyncio.wait_for(live.exited.wait(), REPORT_WAIT)
    except (asyncio.TimeoutError, TimeoutError):  # two classes before Python 3.11
        container = node.containers.resolve(container_id)
        if container is None:
            return
        report = await node.host.monitors.exit_of(container.id, container.persist_dir)
        await handle(node, report or ExitReport(container.id, UNKNOWN_EXIT, now()))
        if report is None:
            metrics.monitor_died(container.name)
            log.warning("Container's monitor left no report of its end", id=container.id)
