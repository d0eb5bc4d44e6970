"""The plugins that have joined: who is asked, in which order, and what their answers come to together.

One request is on its way through the plugins at a time, as plugins expect. A plugin that joins is brought up to date in
such a turn: whatever happens to pods and containers meanwhile waits and is told to it as well, so it misses nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

from pycrio.drivers.nri import describe, validator
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.apply import Helpers, apply
from pycrio.drivers.nri.merge import Change, Creation, Updates
from pycrio.drivers.nri.owners import Owners
from pycrio.drivers.nri.plugin import Plugin
from pycrio.drivers.nri.settings import Settings
from pycrio.errors import PluginFailure, PycrioError
from pycrio.model.container import ContainerState
from pycrio.model.nri import Eviction, LimitChange, NriAnswer, NriContainer, NriEvent, NriState
from pycrio.model.pod import PodRecord
from pycrio.model.resources import Resources
from pycrio.obs import log as obslog

log = obslog.get("nri")
_AT_ONCE = 32  # connections that have not joined yet

# event → request, answer; those with more to them than a pod and a container have methods of their own
_POD = {
    NriEvent.RUN_POD: (pb.RunPodSandboxRequest, pb.RunPodSandboxResponse),
    NriEvent.POST_UPDATE_POD: (pb.PostUpdatePodSandboxRequest, pb.PostUpdatePodSandboxResponse),
    NriEvent.STOP_POD: (pb.StopPodSandboxRequest, pb.StopPodSandboxResponse),
    NriEvent.REMOVE_POD: (pb.RemovePodSandboxRequest, pb.RemovePodSandboxResponse),
}
_CONTAINER = {
    NriEvent.POST_CREATE: (pb.PostCreateContainerRequest, pb.PostCreateContainerResponse),
    NriEvent.START: (pb.StartContainerRequest, pb.StartContainerResponse),
    NriEvent.POST_START: (pb.PostStartContainerRequest, pb.PostStartContainerResponse),
    NriEvent.POST_UPDATE: (pb.PostUpdateContainerRequest, pb.PostUpdateContainerResponse),
    NriEvent.REMOVE: (pb.RemoveContainerRequest, pb.RemoveContainerResponse),
}
_VETO = frozenset({NriEvent.RUN_POD, NriEvent.UPDATE_POD})


class View(Protocol):
    """What plugins may know of and do to the node; the flows bring it."""

    async def state(self) -> NriState:
        """Pods and containers of now."""

    async def change(self, change: LimitChange) -> None:
        """Apply limits; a PycrioError when they cannot hold."""

    def evict(self, eviction: Eviction) -> None:
        """Have a container stopped, soon."""


class Hub:
    """See the module. ``inject`` applies CDI devices, ``propagation`` tells that of the mount that holds a path,
    ``block_io`` gives the OCI document of a block I/O class."""

    def __init__(
        self,
        settings: Settings,
        view: View,
        inject: Callable[[dict[str, Any], Sequence[str]], None],
        propagation: Callable[[str], str],
        block_io: Callable[[str], Mapping[str, Any] | None],
    ) -> None:
        self.settings = settings
        self.plugins: list[Plugin] = []
        self.mask = 0
        self._view = view
        self._helpers = (inject, propagation, block_io)
        self._turn = asyncio.Lock()
        self._joining: set[Plugin] = set()
        self._synchronizing = 0
        self._closing = False
        self._count()

    def wanted(self, event: NriEvent) -> bool:
        """True when somebody is to be asked, or is just joining and may want to be."""
        return self._synchronizing > 0 or bool(self.mask >> (event.value - 1) & 1)

    # --- coming and going ---------------------------------------------------------------------------------------------

    def newcomer(self) -> Plugin:
        """A plugin for an accepted connection."""
        return Plugin(self.settings, self.update_containers)

    def launched(self, index: str, name: str, config: str) -> Plugin:
        """A plugin that we start."""
        return Plugin(self.settings, self.update_containers, (index, name), config)

    async def join(self, plugin: Plugin) -> bool:
        """Take a connected plugin in; False, and it is closed, when it is not fit."""
        if self._closing:
            plugin.link.close("the runtime ends")
            return False
        if len(self._joining) >= _AT_ONCE:
            plugin.link.close("too many plugins join at a time")
            log.error("NRI plugin not taken in: too many join at a time")
            return False
        self._joining.add(plugin)
        try:
            await plugin.join()
            updates = await self._synchronize(plugin)
        except PycrioError as e:
            plugin.link.close(str(e))
            log.error("NRI plugin not taken in", plugin=plugin.title, error=str(e))
            return False
        finally:
            self._joining.discard(plugin)
        log.info("NRI plugin joined", plugin=plugin.title, pid=plugin.link.peer_pid, events=f"{plugin.events:#x}")
        await self._apply(updates, plugin)
        return plugin.alive

    async def _synchronize(self, plugin: Plugin) -> Sequence[pb.ContainerUpdate]:
        self._synchronizing += 1
        try:
            async with self._turn:
                state = await self._view.state()
                updates = await plugin.synchronize(
                    [describe.pod(p) for p in state.pods], [describe.container(c) for c in state.containers]
                )
                if not plugin.alive:
                    raise PluginFailure(f"NRI plugin {plugin.title} left while it was synchronised")
                self.plugins = sorted([*self.plugins, plugin], key=lambda p: p.index)
                self._count()
                plugin.link.closed.add_done_callback(lambda done: self._left(plugin, done.result()))
                return updates
        finally:
            self._synchronizing -= 1

    def _left(self, plugin: Plugin, reason: str) -> None:
        self.plugins = [p for p in self.plugins if p is not plugin]
        self._count()
        log.info("NRI plugin left", plugin=plugin.title, reason=reason)

    def _count(self) -> None:
        self.mask = 0
        for plugin in self.plugins:
            self.mask |= plugin.events
        # The validator has its say on every container, also when nobody adjusts it: plugins may be required.
        if self.settings.validation.enabled or any(p.wants(NriEvent.VALIDATE) for p in self.plugins):
            self.mask |= 1 << (NriEvent.CREATE.value - 1)

    async def close(self) -> None:
        """Tell every plugin that the runtime ends, and part from it."""
        self._closing = True
        here, joining = list(self.plugins), list(self._joining)
        for plugin in joining:
            plugin.link.close("the runtime ends")
        await asyncio.gather(*(p.shut_down() for p in here))
        await asyncio.gather(*(p.link.wait_closed() for p in (*here, *joining)))

    # --- events -------------------------------------------------------------------------------------------------------

    async def pod(
        self, event: NriEvent, record: PodRecord, overhead: Resources | None, resources: Resources | None
    ) -> None:
        """Tell of a pod. The first refusal ends the round where it counts; of mere events everybody is told first."""
        described = describe.pod(record)
        if event is NriEvent.UPDATE_POD:
            request: Message = pb.UpdatePodSandboxRequest(
                pod=described,
                overhead_linux_resources=None if overhead is None else describe.limits(overhead),
                linux_resources=None if resources is None else describe.limits(resources),
            )
            await self._tell(event, request, pb.UpdatePodSandboxResponse)
        else:
            kind, answer = _POD[event]
            await self._tell(event, kind(pod=described), answer)

    async def container(self, event: NriEvent, pod: PodRecord, container: NriContainer) -> None:
        """Tell of a container, likewise."""
        kind, answer = _CONTAINER[event]
        await self._tell(event, kind(pod=describe.pod(pod), container=describe.container(container)), answer)

    async def _tell(self, event: NriEvent, request: Message, answer: type[Message]) -> None:
        failure: PluginFailure | None = None
        async with self._turn:
            for plugin in self.plugins:
                try:
                    await plugin.ask(event, request, answer)
                except PluginFailure as e:
                    if event in _VETO:
                        raise
                    failure = failure or e
        if failure is not None:
            raise failure

    # --- containers ---------------------------------------------------------------------------------------------------

    async def create(self, pod: PodRecord, container: NriContainer, permitted: Callable[[str], bool]) -> NriAnswer:
        """Ask for adjustments and apply them to ``container.document``."""
        fresh = dataclasses.replace(container.record, state=ContainerState.UNKNOWN)
        creation = Creation(describe.pod(pod), describe.container(dataclasses.replace(container, record=fresh)))
        pristine = pb.Container()
        pristine.CopyFrom(creation.request.container)
        async with self._turn:
            asked = list(self.plugins)
            for plugin in asked:
                answer = await plugin.ask(NriEvent.CREATE, creation.request, pb.CreateContainerResponse)
                if answer is not None:
                    creation.take(answer, plugin.title)
            await self._validate(creation, pristine, asked)
        relabel = apply(container.document, creation.adjust, Helpers(permitted, *self._helpers))
        return NriAnswer(_changes(creation.updates), _evictions(creation.evictions), relabel=relabel)

    async def _validate(self, creation: Creation, pristine: pb.Container, asked: Sequence[Plugin]) -> None:
        rules = self.settings.validation
        validators = [p for p in self.plugins if p.wants(NriEvent.VALIDATE)]
        if not validators and not rules.enabled:
            return
        request = pb.ValidateContainerAdjustmentRequest(
            pod=creation.request.pod,
            container=pristine,
            adjust=creation.adjust,
            update=creation.updates.by_id.values(),
            owners=creation.owners.message,
            plugins=[pb.PluginInstance(name=p.name, index=p.index) for p in asked],
        )
        if rules.enabled:
            request.plugins.add(name=validator.NAME, index=validator.INDEX)
            validator.validate(rules, request)
        answers = await asyncio.gather(
            *(p.ask(NriEvent.VALIDATE, request, pb.ValidateContainerAdjustmentResponse) for p in validators)
        )
        for plugin, verdict in zip(validators, answers, strict=True):
            if verdict is None and not plugin.alive and not plugin.implied:
                raise PluginFailure(f"NRI validator {plugin.title} did not answer")
            if verdict is not None and verdict.reject:
                raise PluginFailure(
                    f"NRI validator {plugin.title} rejected the adjustment: {verdict.reason or 'no reason given'}"
                )

    async def update(self, pod: PodRecord, container: NriContainer, asked: Mapping[str, Any]) -> NriAnswer:
        """Ask what the limits shall be."""
        change = Change(describe.pod(pod), describe.container(container), describe.resources(asked))
        async with self._turn:
            for plugin in self.plugins:
                answer = await plugin.ask(NriEvent.UPDATE, change.request, pb.UpdateContainerResponse)
                if answer is not None:
                    change.take(answer, plugin.title)
        resources = describe.resources_document(change.request.linux_resources) if change.changed else None
        return NriAnswer(_changes(change.updates), _evictions(change.evictions), resources)

    async def stop(self, pod: PodRecord, container: NriContainer) -> NriAnswer:
        """Tell that a container has stopped; others may get what it leaves."""
        request = pb.StopContainerRequest(pod=describe.pod(pod), container=describe.container(container))
        updates = Updates(Owners())
        failure: PluginFailure | None = None
        async with self._turn:
            for plugin in self.plugins:
                try:
                    answer = await plugin.ask(NriEvent.STOP, request, pb.StopContainerResponse)
                    if answer is not None:
                        updates.take(answer.update, plugin.title)
                except PluginFailure as e:
                    failure = failure or e
        if failure is not None:
            log.warning("NRI plugin failed at the stop of a container", id=container.record.id, error=str(failure))
        return NriAnswer(_changes(updates))

    # --- what plugins ask by themselves -------------------------------------------------------------------------------

    async def update_containers(self, request: pb.UpdateContainersRequest) -> pb.UpdateContainersResponse:
        """Apply updates and evictions of no request's; those that failed and may not.

        Not a turn of its own: a plugin may ask this while it is asked something itself.
        """
        failed = []
        for asked in request.update:
            try:
                await self._view.change(_change(asked))
            except PycrioError as e:
                log.warning("Update by an NRI plugin failed", id=asked.container_id, error=str(e))
                if not asked.ignore_failure:
                    failed.append(asked)
        for eviction in _evictions(request.evict):
            self._view.evict(eviction)
        return pb.UpdateContainersResponse(failed=failed)

    async def _apply(self, updates: Sequence[pb.ContainerUpdate], plugin: Plugin) -> None:
        answer = await self.update_containers(pb.UpdateContainersRequest(update=updates))
        if answer.failed:
            log.error("Updates of a joining NRI plugin failed", plugin=plugin.title, count=len(answer.failed))


def _change(asked: pb.ContainerUpdate) -> LimitChange:
    document = describe.resources_document(asked.linux.resources)
    return LimitChange(asked.container_id, document, asked.ignore_failure)


def _changes(updates: Updates) -> tuple[LimitChange, ...]:
    return tuple(_change(u) for u in updates.by_id.values())


def _evictions(asked: Sequence[pb.ContainerEviction]) -> tuple[Eviction, ...]:
    return tuple(Eviction(e.container_id, e.reason) for e in asked)
