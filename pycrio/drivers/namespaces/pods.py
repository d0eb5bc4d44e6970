"""Namespaces of pods: made by the compiled core, held by bind mounts below ``<dir>/{net,uts,ipc,user}ns``."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pycrio._native import ns
from pycrio._native.base import NativeError
from pycrio._native.pools import offload, submit
from pycrio.drivers.namespaces.idmap import Ranges
from pycrio.errors import ExternalFailure, InvalidRequest, NetworkFailure, Unsupported
from pycrio.model.requests import NamespaceRequest
from pycrio.model.security import IdMapping, IdMaps
from pycrio.model.stats import InterfaceStats
from pycrio.obs import log as obslog

log = obslog.get("namespaces")
KINDS = ("net", "uts", "ipc", "user", "cgroup")


@dataclass(frozen=True, slots=True)
class Settings:
    """``directory`` is the parent of the pin directories; the other two choose ranges for user namespaces."""

    directory: str
    subuid: str = "/etc/subuid"
    subgid: str = "/etc/subgid"
    remap_user: str = "containers"
    connect_timeout_ms: int = 10_000


class Namespaces:
    """See ``flows.ports.Namespaces``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._dirs = {kind: os.path.join(settings.directory, f"{kind}ns") for kind in KINDS}
        for kind in KINDS[:4]:
            os.makedirs(self._dirs[kind], mode=0o755, exist_ok=True)
        self._ranges = Ranges(settings.subuid, settings.subgid, settings.remap_user)

    async def create(self, request: NamespaceRequest) -> Mapping[str, str]:
        """Make and pin; kind → path of the pin. A cancelled call leaves nothing."""
        name = str(uuid.uuid4())
        pins = {kind: os.path.join(self._dirs[kind], name) for kind in request.kinds}
        making = submit(
            "mount",
            _create,
            pins,
            list(request.sysctls.items()),
            request.hostname or None,
            _triples(request.uid_map),
            _triples(request.gid_map),
        )
        try:
            await asyncio.shield(making)
        except asyncio.CancelledError:
            await self._unmake(making, pins)
            raise
        except NativeError as e:
            text = f"namespaces of pod sandbox {request.pod_id} cannot be made: {e}"
            raise (InvalidRequest(text) if "sysctl" in e.step else ExternalFailure(text)) from e
        return pins

    async def _unmake(self, making: asyncio.Future[None], pins: Mapping[str, str]) -> None:
        """What a thread has begun it brings to its end (a few milliseconds): wait for that, and take it back."""
        await asyncio.wait({making})
        if making.cancelled() or making.exception() is not None:
            return
        try:
            await self.remove(list(pins.values()))
        except ExternalFailure as e:
            log.warning("Namespaces of a cancelled request stay until the next start", error=str(e))

    async def remove(self, paths: Sequence[str]) -> None:
        """Unpin; those that are gone already are fine."""
        for path in paths:
            try:
                await offload("mount", ns.unpin, path)
            except NativeError as e:
                raise ExternalFailure(f"namespace {path} cannot be removed: {e}") from e

    async def pins(self) -> Mapping[str, str]:
        """Every pin below our directories whose name is one that we give: path → kind."""
        return await offload("mount", self._scan)

    def _scan(self) -> dict[str, str]:
        found = {}
        for kind, directory in self._dirs.items():
            if not os.path.isdir(directory):
                continue
            for name in os.listdir(directory):
                path = os.path.join(directory, name)
                if _is_ours(name):
                    found[path] = kind
        return found

    async def interfaces(self, netns: str) -> Sequence[InterfaceStats]:
        """Counters of the interfaces of a net namespace ("": the host's), in index order."""
        try:
            links = await offload("mount", ns.link_stats, netns)
        except NativeError as e:
            raise NetworkFailure(f"interfaces of network namespace {netns or 'of the host'} cannot be read: {e}") from e
        return [
            InterfaceStats(
                name=link.name,
                rx_bytes=link.rx_bytes,
                rx_packets=link.rx_packets,
                rx_errors=link.rx_errors,
                rx_dropped=link.rx_dropped,
                tx_bytes=link.tx_bytes,
                tx_packets=link.tx_packets,
                tx_errors=link.tx_errors,
                tx_dropped=link.tx_dropped,
            )
            for link in sorted(links, key=lambda one: one.index)
        ]

    async def connect(self, netns: str, port: int) -> int:
        """A descriptor connected to TCP ``localhost:port`` inside a net namespace ("": the host's)."""
        try:
            fd = await offload("connect", ns.connect_in, netns, "localhost", port, self.settings.connect_timeout_ms)
        except NativeError as e:
            raise NetworkFailure(f"connection to port {port} failed: {e.strerror}") from e
        return fd.take()

    def id_ranges(self, mode: str) -> IdMaps:
        """uid and gid maps for a userns-mode annotation value; Unsupported when no range is left."""
        return self._ranges.maps(mode)

    def reserve_ids(self, uid_map: Sequence[IdMapping]) -> None:
        """Book the ranges of a pod that is known from before a restart."""
        for m in uid_map:
            self._ranges.reserve(m.host_id, m.length)

    def release_ids(self, uid_map: Sequence[IdMapping]) -> None:
        """Give the ranges of a pod back."""
        for m in uid_map:
            self._ranges.give_back(m.host_id)


def _create(
    pins: Mapping[str, str],
    sysctls: Sequence[tuple[str, str]],
    hostname: str | None,
    uid_map: Sequence[tuple[int, int, int]],
    gid_map: Sequence[tuple[int, int, int]],
) -> None:
    if uid_map and "user" not in pins:
        raise Unsupported("id mappings need a user namespace")
    ns.create(pins, sysctls=sysctls, hostname=hostname, uid_map=uid_map, gid_map=gid_map)


def _triples(maps: Sequence[IdMapping]) -> list[tuple[int, int, int]]:
    return [(m.container_id, m.host_id, m.length) for m in maps]


def _is_ours(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
