"""The control group tree under the chosen manager: paths, pods' own groups, sweeping (cgroups(7), v1 and v2)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pycrio._native.pools import offload
from pycrio.drivers.cgroups import tree
from pycrio.drivers.cgroups.read import read_stats
from pycrio.drivers.cgroups.systemd import Systemd, expand_slice
from pycrio.errors import ExternalFailure, InvalidRequest
from pycrio.model.ids import is_id
from pycrio.model.requests import MonitorRequest
from pycrio.model.stats import CgroupStats
from pycrio.obs import log as obslog

log = obslog.get("cgroups")
T = TypeVar("T")
DEFAULT_PARENTS = {"systemd": "system.slice", "cgroupfs": "/crio"}


@dataclass(frozen=True, slots=True)
class Settings:
    """``manager`` is ``systemd`` or ``cgroupfs``; ``root`` where the cgroup file systems are mounted."""

    manager: str
    root: str = "/sys/fs/cgroup"


class Cgroups:
    """See ``flows.ports.Cgroups``; also places monitors (``drivers.monitor.client.CgroupPlacer``)."""

    def __init__(self, settings: Settings) -> None:
        if settings.manager not in DEFAULT_PARENTS:
            raise InvalidRequest(f"cgroup manager {settings.manager!r} is neither systemd nor cgroupfs")
        self.settings = settings
        self.tree = tree.find(settings.root)
        self._systemd = Systemd() if settings.manager == "systemd" else None

    async def close(self) -> None:
        """Leave the bus."""
        if self._systemd is not None:
            await self._systemd.close()

    def driver(self) -> str:
        """``systemd`` or ``cgroupfs``."""
        return self.settings.manager

    def unified(self) -> bool:
        """True on cgroup v2."""
        return self.tree.unified

    def controllers(self) -> frozenset[str]:
        """Controllers that are mounted and usable."""
        return self.tree.controllers

    # --- names ----------------------------------------------------------------------------------------------------

    def check_parent(self, parent: str) -> str:
        """The pod's parent, "" replaced by the default."""
        if not parent:
            return DEFAULT_PARENTS[self.settings.manager]
        is_slice = parent.rstrip("/").endswith(".slice")
        if self._systemd is not None and not is_slice:
            raise InvalidRequest(
                f"cri-o configured with systemd cgroup manager, but did not receive slice as parent: {parent}"
            )
        if self._systemd is None and is_slice:
            raise InvalidRequest(
                f"cri-o configured with cgroupfs cgroup manager, but received systemd slice as parent: {parent}"
            )
        if ".." in parent.split("/") or "\0" in parent:
            raise InvalidRequest(f"cgroup parent {parent!r} leaves the cgroup tree")
        return os.path.basename(parent.rstrip("/")) if self._systemd is not None else "/" + parent.strip("/")

    def container_path(self, parent: str, container_id: str) -> str:
        """``linux.cgroupsPath``: ``<slice>:crio:<id>`` under systemd, a path under cgroupfs."""
        if self._systemd is not None:
            return f"{parent}:crio:{container_id}"
        return f"{parent.rstrip('/')}/crio-{container_id}"

    def directory(self, path: str) -> str:
        """The path below a hierarchy's root for what ``container_path`` or ``check_parent`` gave."""
        if self._systemd is not None and ":" in path:
            parent, prefix, ident = path.rsplit(":", 2)
            return f"{expand_slice(parent)}/{prefix}-{ident}.scope"
        return expand_slice(path) if self._systemd is not None and path.endswith(".slice") else path

    # --- groups ---------------------------------------------------------------------------------------------------

    async def make_pod(self, parent: str, pod_id: str) -> str:
        """Make the pod's own group below its parent."""
        path = f"{self.directory(parent)}/crio-{pod_id}"
        await self._at(path, "made", self.tree.make)
        return path

    async def remove_pod(self, parent: str, pod_id: str) -> None:
        """Remove the pod's own group and what is left below it."""
        path = f"{self.directory(parent)}/crio-{pod_id}"
        await self._remove(path)

    async def _remove(self, path: str) -> None:
        for wait in (0.0, 0.01, 0.05, 0.2):
            # A group is busy for a moment after its last process was reaped; there is no event for its end on v1.
            await asyncio.sleep(wait)
            if await self._at(path, "removed", self.tree.remove):
                return
        log.warning("Cgroup stays behind, it is still busy", path=path)

    async def sweep(self, valid: Sequence[str]) -> None:
        """Remove empty groups ``crio-<id>`` and ``crio-conmon-<id>`` (of a shim ``crio-conmon-<id>-shim``) whose id is
        not in ``valid``, and those of helpers."""
        known = frozenset(valid)
        for path in await offload("mount", self.tree.named, "crio-"):
            ident = os.path.basename(path).removeprefix("crio-").removeprefix("conmon-")
            ident = ident.removesuffix(".scope").removesuffix("-shim")
            ours = ident.startswith("pull-") or (is_id(ident) and ident not in known)
            if ours and not await self._at(path, "read", self.tree.processes):
                await self._at(path, "removed", self.tree.remove)

    async def _at(self, path: str, what: str, work: Callable[[str], T]) -> T:
        """Have something done to a group; what the kernel refuses is a failure that names the group."""
        try:
            return await offload("mount", work, path)
        except OSError as e:
            raise ExternalFailure(f"cgroup {path} cannot be {what}: {e.strerror}") from e

    async def processes(self, path: str) -> Sequence[int]:
        """Pids in a group and below; empty when it is gone."""
        return await self._at(self.directory(path), "read", self.tree.processes)

    async def thaw(self, path: str) -> bool:
        """Let a group and those below it run; True when one was frozen."""
        return await self._at(self.directory(path), "thawed", self.tree.thaw)

    async def stats(self, path: str) -> CgroupStats | None:
        """Readings of a group; None when it is gone."""
        return await offload("mount", read_stats, self.tree, self.directory(path))

    async def note(self, path: str, properties: Sequence[tuple[str, str, Any]]) -> None:
        """Tell systemd of values that were written to the group of one of its units: it would put its own back at the
        next occasion. Other groups are nobody's but ours."""
        unit = os.path.basename(path)
        if self._systemd is not None and unit.endswith((".slice", ".scope")):
            await self._systemd.set(unit, properties)

    # --- monitors -------------------------------------------------------------------------------------------------

    async def place(self, pid: int, request: MonitorRequest) -> None:
        """Move a monitor as ``monitor_cgroup`` says: the pod's parent, a slice, or nowhere."""
        wanted, name = request.handler.monitor_cgroup, f"crio-conmon-{request.container_id}"
        if self._systemd is not None:
            parent = request.cgroup_parent if wanted == "pod" else wanted or "system.slice"
            await self._systemd.scope(f"{name}.scope", parent, pid, request.cpuset, request.cpu_shares)
            return
        if wanted != "pod":
            return
        path = f"{self.directory(request.cgroup_parent)}/{name}"
        try:
            await self._at(path, "made", self.tree.make)
            await offload("mount", self.tree.limit, path, request.cpuset, request.cpu_shares)
            await offload("mount", self.tree.enter, path, pid)
        except OSError as e:
            await self._at(path, "removed", self.tree.remove)
            raise ExternalFailure(f"monitor {pid} cannot be moved to cgroup {path}: {e.strerror}") from e

    # --- helpers --------------------------------------------------------------------------------------------------

    async def take_in(self, pid: int, parent: str, name: str) -> None:
        """Move a process of ours into a group of its own below a parent."""
        parent = self.check_parent(parent)
        if self._systemd is not None:
            await self._systemd.scope(f"{name}.scope", parent, pid)
            return
        path = f"{self.directory(parent)}/{name}"
        await self._at(path, "made", self.tree.make)
        await self._at(path, "entered", lambda p: self.tree.enter(p, pid))

    async def let_go(self, parent: str, name: str) -> None:
        """Remove that group when the process has ended; systemd does so itself."""
        if self._systemd is None:
            await self._remove(f"{self.directory(self.check_parent(parent))}/{name}")

    async def leave(self, parent: str, container_id: str) -> None:
        """Remove the group of a container's ended monitor; systemd removes its scopes itself."""
        if self._systemd is None:
            await self._remove(f"{self.directory(parent)}/crio-conmon-{container_id}")
