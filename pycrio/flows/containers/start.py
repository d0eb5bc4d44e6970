"""Start a created container. Whatever fails removes it completely, as callers of CRI-O expect."""

from __future__ import annotations

from dataclasses import replace

from pycrio.errors import ExternalFailure, NotFound, PycrioError, WrongState
from pycrio.flows.containers import remove as remove_container
from pycrio.flows.containers import restore, tuning
from pycrio.flows.node_state import Node, now
from pycrio.model.container import ContainerState
from pycrio.model.event import Event, EventType
from pycrio.obs import log as obslog
from pycrio.obs import steps

log = obslog.get("container")


async def start(node: Node, ident: str) -> None:
    """NotFound when absent, WrongState unless CREATED."""
    container = node.containers.resolve(ident)
    if container is None:
        raise NotFound("container", ident)
    async with node.turns.of(("container", container.id)):
        container = node.containers.get(container.id)
        if container.state is not ContainerState.CREATED:
            raise WrongState(f"container {container.id} is not in created state: {container.state.name.lower()}")
        handler = node.handler_of(container)
        await node.plugins.starting(container)
        with steps.flow("StartContainer", container.name), steps.step("start"):
            failure: PycrioError | None = None
            try:
                if container.awaits_restore:
                    container = await tuning.apply(node, await restore.run(node, container, handler))
                else:
                    container = await tuning.apply(node, container)
                    await node.host.runtime.start(handler, container.id)
            except ExternalFailure as e:
                stopped = node.live(container.id).stopping is not None
                failure = WrongState(f"container {container.id} was stopped while it started") if stopped else e
            except PycrioError as e:
                failure = e
        if failure is None:
            limits = node.containers.get(container.id).resources  # a plugin may have changed them meanwhile
            container = replace(container, state=ContainerState.RUNNING, started_at=now(), resources=limits)
            try:
                node.containers.put(container)
            except PycrioError as e:
                failure = e  # it runs, and nobody would know
        if failure is None:
            await node.plugins.started(container)
    if failure is not None:
        log.warning("Container did not start, removing it", id=container.id, error=str(failure))
        await remove_container.remove(node, container.id, None)
        raise failure
    node.events.publish(Event(EventType.STARTED, container.pod_id, container.id, now()))
    log.info("Started container", id=container.id, pid=container.first_pid, sandbox=container.pod_id)
