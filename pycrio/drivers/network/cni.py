"""Pod networks by CNI plugins: attach, check, detach, collect garbage (CNI spec 0.3.1 to 1.1)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from pycrio._native.pools import offload
from pycrio.drivers.network.arguments import capabilities, pod_arguments
from pycrio.drivers.network.cache import Cache, Entry
from pycrio.drivers.network.conf import NetworkConf
from pycrio.drivers.network.hostlocal import release_nameless
from pycrio.drivers.network.plugins import Attachment, Plugins, where
from pycrio.drivers.network.results import addresses
from pycrio.drivers.network.selection import Selection
from pycrio.drivers.network.whole import whole
from pycrio.errors import InvalidRequest, NetworkFailure, PycrioError, Timeout
from pycrio.model.node import Condition
from pycrio.model.requests import NetworkRequest, NetworkResult
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics

log = obslog.get("cni")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a whole chain of plugins may take; ``turn``: what each plugin of a DEL has at least, whatever the
    others took."""

    add: float = 300.0
    delete: float = 60.0
    check: float = 60.0
    gc: float = 30.0
    turn: float = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """``plugin_dirs`` are searched in order; ``default_network`` "" takes the first valid file.
    ``status_grace_period`` in seconds: how long a network that reports trouble still counts as ready (0: it is asked
    until it is ready, and not again). ``owner`` tells this daemon's attachments from those of others in the cache."""

    network_dir: str
    plugin_dirs: tuple[str, ...]
    default_network: str = ""
    status_grace_period: float = 0.0
    cache_dir: str = "/var/lib/cni/results"
    owner: str = "pycrio"
    limits: Limits = Limits()


