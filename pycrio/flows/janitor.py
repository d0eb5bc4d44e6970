"""In the background: containers whose monitor died, those whose process ended without a report, and the store."""

from __future__ import annotations

import asyncio
import random

from pycrio.errors import PycrioError
from pycrio.flows import exits
from pycrio.flows.node_state import Node, now
from pycrio.model.container import ContainerRecord, ContainerState, ExitReport
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics

log = obslog.get("janitor")
PERIOD = 10.0
JITTER = 1.0
STORE_PERIOD = 600.0


async def watch_monitors(node: Node) -> None:
    """Look now and every ten seconds, since a monitor that is killed tells nobody; until cancelled."""
    reported: set[str] = set()
    while True:
        for container in node.containers:
            if container.state in (ContainerState.RUNNING, ContainerState.CREATED) and not container.awaits_restore:
                try:
                    await _look(node, container, reported)
                except PycrioError as e:
                    log.warning("Container could not be looked after, going on", id=container.id, error=str(e))
        reported &= {c.id for c in node.containers}
        await asyncio.sleep(PERIOD + random.random() * JITTER)


async def watch_store(node: Node) -> None:
    """Every ten minutes remove what failed removals and programs that died left in the store; until cancelled."""
    while True:
        await asyncio.sleep(STORE_PERIOD)
        try:
            if removed := await node.host.layers.sweep():
                log.info("Removed what nobody works on any more from the store", count=removed)
        except PycrioError as e:
            log.warning("The store could not be swept, going on", error=str(e))


async def _look(node: Node, container: ContainerRecord, reported: set[str]) -> None:
    processes = node.host.processes
    if processes.alive(container.monitor_pid, container.monitor_start_time):
        return
    if processes.alive(container.pid, container.pid_start_time):
        if container.id not in reported:
            reported.add(container.id)
            metrics.monitor_died(container.name)
            log.error("Container's monitor died: its log and its exit code are lost", id=container.id)
            _follow(node, container)
        return
    # The monitor ends right after its report; give the watcher of reports the first word.
    report = await node.host.monitors.exit_of(container.id, container.persist_dir)
    await exits.handle(node, report or ExitReport(container.id, exits.UNKNOWN_EXIT, now()))


def _follow(node: Node, container: ContainerRecord) -> None:
    """Without its monitor a container's end shows only in its process."""

    async def wait() -> None:
        await node.host.processes.wait_gone(container.pid, container.pid_start_time, None)
        await exits.handle(node, ExitReport(container.id, exits.UNKNOWN_EXIT, now()))

    node.live(container.id).follower = asyncio.get_running_loop().create_task(wait())
