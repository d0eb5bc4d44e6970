"""Stop a container: its stop signal, then after the grace period SIGKILL until it is gone. Idempotent.

One stop runs per container; later calls join it and may shorten its time, never extend it. A caller whose deadline
ends leaves the stop running.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

from pycrio.errors import PycrioError
from pycrio.flows import exits
from pycrio.flows.node_state import Live, Node
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.obs import log as obslog

log = obslog.get("container")
FIRST_KILL_WAIT = 0.02
LAST_KILL_WAIT = 120.0
UNINTERRUPTIBLE_AFTER = 60.0


async def stop(node: Node, ident: str, timeout: int) -> None:
    """``timeout`` in seconds; 0 or less: SIGKILL follows the stop signal at once. Unknown: nothing to do."""
    container = node.containers.resolve(ident)
    if container is None or container.state not in (ContainerState.RUNNING, ContainerState.CREATED):
        return
    live = node.live(container.id)
    kill_at = asyncio.get_running_loop().time() + max(0, timeout)
    if live.stopping is None or live.stopping.done():
        live.kill_at = kill_at
        live.hurry.clear()
        live.stopping = asyncio.get_running_loop().create_task(_stop(node, container, live))
    elif kill_at < live.kill_at:
        live.kill_at = kill_at
        live.hurry.set()
    await asyncio.shield(live.stopping)


async def _stop(node: Node, container: ContainerRecord, live: Live) -> None:
    host = node.host
    try:
        await live.unfrozen.wait()  # a checkpoint under way ends first: cut off, it would leave broken processes
        if container.awaits_restore:
            await exits.unstarted(node, container.id)
        container = node.containers.resolve(container.id) or container
        if container.state is ContainerState.EXITED:
            return
        await _thaw(node, container)
        number = signal_number(container.stop_signal)
        await _kill(node, container, number)
        if number != signal.SIGKILL:
            await _wait(live)
        live.killing = True
        waited, pause = 0.0, FIRST_KILL_WAIT
        while not live.exited.is_set() and await _kill(node, container, signal.SIGKILL):
            await exits.kill_rest(node, container)
            if await host.processes.wait_gone(container.pid, container.pid_start_time, pause):
                break
            waited += pause
            await _melt(node, container)  # somebody may have frozen it since
            pause = min(pause * 2, LAST_KILL_WAIT)
            if waited > UNINTERRUPTIBLE_AFTER:
                log.warning("Container does not die; it may be in an uninterruptible sleep", id=container.id)
        await exits.kill_rest(node, container)
        await exits.settle(node, container.id)
    finally:
        for task in list(live.execs):
            task.cancel()
        live.killing = False


async def _kill(node: Node, container: ContainerRecord, number: int) -> bool:
    """Signal the first process; False when it is gone."""
    return await node.host.tasks.kill(container.id, container.pid, container.pid_start_time, number)


async def _wait(live: Live) -> None:
    """Wait for the end of the container or of its grace period, whichever comes first; the latter may come nearer."""
    loop = asyncio.get_running_loop()
    exited = loop.create_task(live.exited.wait())
    try:
        while not exited.done() and (left := live.kill_at - loop.time()) > 0:
            hurry = loop.create_task(live.hurry.wait())
            await asyncio.wait({exited, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            live.hurry.clear()
    finally:
        exited.cancel()


async def _thaw(node: Node, container: ContainerRecord) -> None:
    """A frozen process does not see signals."""
    try:
        if container.paused:
            await node.host.runtime.pause(node.handler_of(container), container.id, False)
            node.containers.put(replace(node.containers.get(container.id), paused=False))
    except PycrioError as e:
        log.warning("Container could not be thawed before its stop, going on", id=container.id, error=str(e))
    await _melt(node, container)


async def _melt(node: Node, container: ContainerRecord) -> None:
    """What others froze, an operator by the runtime or a privileged container part of itself, has no record. On
    cgroup v1 not even SIGKILL ends it."""
    try:
        if await node.host.cgroups.thaw(container.cgroup_path):
            log.warning("Container was frozen, it is thawed to be stopped", id=container.id)
    except PycrioError as e:
        log.warning("Cgroup could not be thawed before a stop, going on", id=container.id, error=str(e))


def signal_number(name: str) -> int:
    """A Linux signal's number by name (``SIGTERM``, ``TERM``, ``SIGRTMIN+3``, ``15``); SIGTERM when unknown."""
    text = name.strip().upper()
    if text.isdecimal():
        return int(text)
    text = text if text.startswith("SIG") else f"SIG{text}"
    for base, sign in (("SIGRTMIN", 1), ("SIGRTMAX", -1)):
        if text.startswith(base):
            rest = text[len(base) :].lstrip("+-")
            return int(getattr(signal, base)) + sign * (int(rest) if rest.isdecimal() else 0)
    found = signal.Signals.__members__.get(
        {"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}.get(text, text)
    )
    return int(found) if found is not None else int(signal.SIGTERM)
