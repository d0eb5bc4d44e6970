"""Pod networks by CNI plugins: which network, attach, check, detach, collect garbage (CNI spec 0.3.1 to 1.1)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio._native.watch import DirectoryWatch
from pycrio.drivers.network import plugins
from pycrio.drivers.network.cache import Cache, Entry
from pycrio.drivers.network.conf import Choice, NetworkConf, load
from pycrio.drivers.network.plugins import Attachment
from pycrio.errors import InvalidRequest, NetworkFailure, PycrioError, Timeout
from pycrio.model.node import Condition
from pycrio.model.requests import NetworkRequest, NetworkResult
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics

log = obslog.get("cni")
STATUS_PERIOD = 5.0
BURST = (4 << 30) * 8 - 1
_QUANTITY = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, slots=True)
class Settings:
    """``plugin_dirs`` are searched in order; ``default_network`` "" takes the first valid file.
    ``status_grace_period`` in seconds: how long a network that reports trouble still counts as ready (0: it is asked
    once, before its first use)."""

    network_dir: str
    plugin_dirs: tuple[str, ...]
    default_network: str = ""
    status_grace_period: float = 0.0
    cache_dir: str = "/var/lib/cni/results"


class Network:
    """See ``flows.ports.Network``. Usable between ``open`` and ``close``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._cache = Cache(settings.cache_dir)
        self._choice = Choice(None, "not looked for yet", {})
        self._trouble = ""
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._watch: DirectoryWatch | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: dict[str, asyncio.Lock] = {}

    async def open(self) -> None:
        """Make the directories, read them, watch them."""
        for path in (self.settings.network_dir, *self.settings.plugin_dirs):
            await offload("proc", _make_dir, path)
        self._watch = DirectoryWatch(lambda _, __: self._changed.set())
        for path in (self.settings.network_dir, *self.settings.plugin_dirs):
            try:
                self._watch.add(path)
            except NativeError as e:
                log.warning("Directory cannot be watched, changes need a restart", path=path, error=str(e))
        await self._sync()
        self._start(self._follow())
        if self.settings.status_grace_period > 0:
            self._start(self._ask_status())

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop watching."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # --- which network --------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._sync()

    async def _sync(self) -> None:
        s = self.settings
        old = self._choice.network
        self._choice = await offload("proc", load, s.network_dir, s.plugin_dirs, s.default_network)
        new = self._choice.network
        if new is None:
            self._ready.clear()
            if old is not None:
                log.warning("No usable pod network any more", reason=self._choice.reason)
            return
        if old is None or (old.name, old.raw) != (new.name, new.raw):
            log.info("Pod network", network=new.name, file=new.path, version=new.version)
            await self._look(new)
        if not self._trouble:
            self._ready.set()

    async def _look(self, network: NetworkConf) -> None:
        """Ask every plugin of the network whether it could serve an ADD (CNI 1.1)."""
        self._trouble = ""
        if network.number < (1, 1, 0):
            return
        for index in range(len(network.plugins)):
            try:
                await plugins.call(network, index, "STATUS", Attachment("", ""), self.settings.plugin_dirs)
            except (NetworkFailure, Timeout) as e:
                self._trouble = str(e)
                log.warning("Pod network is not ready", network=network.name, error=self._trouble)
                self._start(self._retry_status(network))
                return

    async def _retry_status(self, network: NetworkConf) -> None:
        """A plugin's state changes without an event: ask again until it serves or another network is chosen."""
        await asyncio.sleep(0.5)
        if self._choice.network is network and self._trouble:
            await self._look(network)
            if not self._trouble:
                self._ready.set()

    async def _ask_status(self) -> None:
        """Once it has been ready: NotReady only after trouble has lasted for the grace period."""
        bad_since = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(STATUS_PERIOD)
            network = self._choice.network
            if network is None or network.number < (1, 1, 0) or not self._ready.is_set():
                continue
            trouble = ""
            for index in range(len(network.plugins)):
                try:
                    await plugins.call(network, index, "STATUS", Attachment("", ""), self.settings.plugin_dirs)
                except (NetworkFailure, Timeout) as e:
                    trouble = str(e)
                    break
            if not trouble:
                bad_since = 0.0
                continue
            bad_since = bad_since or loop.time()
            if loop.time() - bad_since >= self.settings.status_grace_period:
                self._trouble = trouble
                self._ready.clear()
                self._start(self._retry_status(network))

    async def ready(self) -> None:
        """Return when a usable network is there."""
        await self._ready.wait()

    def condition(self) -> Condition:
        """The NetworkReady condition."""
        if self._ready.is_set():
            return Condition("NetworkReady", True)
        reason = self._trouble or self._choice.reason
        return Condition("NetworkReady", False, "NetworkPluginNotReady", f"Network plugin returns error: {reason}")

    # --- verbs ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _turn(self, pod_id: str) -> Any:
        """One verb at a time for a pod; different pods go side by side."""
        lock = self._turns.setdefault(pod_id, asyncio.Lock())
        async with lock:
            try:
                yield
            finally:
                if not getattr(lock, "_waiters", None):
                    self._turns.pop(pod_id, None)

    def _attachment(self, request: NetworkRequest) -> Attachment:
        args = (
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", request.namespace),
            ("K8S_POD_NAME", request.name),
            ("K8S_POD_INFRA_CONTAINER_ID", request.pod_id),
            ("K8S_POD_UID", request.uid),
        )
        return Attachment(request.pod_id, request.netns, args=args, capabilities=capabilities(request))

    async def add(self, request: NetworkRequest) -> NetworkResult:
        """Attach a pod; on failure what was attached is detached again."""
        network = self._choice.network
        if network is None:
            raise NetworkFailure(f"pod sandbox {request.pod_id} cannot be attached: {self._choice.reason}")
        attachment = self._attachment(request)
        where = f"network {network.name!r} for pod sandbox {request.pod_id}"
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with self._turn(request.pod_id):
            prev: Any = None
            try:
                for index in range(len(network.plugins)):
                    prev = await plugins.call(network, index, "ADD", attachment, self.settings.plugin_dirs, prev)
                ips = plugins.addresses(prev, where)
                await offload("proc", self._cache.put, network, attachment, prev)
            except BaseException:
                # Shielded from the cancellation that may have brought us here: an address must not stay allocated.
                await asyncio.shield(asyncio.ensure_future(self._undo(network, attachment)))
                raise
        metrics.latency("network_setup_pod", loop.time() - start)
        metrics.latency("network_setup_overall", loop.time() - start)

        return NetworkResult(ips, json.dumps(prev))

    async def _undo(self, network: NetworkConf, attachment: Attachment) -> None:
        try:
            await self._detach(network, attachment, None)
        except PycrioError as e:
            log.warning("Half-made attachment not undone", id=attachment.container_id, error=str(e))
        self._cache.drop(network.name, attachment.container_id, attachment.ifname)

    async def check(self, request: NetworkRequest) -> None:
        """Verify an attachment (CNI 0.4 up)."""
        for entry in await offload("proc", lambda: list(self._cache.entries(request.pod_id))):
            if entry.network.number < (0, 4, 0) or entry.network.disable_check:
                continue
            for index in range(len(entry.network.plugins)):
                await plugins.call(
                    entry.network, index, "CHECK", entry.attachment, self.settings.plugin_dirs, entry.result
                )

    async def delete(self, request: NetworkRequest) -> None:
        """Detach a pod from every network that it was attached to."""
        async with self._turn(request.pod_id):
            entries = await offload("proc", lambda: list(self._cache.entries(request.pod_id)))
            if not entries and self._choice.network is not None:
                # No record: an ADD may have been cut off. DEL of the unknown must succeed (CNI spec).
                await self._detach(self._choice.network, self._attachment(request), None)
            for entry in entries:
                await self._release(entry, request.netns)

    async def _release(self, entry: Entry, netns: str) -> None:
        gone = not netns or not os.path.exists(netns)
        attachment = entry.attachment
        if gone:
            attachment = Attachment(
                attachment.container_id, "", attachment.ifname, attachment.args, attachment.capabilities
            )
        await self._detach(entry.network, attachment, entry.result)
        self._cache.drop(entry.network.name, attachment.container_id, attachment.ifname)

    async def _detach(self, network: NetworkConf, attachment: Attachment, result: Any) -> None:
        """DEL in reverse order; every plugin has its turn, the first failure is raised."""
        failure: PycrioError | None = None
        prev = result if network.number >= (0, 4, 0) else None
        for index in reversed(range(len(network.plugins))):
            try:
                await plugins.call(network, index, "DEL", attachment, self.settings.plugin_dirs, prev)
            except (NetworkFailure, Timeout) as e:
                failure = failure or e
        if failure is not None:
            raise failure

    async def gc(self, valid: Sequence[NetworkRequest]) -> None:
        """Release attachments of pods that are not in ``valid``, and tell plugins of CNI 1.1 which ones are."""
        known = {r.pod_id for r in valid}
        entries = await offload("proc", lambda: list(self._cache.entries()))
        for entry in entries:
            pod_id = entry.attachment.container_id
            # The cache is shared with other users of CNI; ours say so in their arguments.
            ours = any(k == "K8S_POD_INFRA_CONTAINER_ID" for k, _ in entry.attachment.args)
            if pod_id in known or not ours:
                continue
            log.info("Releasing the network of a pod sandbox that is gone", id=pod_id, network=entry.network.name)
            try:
                await self._release(entry, entry.attachment.netns)
            except PycrioError as e:
                log.warning("Attachment not released, going on", id=pod_id, error=str(e))
        network = self._choice.network
        if network is not None and network.number >= (1, 1, 0) and not network.disable_gc:
            await self._plugin_gc(network, [e for e in entries if e.attachment.container_id in known])

    async def _plugin_gc(self, network: NetworkConf, entries: Sequence[Entry]) -> None:

        valid = [
            {"containerID": e.attachment.container_id, "ifname": e.attachment.ifname}
            for e in entries
            if e.network.name == network.name
        ]
        for plugin in network.plugins:
            document = {
                **plugin,
                "name": network.name,
                "cniVersion": network.version,
                "cni.dev/valid-attachments": valid,
            }
            env = Attachment("", "").environment("GC", self.settings.plugin_dirs)
            try:
                await plugins.invoke(
                    plugin["type"], "GC", json.dumps(document).encode(), env, f"network {network.name!r}"
                )
            except (NetworkFailure, Timeout) as e:
                log.warning("CNI garbage collection failed, going on", network=network.name, error=str(e))


