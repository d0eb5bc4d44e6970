"""The Node Resource Interface as the flows need it (see ``flows.ports.Nri``)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pycrio._native.pools import offload
from pycrio.drivers.nri.settings import Settings
from pycrio.errors import ConfigError
from pycrio.model.nri import NriAnswer, NriContainer, NriEvent
from pycrio.model.pod import PodRecord
from pycrio.model.resources import Resources
from pycrio.obs import log as obslog

if TYPE_CHECKING:
    from pycrio.drivers.nri.hub import Hub, View

log = obslog.get("nri")


class Nri:
    """Plugins that follow and adjust pods and containers. Without any it costs a comparison per event, and what speaks
    the protocol is not even loaded."""

    def __init__(
        self,
        settings: Settings,
        inject: Callable[[dict[str, Any], Sequence[str]], None],
        propagation: Callable[[str], str],
        block_io: Callable[[str], Mapping[str, Any] | None] = lambda name: None,
    ) -> None:
        self.settings = settings
        self._inject = inject
        self._propagation = propagation
        self._block_io = block_io
        self._view: View | None = None
        self._hub: Hub | None = None
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self, view: View) -> None:
        """Start the installed plugins, bring them up to date, and let others connect. ConfigError when the socket
        cannot be made. Does nothing when NRI is off."""
        if not self.settings.enabled:
            return
        self._view = view
        if self.settings.validation.enabled:
            self._loaded()
        if await offload("store", os.path.isdir, self.settings.plugin_dir):
            await self._launch()
        if self.settings.connections:
            await self._listen()

    async def close(self) -> None:
        """Part from every plugin and end those that we started."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.settings.listen)
        if self._hub is not None:
            await self._hub.close()
        # Not cancelled: each has nothing left to wait for but the end of the plugin that it started.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _loaded(self) -> Hub:
        """The hub, made when first needed."""
        if self._hub is None:
            from pycrio.drivers.nri.hub import Hub

            assert self._view is not None
            self._hub = Hub(self.settings, self._view, self._inject, self._propagation, self._block_io)
        return self._hub

    async def _launch(self) -> None:
        from pycrio.drivers.nri import launch

        found = await offload("store", launch.discover, self.settings.plugin_dir, self.settings.config_dir)
        for installed in found:
            log.info("Starting NRI plugin", path=installed.path)
        hub = self._loaded() if found else None
        if hub is not None:
            joined = [asyncio.Event() for _ in found]
            for installed, event in zip(found, joined, strict=True):
                self._spawn(launch.launch(hub, installed, event))
            await asyncio.gather(*(e.wait() for e in joined))

    async def _listen(self) -> None:
        path = self.settings.listen
        sock = await offload("store", listener, path)
        if sock is not None:
            self._server = await asyncio.get_running_loop().create_unix_server(self._accepted, sock=sock)

    def _accepted(self) -> asyncio.Protocol:
        hub = self._loaded()
        plugin = hub.newcomer()
        self._spawn(hub.join(plugin))
        return plugin.link

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Care of an NRI plugin ended", error=repr(error))

    # --- the port -----------------------------------------------------------------------------------------------------

    def wanted(self, event: NriEvent) -> bool:
        """True when somebody is to be asked."""
        return self._hub is not None and self._hub.wanted(event)

    async def pod(
        self,
        event: NriEvent,
        pod: PodRecord,
        overhead: Resources | None = None,
        resources: Resources | None = None,
    ) -> None:
        """Tell plugins of a pod."""
        if self._hub is not None:
            await self._hub.pod(event, pod, overhead, resources)

    async def container(self, event: NriEvent, pod: PodRecord, container: NriContainer) -> None:
        """Tell plugins of a container."""
        if self._hub is not None:
            await self._hub.container(event, pod, container)

    async def create(self, pod: PodRecord, container: NriContainer, permitted: Callable[[str], bool]) -> NriAnswer:
        """Ask for adjustments and apply them to ``container.document``."""
        return NriAnswer() if self._hub is None else await self._hub.create(pod, container, permitted)

    async def update(self, pod: PodRecord, container: NriContainer, asked: Mapping[str, Any]) -> NriAnswer:
        """Ask what a container's limits shall be."""
        return NriAnswer() if self._hub is None else await self._hub.update(pod, container, asked)

    async def stop(self, pod: PodRecord, container: NriContainer) -> NriAnswer:
        """Tell plugins that a container has stopped."""
        return NriAnswer() if self._hub is None else await self._hub.stop(pod, container)


def listener(path: str) -> socket.socket | None:
    """A listening socket for root alone. A stale file is replaced; None, with a warning, when another runtime serves
    the path. ConfigError when it cannot be made."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.connect(path)
            log.warning("Another runtime serves the NRI socket, plugins cannot connect to this one", path=path)
            sock.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(64)
        sock.setblocking(False)
    except OSError as e:
        sock.close()
        raise ConfigError([f"crio.nri.nri_listen: socket {path} cannot be made: {e.strerror or e}"]) from e
    return sock
