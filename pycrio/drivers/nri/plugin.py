"""One plugin: it registers, is configured and brought up to date, is asked in its turn, and one day it is gone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from pycrio.drivers.nri import frames
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.settings import API_VERSION, Settings
from pycrio.errors import PluginFailure
from pycrio.model.nri import NriEvent
from pycrio.obs import log as obslog
from pycrio.ttrpc.link import FAILED_PRECONDITION, INVALID_ARGUMENT, UNIMPLEMENTED, CallError, Link, LinkLost

log = obslog.get("nri")
PLUGIN_SERVICE = "nri.pkg.api.v1alpha1.Plugin"
RUNTIME_SERVICE = "nri.pkg.api.v1alpha1.Runtime"
ALL_EVENTS = (1 << (pb.LAST - 1)) - 1
_NAME = re.compile(r"[A-Za-z0-9_.+-]+\Z")
_INDEX = re.compile(r"[0-9]{2}\Z")
_ROOM = frames.MAX_DATA - 65536  # for pods and containers in one Synchronize request, envelopes taken off
R = TypeVar("R", bound=Message)

METHODS = {
    NriEvent.RUN_POD: "RunPodSandbox",
    NriEvent.UPDATE_POD: "UpdatePodSandbox",
    NriEvent.POST_UPDATE_POD: "PostUpdatePodSandbox",
    NriEvent.STOP_POD: "StopPodSandbox",
    NriEvent.REMOVE_POD: "RemovePodSandbox",
    NriEvent.CREATE: "CreateContainer",
    NriEvent.POST_CREATE: "PostCreateContainer",
    NriEvent.START: "StartContainer",
    NriEvent.POST_START: "PostStartContainer",
    NriEvent.UPDATE: "UpdateContainer",
    NriEvent.POST_UPDATE: "PostUpdateContainer",
    NriEvent.STOP: "StopContainer",
    NriEvent.REMOVE: "RemoveContainer",
    NriEvent.VALIDATE: "ValidateContainerAdjustment",
}
_BY_STATE_CHANGE = frozenset(
    {
        NriEvent.RUN_POD,
        NriEvent.POST_UPDATE_POD,
        NriEvent.STOP_POD,
        NriEvent.REMOVE_POD,
        NriEvent.POST_CREATE,
        NriEvent.START,
        NriEvent.POST_START,
        NriEvent.POST_UPDATE,
        NriEvent.REMOVE,
    }
)
"""Events of which older plugins are told by StateChange, because they have no call of their own for them."""

UpdateContainers = Callable[[pb.UpdateContainersRequest], Awaitable[pb.UpdateContainersResponse]]


def check_identity(name: str, index: str) -> str:
    """What is wrong with a plugin's name or index; "" when nothing is."""
    if not _NAME.match(name):
        return f"plugin name {name!r} is empty or has characters other than letters, digits and _.+-"
    if not _INDEX.match(index):
        return f"plugin index {index!r} is not two digits"
    return ""


