"""The Monitors port by kind of handler: with type vm, the monitor's runtime is the program that stands for a container
of a shim."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from pycrio.drivers.kinds.shims import VM, Late
from pycrio.model.container import ExitReport
from pycrio.model.requests import MonitorReport, MonitorRequest


class Monitors(Protocol):
    """See ``flows.ports.Monitors``."""

    async def create(self, request: MonitorRequest) -> MonitorReport: ...

    async def reopen_log(self, bundle: str, log_path: str) -> None: ...

    async def resize(self, bundle: str, width: int, height: int) -> None: ...

    async def attach(self, container_id: str, bundle: str) -> int: ...

    def exits(self) -> AsyncIterator[ExitReport]: ...

    async def exit_of(self, container_id: str, persist_dir: str) -> ExitReport | None: ...

    def oom_recorded(self, persist_dir: str, bundle: str) -> bool: ...

    async def forget_exit(self, container_id: str) -> None: ...


class MonitorsByKind:
    """See ``flows.ports.Monitors``."""

    def __init__(self, plain: Monitors, shims: Late) -> None:
        self._plain = plain
        self._shims = shims

    async def create(self, request: MonitorRequest) -> MonitorReport:
        """Start a monitor, which creates the container by its runtime or has its shim create it."""
        if request.handler.type != VM:
            return await self._plain.create(request)
        shims = self._shims.get()
        report = await self._plain.create(await shims.prepare(request))
        return replace(report, init_pid=await shims.init_pid(request.container_id))

    async def reopen_log(self, bundle: str, log_path: str) -> None:
        """Have the log reopened; returns when the new file exists."""
        await self._plain.reopen_log(bundle, log_path)

    async def resize(self, bundle: str, width: int, height: int) -> None:
        """Set the size of the container's terminal."""
        await self._plain.resize(bundle, width, height)

    async def attach(self, container_id: str, bundle: str) -> int:
        """A connected descriptor of the attach socket; the caller owns it."""
        return await self._plain.attach(container_id, bundle)

    def exits(self) -> AsyncIterator[ExitReport]:
        """Exits as they are recorded, those recorded while nobody listened first."""
        return self._plain.exits()

    async def exit_of(self, container_id: str, persist_dir: str) -> ExitReport | None:
        """The recorded exit of one container, None when there is none."""
        return await self._plain.exit_of(container_id, persist_dir)

    def oom_recorded(self, persist_dir: str, bundle: str) -> bool:
        """True when the monitor saw an out-of-memory kill."""
        return self._plain.oom_recorded(persist_dir, bundle)

    async def forget_exit(self, container_id: str) -> None:
        """Remove the exit file."""
        await self._plain.forget_exit(container_id)