def capabilities(request: NetworkRequest) -> dict[str, Any]:
    """Capability arguments: bandwidth, cgroup path, pod annotations."""
    out: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": dict(request.annotations)}
    if request.cgroup_path:
        out["cgroupPath"] = request.cgroup_path
    bandwidth: dict[str, int] = {}
    for direction in ("ingress", "egress"):
        text = request.annotations.get(f"kubernetes.io/{direction}-bandwidth")
        if text:
            bandwidth[f"{direction}Rate"] = _rate(text)
            bandwidth[f"{direction}Burst"] = BURST
    if bandwidth:
        out["bandwidth"] = bandwidth
    return out


def _rate(text: str) -> int:
    """Bits per second of a bandwidth annotation, a Kubernetes quantity between 1k and 1P."""
    digits = text.strip().rstrip("kKMGTi")
    unit = text.strip()[len(digits) :]
    try:
        value = int(float(digits) * _QUANTITY[unit])
    except (ValueError, KeyError) as e:
        raise InvalidRequest(f"bandwidth {text!r} is not a quantity such as 10M") from e
    if not 10**3 <= value <= 10**15:
        raise InvalidRequest(f"bandwidth {text!r} is not between 1k and 1P")
    return value


def _make_dir(path: str) -> None:
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as e:
        raise NetworkFailure(f"directory {path} cannot be made: {e.strerror}") from e
