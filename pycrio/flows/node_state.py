"""The node as the flows see it: the host's ports, what is remembered, and what is going on right now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pycrio.errors import NotFound, WrongState
from pycrio.flows.node.events import Bus
from pycrio.flows.node.rates import Rates
from pycrio.flows.node.readings import Readings
from pycrio.flows.plugins import Plugins
from pycrio.flows.ports import Host
from pycrio.flows.turn import Joined, Turns
from pycrio.flows.views import EventView
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.event import Event
from pycrio.model.node import Handler
from pycrio.model.pod import PodRecord
from pycrio.state.names import Names
from pycrio.state.store import Table

DOWNLOADS = 6  # layers of all pulls together that are fetched and unpacked at a time


def now() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class Live:
    """What is going on with one container: who waits for its end, who stops it, which execs run in it.

    ``unfrozen`` is not set while a checkpoint holds it frozen.
    ``process`` is the OCI document of its first process, which execs begin with, once one has read it: probes come by
    the second, and the document does not change.
    ``follower`` waits for the end of its process, once its monitor is dead.
    ``kill_at`` is the loop time when a running stop turns to SIGKILL; a later stop may only bring it nearer.
    """

    exited: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Task[None] | None = None
    kill_at: float = 0.0
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    killing: bool = False
    unfrozen: asyncio.Event = field(default_factory=_set)
    execs: set[asyncio.Task[object]] = field(default_factory=set)
    process: Mapping[str, Any] | None = None
    follower: asyncio.Task[None] | None = None


class Node:
    """Everything a flow works on. One per daemon."""

    def __init__(self, host: Host, state_dir: str) -> None:
        self.host = host
        self.pods: Table[PodRecord] = Table("pod", f"{state_dir}/pods", "pod sandbox")
        self.containers: Table[ContainerRecord] = Table("container", f"{state_dir}/containers", "container")
        self.names = Names()
        self.turns = Turns()
        self.creating = Joined()
        self.removing = Joined()
        self.pulling = Joined(abandon=True)
        self.downloads = asyncio.Semaphore(DOWNLOADS)
        self.events = Bus(self._seen)
        self.rates = Rates(self.known)
        self.readings = Readings(self.known)
        self.plugins = Plugins(self)
        self.unborn: set[str] = set()  # ids of containers between their monitor's start and their record
        self._live: dict[str, Live] = {}
        self.pods.listen(self._changed)
        self.containers.listen(self._changed)

    def _changed(self, old: PodRecord | ContainerRecord | None, new: PodRecord | ContainerRecord | None) -> None:
        if old is not None and new is None:
            self.rates.forget(old.id)
            self.readings.forget(old.id)

    def _seen(self, event: Event) -> EventView:
        """The pod of an event as it is now."""
        pod = self.pods.resolve(event.pod_id)
        return EventView(event, pod, self.newest_of(pod.id) if pod is not None else ())

    def known(self, ident: str) -> bool:
        """True while there is a pod or a container of that id."""
        return ident in self.pods or ident in self.containers

    def live(self, container_id: str) -> Live:
        """The live part of a container, made when first wanted."""
        return self._live.setdefault(container_id, Live())

    def forget_live(self, container_id: str) -> None:
        """Drop the live part; whoever still waits for the container's end is told."""
        live = self._live.pop(container_id, None)
        if live is not None:
            live.exited.set()

    def containers_of(self, pod_id: str) -> list[ContainerRecord]:
        """The pod's containers, oldest first."""
        found = [c for c in self.containers if c.pod_id == pod_id]
        return sorted(found, key=lambda c: c.created_at)

    def newest_of(self, pod_id: str) -> tuple[ContainerRecord, ...]:
        """The same, newest first, as statuses of a pod list them: a kubelet that lives on events (EventedPLEG) takes
        the first container of a name for the present one, and would begin the one before it again."""
        return tuple(reversed(self.containers_of(pod_id)))

    def handler_of(self, container: ContainerRecord) -> Handler:
        """The handler that a container was made by, with the runtime that made it: another may not know it."""
        handler = self.host.handlers.get(container.handler)
        return replace(handler, path=container.runtime_path) if container.runtime_path else handler

    def ready_pod(self, ident: str) -> PodRecord:
        """The pod, if containers can be made in it."""
        pod = self.pods.resolve(ident)
        if pod is None:
            raise NotFound("pod sandbox", ident, "specified sandbox not found")
        if not pod.ready:
            raise WrongState(f"CreateContainer failed as the sandbox was stopped: {pod.id}")
        return pod

    def running(self, ident: str) -> ContainerRecord:
        """The container, if processes can be started in it."""
        container = self.containers.get(ident)
        if container.state not in (ContainerState.RUNNING, ContainerState.CREATED):
            raise NotFound("container", ident, "container is not created or running")
        return container