class Network:
    """See ``flows.ports.Network``. Usable between ``open`` and ``close``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._cache = Cache(settings.cache_dir, settings.owner)
        self._plugins = Plugins(settings.plugin_dirs)
        s = settings
        self._selection = Selection(s.network_dir, self._plugins, s.default_network, s.status_grace_period)
        self._turns: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    async def open(self) -> None:
        """Make the directories, read them, watch them."""
        await self._selection.open()

    async def close(self) -> None:
        """Stop watching."""
        await self._selection.close()

    async def ready(self) -> None:
        """Return when a usable network is there."""
        await self._selection.wait()

    def condition(self) -> Condition:
        """The NetworkReady condition."""
        reason = self._selection.trouble()
        if not reason:
            return Condition("NetworkReady", True)
        return Condition("NetworkReady", False, "NetworkPluginNotReady", f"Network plugin returns error: {reason}")

    # --- verbs ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _turn(self, pod_id: str) -> AsyncIterator[None]:
        """One verb at a time for a pod; different pods go side by side."""
        lock, users = self._turns.setdefault(pod_id, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._turns[pod_id]

    async def add(self, request: NetworkRequest) -> NetworkResult:
        """Attach a pod; on failure what was attached is detached again.

        NetworkFailure and Timeout say which plugin failed, InvalidRequest what no plugin could be told.
        """
        network = self._selection.network
        if network is None:
            raise NetworkFailure(f"pod sandbox {request.pod_id} cannot be attached: {self._selection.trouble()}")
        attachment = Attachment(
            request.pod_id, request.netns, args=pod_arguments(request), capabilities=capabilities(request)
        )
        start = asyncio.get_running_loop().time()
        async with self._turn(request.pod_id):
            # Written before the first plugin runs: should we die now, the next run finds what to release.
            await offload("store", self._cache.put, network, attachment, None)
            try:
                result = await self._attach(network, attachment)
            except BaseException:
                await whole(self._undo(network, attachment))
                raise
        took = asyncio.get_running_loop().time() - start
        metrics.latency("network_setup_pod", took)
        metrics.latency("network_setup_overall", took)
        return result

    async def _attach(self, network: NetworkConf, attachment: Attachment) -> NetworkResult:
        clock = asyncio.get_running_loop().time
        end = clock() + self.settings.limits.add
        result: object = None
        for index in range(len(network.plugins)):
            result = await self._plugins.add(network, index, attachment, result, end - clock())
        ips = addresses(result, where(network, attachment))
        await offload("store", self._cache.put, network, attachment, result)
        return NetworkResult(ips, json.dumps(result))

    async def _undo(self, network: NetworkConf, attachment: Attachment) -> None:
        """A record of what could not be undone stays, for ``delete`` and ``gc`` to try again."""
        try:
            await self._detach(network, attachment, None)
            await self._drop(network, attachment)
        except PycrioError as e:
            log.warning("Half-made attachment not undone", id=attachment.container_id, error=str(e))

    async def check(self, request: NetworkRequest) -> None:
        """Verify an attachment, as far as its network can (CNI 0.4 up); NetworkFailure when it is damaged."""
        clock = asyncio.get_running_loop().time
        end = clock() + self.settings.limits.check
        async with self._turn(request.pod_id):
            entries = await self._entries(request.pod_id)
            if not entries:
                raise NetworkFailure(f"pod sandbox {request.pod_id} is attached to no network")
            for entry in entries:
                network = entry.network
                if network.number < (0, 4, 0) or network.disable_check:
                    continue
                for index in range(len(network.plugins)):
                    await self._plugins.call(network, index, "CHECK", entry.attachment, end - clock(), entry.result)

    async def delete(self, request: NetworkRequest) -> None:
        """Detach a pod from every network that it was attached to; its namespace may be gone.

        NetworkFailure or Timeout when a plugin failed; the record stays then, so that it can be tried again.
        """
        async with self._turn(request.pod_id):
            entries = await self._entries(request.pod_id)
            if not entries and self._selection.network is not None:
                # No record: it may have been lost. DEL of what is unknown must succeed (CNI spec).
                await self._detach(self._selection.network, _unrecorded(request), None)
            for entry in entries:
                await self._release(entry, request.netns)
            await offload("store", self._cache.forget, request.pod_id)

    async def _entries(self, pod_id: str = "") -> list[Entry]:
        return await offload("store", lambda: list(self._cache.entries(pod_id)))

    async def _release(self, entry: Entry, netns: str) -> None:
        attachment = replace(entry.attachment, netns=netns)
        await self._detach(entry.network, attachment, entry.result)

    async def _drop(self, network: NetworkConf, attachment: Attachment) -> None:
        await offload("store", self._cache.drop, network.name, attachment.container_id, attachment.ifname)

    async def _detach(self, network: NetworkConf, attachment: Attachment, result: object) -> None:
        """DEL in reverse order; every plugin has its turn, the first failure is raised."""
        if not _alive(attachment.netns):
            attachment = replace(attachment, netns="")
        limits = self.settings.limits
        clock = asyncio.get_running_loop().time
        end = clock() + limits.delete
        failure: PycrioError | None = None
        prev = result if network.number >= (0, 4, 0) else None
        for index in reversed(range(len(network.plugins))):
            left = max(end - clock(), min(limits.turn, limits.delete))
            try:
                await self._plugins.call(network, index, "DEL", attachment, left, prev)
            except (NetworkFailure, Timeout) as e:
                if failure is not None:
                    log.warning("Plugin did not detach pod, going on", id=attachment.container_id, error=str(e))
                failure = failure or e
        if failure is not None:
            raise failure

    async def gc(self, valid: Sequence[NetworkRequest]) -> None:
        """Release attachments of pods that are not in ``valid``, and tell plugins of CNI 1.1 which ones are left.

        Attachments of other programs are released only when their namespace is gone: then nobody can use them.
        """
        known = {r.pod_id for r in valid}
        await offload("store", self._cache.tidy)
        entries = await self._entries()
        dead = [e for e in entries if e.attachment.container_id not in known and self._abandoned(e)]
        # What is being attached or detached right now is nobody's garbage.
        dead = [e for e in dead if e.attachment.container_id not in self._turns]
        await asyncio.gather(*(self._collect(e) for e in dead))
        network = self._selection.network
        if network is not None:
            await self._nameless(network)
        if network is not None and network.number >= (1, 1, 0) and not network.disable_gc:
            left = [e.attachment for e in entries if e not in dead and e.network.name == network.name]
            await self._plugins.collect(network, left, self.settings.limits.gc)

    async def _nameless(self, network: NetworkConf) -> None:
        try:
            freed = await offload("store", release_nameless, network)
        except OSError as e:
            log.warning("Addresses without a name not freed, going on", network=network.name, error=str(e))
            return
        if freed:
            log.info("Freed addresses whose owner a crash has erased", network=network.name, addresses=",".join(freed))

    def _abandoned(self, entry: Entry) -> bool:
        return self._cache.ours(entry) or not _alive(entry.attachment.netns)

    async def _collect(self, entry: Entry) -> None:
        pod_id = entry.attachment.container_id
        async with self._turn(pod_id):
            log.info("Releasing the network of a pod sandbox that is gone", id=pod_id, network=entry.network.name)
            try:
                await self._release(entry, entry.attachment.netns)
                await self._drop(entry.network, entry.attachment)
            except PycrioError as e:
                log.warning("Attachment not released, going on", id=pod_id, error=str(e))


def _unrecorded(request: NetworkRequest) -> Attachment:
    try:
        return Attachment(
            request.pod_id, request.netns, args=pod_arguments(request), capabilities=capabilities(request)
        )
    except InvalidRequest:
        # Such a pod was never attached; what its plugins need to find that out is its id.
        return Attachment(request.pod_id, request.netns)


def _alive(netns: str) -> bool:
    """Whether a path is a network namespace. After a crash the file may be there with nothing mounted on it."""
    if not netns:
        return False
    try:
        return os.stat(netns).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False
