"""What NRI plugins are told about pods and containers, and what they may do to them.

The flows call one method at each turn of a life; without a plugin that wants to know it costs a comparison. Towards the
driver this is the view of the node: what a joining plugin learns, and how limits change and containers are evicted.

A container that is being made is in no table yet. It is remembered here from the moment when plugins were asked about
it, in the same breath (nothing is awaited between the answer and the note), so that a plugin which joins meanwhile is
told of it with everything else. A pod goes into its table in that same breath.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pycrio.errors import InvalidRequest, PycrioError, WrongState
from pycrio.flows.pods import options as pod_options
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.nri import Eviction, LimitChange, NriAnswer, NriContainer, NriEvent, NriState
from pycrio.model.pod import PodRecord
from pycrio.model.resources import Resources
from pycrio.obs import log as obslog
from pycrio.spec.resources import limits, merge, wanted_of

if TYPE_CHECKING:
    from pycrio.flows.node_state import Node

log = obslog.get("plugins")
LIVING = (ContainerState.CREATED, ContainerState.RUNNING)


class Plugins:
    """One per node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._made: dict[str, NriContainer] = {}
        self._stopped: set[str] = set()
        self._removed: set[str] = set()
        self._evictions: set[asyncio.Task[None]] = set()
        node.pods.listen(self._pod_changed)

    def _wanted(self, event: NriEvent) -> bool:
        return self._node.host.nri.wanted(event)

    # --- pods ---------------------------------------------------------------------------------------------------------

    async def run_pod(self, pod: PodRecord, undo: Undo) -> None:
        """Before a pod is shown to anybody; PluginFailure when a plugin refuses it. The caller records the pod next."""
        undo.once("tell plugins of the pod's end", self._pod_undone, pod)
        if self._wanted(NriEvent.RUN_POD):
            await self._node.host.nri.pod(NriEvent.RUN_POD, pod)

    async def _pod_undone(self, pod: PodRecord) -> None:
        await self._tell_pod(NriEvent.STOP_POD, pod)
        await self._tell_pod(NriEvent.REMOVE_POD, pod)

    async def update_pod(self, pod: PodRecord, overhead: Resources | None, resources: Resources | None) -> None:
        """Before new resources of a pod are noted; PluginFailure when a plugin refuses them."""
        if self._wanted(NriEvent.UPDATE_POD):
            await self._node.host.nri.pod(NriEvent.UPDATE_POD, pod, overhead, resources)

    async def pod_updated(self, pod: PodRecord) -> None:
        """After that."""
        await self._tell_pod(NriEvent.POST_UPDATE_POD, pod)

    async def stop_pod(self, pod: PodRecord) -> None:
        """When the containers have stopped and namespaces and network are still there; once per pod."""
        if pod.id not in self._stopped:
            self._stopped.add(pod.id)
            await self._tell_pod(NriEvent.STOP_POD, pod)

    async def remove_pod(self, pod: PodRecord) -> None:
        """Before what is left of a pod goes; once per pod, unless that fails."""
        if pod.id not in self._removed:
            await self._tell_pod(NriEvent.REMOVE_POD, pod)
            self._removed.add(pod.id)

    async def _tell_pod(self, event: NriEvent, pod: PodRecord) -> None:
        if self._wanted(event):
            await self._harmless(event, pod.id, self._node.host.nri.pod(event, pod))

    async def _harmless(self, event: NriEvent, ident: str, telling: Awaitable[None]) -> None:
        try:
            await telling
        except PycrioError as e:
            log.warning("NRI plugin failed, going on", id=ident, on=event.name, error=str(e))

    def _pod_changed(self, old: PodRecord | None, new: PodRecord | None) -> None:
        if new is None and old is not None:
            self._stopped.discard(old.id)
            self._removed.discard(old.id)

    # --- containers ---------------------------------------------------------------------------------------------------

    async def create(
        self, pod: PodRecord, record: ContainerRecord, document: dict[str, Any], undo: Undo
    ) -> ContainerRecord:
        """Have plugins adjust the OCI config of a container that is being made, and others' limits with it; the record
        as it is then. PluginFailure when a plugin refuses or two contradict each other."""
        view = NriContainer(record, document)
        undo.push("forget container that was not made", self._made.pop, record.id, None)
        if not self._wanted(NriEvent.CREATE):
            self._made[record.id] = view
            return record
        host = self._node.host
        undo.once("tell plugins of the container's end", self._container_undone, pod, view)
        answer = await host.nri.create(pod, view, self._permitted(pod))
        self._made[record.id] = view
        await self._apply(answer)
        for path in answer.relabel:
            await host.security.relabel(path, document["linux"].get("mountLabel", ""), True)
        resources = document["linux"].get("resources", {})
        if "hugetlb" not in host.cgroups.controllers():
            resources.pop("hugepageLimits", None)
        return replace(
            record,
            resources=merge(record.resources, wanted_of(resources)),
            cgroup_path=document["linux"].get("cgroupsPath", record.cgroup_path),
        )

    def _permitted(self, pod: PodRecord) -> Callable[[str], bool]:
        """Whether plugins may set an annotation: what acts must be allowed for the pod's handler or workload."""
        host = self._node.host
        handler = host.handlers.get(pod.handler)

        def permitted(key: str) -> bool:
            tried = replace(pod.config, annotations={**pod.config.annotations, key: ""})
            return key in pod_options.allowed(tried, handler, host.options)

        return permitted

    async def _container_undone(self, pod: PodRecord, view: NriContainer) -> None:
        if self._wanted(NriEvent.STOP):
            await self._tolerant(await self._node.host.nri.stop(pod, view))
        if self._wanted(NriEvent.REMOVE):
            await self._node.host.nri.container(NriEvent.REMOVE, pod, view)

    async def created(self, container: ContainerRecord) -> None:
        """After a container's record was written."""
        self._made.pop(container.id, None)
        await self._tell(NriEvent.POST_CREATE, container)

    async def starting(self, container: ContainerRecord) -> None:
        """Before a container's process is let go."""
        await self._tell(NriEvent.START, container)

    async def started(self, container: ContainerRecord) -> None:
        """After that."""
        await self._tell(NriEvent.POST_START, container)

    async def update(self, container: ContainerRecord, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """The limits (an OCI linux.resources document) that a container is to get instead of those asked for."""
        pod = self._node.pods.resolve(container.pod_id)
        if pod is None or not self._wanted(NriEvent.UPDATE):
            return asked
        answer = await self._node.host.nri.update(pod, await self.view(container), asked)
        await self._apply(answer)
        return asked if answer.resources is None else answer.resources

    async def updated(self, container: ContainerRecord) -> None:
        """After new limits were noted."""
        await self._tell(NriEvent.POST_UPDATE, container)

    async def stopped(self, container: ContainerRecord) -> None:
        """After a container's process has ended, however that came about."""
        pod = self._node.pods.resolve(container.pod_id)
        if pod is None or not self._wanted(NriEvent.STOP):
            return
        try:
            await self._tolerant(await self._node.host.nri.stop(pod, await self.view(container)))
        except PycrioError as e:
            log.warning("NRI plugin failed, going on", id=container.id, on=NriEvent.STOP.name, error=str(e))

    async def removing(self, container: ContainerRecord) -> None:
        """Before a container goes; one that never had a process to end has stopped now."""
        if container.state is not ContainerState.EXITED:
            await self.stopped(container)
        await self._tell(NriEvent.REMOVE, container)

    async def _tell(self, event: NriEvent, container: ContainerRecord) -> None:
        pod = self._node.pods.resolve(container.pod_id)
        if pod is not None and self._wanted(event):
            telling = self._node.host.nri.container(event, pod, await self.view(container))
            await self._harmless(event, container.id, telling)

    async def view(self, container: ContainerRecord) -> NriContainer:
        """A container with its OCI config, in which the limits are those of now."""
        files = self._node.host.files
        text = await files.read(f"{container.bundle}/config.json", 16 << 20)
        document: dict[str, Any] = json.loads(text) if text else {}
        known = document.setdefault("linux", {}).setdefault("resources", {})
        try:
            current = limits(container.resources, self._node.host.cgroups.controllers())
        except InvalidRequest:  # limits that a plugin set together, but that no request could: the config's stand
            current = {}
        for part, values in current.items():
            known[part] = {**(known.get(part) or {}), **values} if isinstance(values, dict) else values
        return NriContainer(container, document)

    # --- the driver's view of the node --------------------------------------------------------------------------------

    async def state(self) -> NriState:
        """What a joining plugin learns: pods that are not removed, containers that have not ended."""
        pods = tuple(p for p in self._node.pods if p.id not in self._removed)
        made = list(self._made.values())
        living = [c for c in self._node.containers if c.state in LIVING]
        return NriState(pods, (*made, *[await self.view(c) for c in living]))

    async def change(self, change: LimitChange) -> None:
        """Apply limits to a container that lives; one that is gone needs none. RuntimeFailure when they cannot hold."""
        node = self._node
        container = node.containers.resolve(change.container_id)
        if container is None or container.state not in LIVING:
            log.info("Limits of an NRI plugin for a container that is gone", id=change.container_id)
            return
        await set_limits(node, container, change.resources, wanted_of(change.resources))

    def evict(self, eviction: Eviction) -> None:
        """Stop a container at once; nobody waits for it."""
        task = asyncio.get_running_loop().create_task(self._evict(eviction))
        self._evictions.add(task)
        task.add_done_callback(self._evictions.discard)

    async def _evict(self, eviction: Eviction) -> None:
        from pycrio.flows.containers import stop  # it knows the node, which knows this

        log.info("NRI plugin evicts container", id=eviction.container_id, reason=eviction.reason)
        try:
            await stop.stop(self._node, eviction.container_id, 0)
        except PycrioError as e:
            log.error("Container not evicted", id=eviction.container_id, error=str(e))

    async def _apply(self, answer: NriAnswer) -> None:
        for change in answer.changes:
            try:
                await self.change(change)
            except PycrioError as e:
                if not change.tolerated:
                    raise
                log.warning("Limits of an NRI plugin not applied", id=change.container_id, error=str(e))
        for eviction in answer.evictions:
            self.evict(eviction)

    async def _tolerant(self, answer: NriAnswer) -> None:
        await self._apply(replace(answer, changes=tuple(replace(c, tolerated=True) for c in answer.changes)))


async def set_limits(node: Node, container: ContainerRecord, document: Mapping[str, Any], noted: Resources) -> None:
    """Have the runtime apply an OCI linux.resources document, and note the limits in the record as that is then.
    WrongState for a container that waits to be restored: the runtime does not know it yet.

    In the container's order of limits, which is inside every other one: a request about one container may change the
    limits of another while that one is being worked on.
    """
    if container.awaits_restore:
        raise WrongState(f"container {container.id} is not restored yet: start it before its limits change")
    async with node.turns.of(("limits", container.id)):
        if document:
            await node.host.runtime.update(node.handler_of(container), container.id, document)
        current = node.containers.resolve(container.id)
        if current is not None:
            node.containers.put(replace(current, resources=merge(current.resources, noted)))
