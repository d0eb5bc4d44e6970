"""Which network pods are attached to, and whether it can serve them now."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from pycrio._native.pools import offload
from pycrio.drivers.network.conf import Found, NetworkConf, load
from pycrio.drivers.network.plugins import NOBODY, Plugins
from pycrio.drivers.network.watch import Directories
from pycrio.errors import NetworkFailure, Timeout
from pycrio.obs import log as obslog

log = obslog.get("cni")
RETRY_PERIOD, STATUS_PERIOD, STATUS_TIMEOUT = 0.5, 5.0, 10.0


class Selection:
    """Follows the directories of networks and plugins. The first valid network is used, or the one with the
    ``default`` name.

    A network of CNI 1.1 is ready once all its plugins say so, asked every half second until then. With a
    ``grace`` period (seconds) they are asked on, and the network stops being ready after trouble for that long.
    """

    def __init__(self, directory: str, plugins: Plugins, default: str, grace: float) -> None:
        self._directory, self._plugins, self._default, self._grace = directory, plugins, default, grace
        self.network: NetworkConf | None = None
        self._reason = "not looked for yet"
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._untried = False
        self._bad_since: float | None = None
        self._watch = Directories(self._changed.set)
        self._beside: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self.clock = time.monotonic

    async def open(self) -> None:
        """Make the directories, read them, follow them."""
        for path in (self._directory, *self._plugins.directories):
            try:
                await offload("proc", os.makedirs, path, 0o755, True)
            except OSError as e:
                log.warning("Directory cannot be made, going on without it", path=path, error=str(e))
        await self._sync()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._watch.close()

    async def wait(self) -> None:
        """Return when the network is ready."""
        await self._ready.wait()

    def trouble(self) -> str:
        """Why the network is not ready; "" when it is."""
        return "" if self._ready.is_set() else self._reason

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._period())
            try:
                if self._changed.is_set():
                    self._changed.clear()
                    await self._sync()
                elif self.network is not None:
                    await self._ask(self.network)
            except Exception:
                # The node would never hear of its network again if this ended.
                log.exception("Network configuration not followed, going on with what is known")

    def _period(self) -> float | None:
        """Seconds until plugins are asked again; None: not before something changes."""
        if self.network is None or self.network.number < (1, 1, 0):
            return None
        if self._untried:
            return 0
        if not self._ready.is_set():
            return RETRY_PERIOD
        return STATUS_PERIOD if self._grace > 0 else None

    async def _sync(self) -> None:
        plugin_dirs = self._plugins.directories
        self._watch.arm((self._directory, *plugin_dirs, *self._beside))
        found = await offload("proc", load, self._directory, plugin_dirs)
        if found.directories != self._beside:
            self._beside = found.directories
            self._watch.arm((self._directory, *plugin_dirs, *self._beside))
            found = await offload("proc", load, self._directory, plugin_dirs)
        old = self.network
        new = await self._choose(found)
        if new is None:
            if old is not None:
                log.warning("No usable pod network any more", reason=self._reason)
            self.network = None
            self._ready.clear()
            return
        if old is not None and (old.name, old.raw, old.path) == (new.name, new.raw, new.path):
            return
        log.info("Pod network", network=new.name, file=new.path, version=new.version)
        self.network, self._bad_since = new, None
        if new.number < (1, 1, 0):
            self._untried = False
            self._ready.set()
        else:
            # What is ready stays so until the new network has been asked, which is next.
            self._untried = True
            self._reason = f"network {new.name!r} has not been asked yet"

    async def _choose(self, found: Found) -> NetworkConf | None:
        faults = list(found.faults)
        for network in found.networks:
            if self._default in ("", network.name):
                try:
                    return await self._plugins.agree(network)
                except NetworkFailure as e:
                    faults.append(str(e))
        what = f"no network named {self._default!r}" if self._default else "no CNI configuration file"
        self._reason = f"{what} in {self._directory}" + (f": {'; '.join(faults)}" if faults else "")
        return None

    async def _ask(self, network: NetworkConf) -> None:
        """Whether every plugin could serve an ADD now (CNI 1.1)."""
        trouble = ""
        for index in range(len(network.plugins)):
            try:
                await self._plugins.call(network, index, "STATUS", NOBODY, STATUS_TIMEOUT)
            except (NetworkFailure, Timeout) as e:
                trouble = str(e)
                break
        first, self._untried = self._untried, False
        if not trouble:
            self._bad_since = None
            self._ready.set()
            return
        if self._ready.is_set() and not first:
            now = self.clock()
            self._bad_since = now if self._bad_since is None else self._bad_since
            if now - self._bad_since < self._grace:
                return
        if self._ready.is_set() or first:
            log.warning("Pod network is not ready", network=network.name, error=trouble)
        self._reason = trouble
        self._ready.clear()