class Plugin:
    """A connection that becomes a plugin once it has registered.

    ``identity`` is (index, name) of a plugin that we started; another one brings it along. ``config`` is the content of
    its configuration file.
    """

    def __init__(
        self,
        settings: Settings,
        update: UpdateContainers,
        identity: tuple[str, str] | None = None,
        config: str = "",
    ) -> None:
        self.link = Link(self._serve, accepted=identity is None, codec=frames.Codec(), peer="plugin")
        self.index, self.name = identity or ("", "")
        self.events = 0
        self._settings = settings
        self._update = update
        self._launched = identity is not None
        self._config = config
        self.implied = False  # subscribed to everything by naming nothing
        self._old: set[NriEvent] = set()
        self._registered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def title(self) -> str:
        """Index and name, ``10-balloons``."""
        return f"{self.index}-{self.name}" if self.name else "unregistered plugin"

    @property
    def alive(self) -> bool:
        """False once the connection has ended."""
        return not self.link.closed.done()

    def wants(self, event: NriEvent) -> bool:
        """Whether it subscribed to the event."""
        return bool(self.events >> (event.value - 1) & 1)

    # --- joining ------------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Wait for its registration and configure it; PluginFailure, and its connection is closed, when it does not."""
        limit = self._settings.registration_timeout
        either: set[asyncio.Future[Any]] = {self._registered, self.link.closed}
        done, _ = await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if self._registered not in done:
            reason = self.link.closed.result() if self.link.closed.done() else f"no registration in {limit:g} seconds"
            self.link.close(reason)
            raise PluginFailure(f"NRI plugin did not register: {reason}")
        s = self._settings
        request = pb.ConfigureRequest(
            config=self._config,
            runtime_name=s.name,
            runtime_version=s.version,
            registration_timeout=int(s.registration_timeout * 1000),
            request_timeout=int(s.request_timeout * 1000),
            NRI_version=API_VERSION,
        )
        try:
            answer = await self._call("Configure", request, pb.ConfigureResponse, s.request_timeout)
            if answer.events & ~ALL_EVENTS:
                raise PluginFailure(f"NRI plugin {self.title} subscribed to unknown events {answer.events:#x}")
        except (PluginFailure, CallError, LinkLost) as e:
            self.link.close("configuration failed")
            if isinstance(e, PluginFailure):
                raise
            raise PluginFailure(f"NRI plugin {self.title} cannot be configured: {e}") from e
        self.implied = not answer.events
        self.events = answer.events or ALL_EVENTS

    async def synchronize(
        self, pods: Sequence[pb.PodSandbox], containers: Sequence[pb.Container]
    ) -> Sequence[pb.ContainerUpdate]:
        """Tell it of everything that is there; the updates that it asks for.

        It gets as long as for its registration, if that is longer than for a request: this is no small request, and
        nobody but it gains when it has to come back. PluginFailure, and its connection is closed, when it fails.
        """
        limit = max(self._settings.registration_timeout, self._settings.request_timeout)
        clock = asyncio.get_running_loop().time
        end = clock() + limit
        try:
            for part in portions(pods, containers):
                left = max(0.0, end - clock())
                answer = await self._call("Synchronize", part, pb.SynchronizeResponse, left)
                if part.more and (answer.update or not answer.more):
                    raise PluginFailure(f"NRI plugin {self.title} cannot take the state of the node in parts")
            return answer.update
        except (PluginFailure, CallError, LinkLost, ValueError) as e:
            self.link.close("synchronisation failed")
            if isinstance(e, PluginFailure):
                raise
            raise PluginFailure(f"NRI plugin {self.title} cannot be synchronised: {e}") from e

    # --- requests -----------------------------------------------------------------------------------------------------

    async def ask(self, event: NriEvent, request: Message, answer: type[R]) -> R | None:
        """Its answer to an event; None when it did not subscribe, does not have the call after all, or is gone now
        because it did not answer in time. PluginFailure when it refuses."""
        if not self.wants(event):
            return None
        try:
            if event in self._old:
                return await self._state_change(event, request, answer)
            try:
                return await self._call(METHODS[event], request, answer, self._settings.request_timeout)
            except CallError as e:
                if e.code != UNIMPLEMENTED or not (event in _BY_STATE_CHANGE or self.implied):
                    raise
            if event not in _BY_STATE_CHANGE:
                self.events &= ~(1 << (event.value - 1))
                return None
            self._old.add(event)
            log.info("NRI plugin is told of an event by the deprecated StateChange", plugin=self.title, on=event.name)
            return await self._state_change(event, request, answer)
        except CallError as e:
            raise PluginFailure(f"NRI plugin {self.title} failed {METHODS[event]}: {e}") from e
        except (LinkLost, ValueError) as e:
            self.link.close(str(e))
            log.error("NRI plugin dropped", plugin=self.title, on=METHODS[event], error=str(e))
            return None

    async def _state_change(self, event: NriEvent, request: Any, answer: type[R]) -> R:
        change = pb.StateChangeEvent(event=pb.Event.Name(event.value), pod=request.pod)
        if "container" in request.DESCRIPTOR.fields_by_name:
            change.container.CopyFrom(request.container)
        await self._call("StateChange", change, pb.Empty, self._settings.request_timeout)
        return answer()

    async def _call(self, method: str, request: Message, answer: type[R], timeout: float) -> R:
        payload = await self.link.call(PLUGIN_SERVICE, method, request.SerializeToString(), timeout)
        try:
            return answer.FromString(payload)
        except DecodeError as e:
            reason = f"answer to {method} cannot be decoded: {e}"
            self.link.close(reason)
            raise LinkLost(reason) from e

    async def shut_down(self) -> None:
        """Tell it that the runtime ends, and close its connection."""
        try:
            await self._call("Shutdown", pb.Empty(), pb.Empty, min(1.0, self._settings.request_timeout))
        except (CallError, LinkLost) as e:
            log.debug("NRI plugin does not take note of the end", plugin=self.title, error=str(e))
        self.link.close("the runtime ends")

    # --- its calls ----------------------------------------------------------------------------------------------------

    async def _serve(self, service: str, method: str, payload: bytes) -> bytes:
        if service != RUNTIME_SERVICE:
            raise CallError(UNIMPLEMENTED, f"service {service}")
        if method == "RegisterPlugin":
            return self._register(pb.RegisterPluginRequest.FromString(payload)).SerializeToString()
        if method == "UpdateContainers":
            if not self.events:
                raise CallError(FAILED_PRECONDITION, "the plugin has not joined yet")
            log.info("NRI plugin asks for updates of containers", plugin=self.title)
            answer = await self._update(pb.UpdateContainersRequest.FromString(payload))
            return answer.SerializeToString()
        raise CallError(UNIMPLEMENTED, f"method {method}")

    def _register(self, request: pb.RegisterPluginRequest) -> pb.Empty:
        if self._registered.done():
            raise CallError(FAILED_PRECONDITION, "the plugin has registered already")
        if not self._launched:
            fault = check_identity(request.plugin_name, request.plugin_idx)
            if fault:
                raise CallError(INVALID_ARGUMENT, fault)
            self.name, self.index = request.plugin_name, request.plugin_idx
        self._registered.set_result(None)
        log.info("NRI plugin registered", plugin=self.title, version=request.NRI_version or "unknown")
        return pb.Empty()


def portions(pods: Sequence[pb.PodSandbox], containers: Sequence[pb.Container]) -> Iterator[pb.SynchronizeRequest]:
    """Synchronize requests that fit into a message each: pods first, and all but the last with ``more``."""
    part, size = pb.SynchronizeRequest(), 0
    for field, items in (("pods", pods), ("containers", containers)):
        for item in items:
            cost = item.ByteSize() + 8
            if size and size + cost > _ROOM:
                part.more = True
                yield part
                part, size = pb.SynchronizeRequest(), 0
            getattr(part, field).append(item)
            size += cost
    yield part
