"""The Tasks port by kind of handler: processes that are the host's own, or those of a shim."""

from __future__ import annotations

import signal as signals
from collections.abc import Sequence
from typing import Protocol

from pycrio.drivers.kinds.shims import Late, Shims
from pycrio.model.stats import CgroupStats


class Cgroups(Protocol):
    """The part of ``flows.ports.Cgroups`` that is needed here."""

    async def stats(self, path: str) -> CgroupStats | None: ...

    async def processes(self, path: str) -> Sequence[int]: ...


class Processes(Protocol):
    """Likewise of ``flows.ports.Processes``."""

    def kill(self, pid: int, start_time: int, signal: int) -> bool: ...


class TasksByKind:
    """See ``flows.ports.Tasks``."""

    def __init__(self, cgroups: Cgroups, processes: Processes, shims: Late) -> None:
        self._cgroups = cgroups
        self._processes = processes
        self._shims = shims

    def _shims_of(self, container_id: str) -> Shims | None:
        """By what the shims know, not by the handler's kind: the configuration may have changed since."""
        shims = self._shims.used()
        return shims if shims is not None and shims.knows(container_id) else None

    async def kill(self, container_id: str, pid: int, start_time: int, signal: int) -> bool:
        """Signal the first process; False when it is gone."""
        shims = self._shims_of(container_id)
        return (
            self._processes.kill(pid, start_time, signal) if shims is None else await shims.kill(container_id, signal)
        )

    async def end_rest(self, container_id: str, cgroup_path: str, shared: bool) -> None:
        """End what is left after the first process. With a pid namespace of its own the kernel has done it; otherwise
        the processes are found by the cgroup."""
        shims = self._shims_of(container_id)
        if shims is not None:
            await shims.end_rest(container_id)
        if shared:
            for pid in await self._cgroups.processes(cgroup_path):
                self._processes.kill(pid, 0, signals.SIGKILL)

    async def oom_killed(self, container_id: str, cgroup_path: str) -> bool:
        """The monitor of an OCI runtime tells by itself. A shim does while somebody listens; the kernel's count stays
        until the container is deleted, if the container is one of the host's."""
        shims = self._shims_of(container_id)
        if shims is None or shims.oom_marked(container_id):
            return shims is not None
        stats = await self._cgroups.stats(cgroup_path)
        return stats is not None and stats.memory is not None and stats.memory.oom_kills > 0

    async def stats(self, container_id: str, cgroup_path: str) -> CgroupStats | None:
        """Readings; those of a guest only its shim has."""
        shims = self._shims_of(container_id)
        found = await shims.stats(container_id) if shims is not None else None
        return found or await self._cgroups.stats(cgroup_path)
