"""Fakes of the ports that run things: monitors, an OCI runtime, checkpoints and the host's process table."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal as signals
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from pycrio.errors import BadImage, NotFound, RuntimeFailure, Timeout
from pycrio.flows.ports import CaptureRequest, ExecRequest, ExecSession, Files, Host, MonitorReport, MonitorRequest
from pycrio.model.container import ExecResult, ExitReport
from pycrio.model.node import Handler
from pycrio.model.stats import CgroupStats, ProcessUsage
from tests.fakes.script import Script

DEADLY = (signals.SIGTERM, signals.SIGKILL, signals.SIGINT)


class Table:
    """Processes of the fake host: those of containers, which end by signals or by ``end``."""

    def __init__(self) -> None:
        self._pids = itertools.count(100_000)
        self.alive: dict[int, str] = {}
        self.gone: dict[int, asyncio.Event] = {}
        self.exits: asyncio.Queue[ExitReport] = asyncio.Queue()
        self.recorded: dict[str, ExitReport] = {}
        self.stubborn: set[str] = set()
        self.runtime: set[str] = set()  # containers that the runtime knows
        self.begun: set[str] = set()  # of those, the ones that were started
        self.monitored: set[str] = set()  # containers whose monitor has a cgroup of its own

    def start(self, container_id: str) -> int:
        """A new process; its pid."""
        pid = next(self._pids)
        self.alive[pid] = container_id
        self.gone[pid] = asyncio.Event()
        return pid

    def end(self, container_id: str, code: int, oom: bool = False) -> None:
        """End a container's process and have its monitor report."""
        for pid in [p for p, c in self.alive.items() if c == container_id]:
            del self.alive[pid]
            self.gone[pid].set()
            report = ExitReport(container_id, code, 1_000, oom)
            self.recorded[container_id] = report
            self.exits.put_nowait(report)


class FakeMonitors:
    """Monitors that keep nothing but a process."""

    def __init__(self, script: Script, table: Table) -> None:
        self._script = script
        self._table = table
        self.requests: dict[str, MonitorRequest] = {}

    async def create(self, request: MonitorRequest) -> MonitorReport:
        await self._script.at("monitors.create")
        self.requests[request.container_id] = request
        self._table.runtime.add(request.container_id)
        if request.restore_from:
            self._table.begun.add(request.container_id)
        self._table.monitored.add(request.container_id)
        return MonitorReport(self._table.start(request.container_id), 1, 99, 1)

    async def reopen_log(self, bundle: str, log_path: str) -> None:
        await self._script.at("monitors.reopen_log")

    async def resize(self, bundle: str, width: int, height: int) -> None:
        await self._script.at("monitors.resize")

    async def attach(self, container_id: str, bundle: str) -> int:
        await self._script.at("monitors.attach")
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    async def exits(self) -> AsyncIterator[ExitReport]:
        for report in list(self._table.recorded.values()):
            yield report
        while True:
            report = await self._table.exits.get()
            if report.container_id in self._table.recorded:  # else it was among the first ones, and is dealt with
                yield report

    async def exit_of(self, container_id: str, persist_dir: str) -> ExitReport | None:
        return self._table.recorded.get(container_id)

    def oom_recorded(self, persist_dir: str, bundle: str) -> bool:
        return False

    async def forget_exit(self, container_id: str) -> None:
        self._table.recorded.pop(container_id, None)


class FakeRuntime:
    """A runtime whose containers are the table's processes. Exec echoes its arguments; ``sleep`` outlasts limits."""

    def __init__(self, script: Script, table: Table) -> None:
        self._script = script
        self._table = table
        self.updates: dict[str, Mapping[str, Any]] = {}
        self.frozen: set[str] = set()

    async def start(self, handler: Handler, container_id: str) -> None:
        await self._script.at("runtime.start")
        if container_id in self._table.begun:
            raise RuntimeFailure("cannot start an already running container")
        if container_id in self._table.runtime:
            self._table.begun.add(container_id)

    async def delete(self, handler: Handler, container_id: str) -> None:
        await self._script.at("runtime.delete")
        self._table.end(container_id, 137)
        self._table.runtime.discard(container_id)
        self._table.begun.discard(container_id)

    async def state(self, handler: Handler, container_id: str) -> Mapping[str, Any] | None:
        if container_id not in self._table.runtime:
            return None
        alive, begun = container_id in self._table.alive.values(), container_id in self._table.begun
        return {"status": ("running" if begun else "created") if alive else "stopped"}

    async def update(self, handler: Handler, container_id: str, resources: Mapping[str, Any]) -> None:
        await self._script.at("runtime.update")
        self.updates[container_id] = resources

    async def pause(self, handler: Handler, container_id: str, frozen: bool) -> None:
        await self._script.at("runtime.pause")
        (self.frozen.add if frozen else self.frozen.discard)(container_id)

    async def exec_sync(self, request: ExecRequest) -> ExecResult:
        await self._script.at("runtime.exec_sync")
        argv = list(request.process["args"])
        if argv[0] == "sleep" and request.timeout:
            raise Timeout("command timed out")
        return ExecResult(int(argv[0] == "false"), " ".join(argv).encode("utf-8", "surrogateescape"), b"")

    async def exec_stream(self, request: ExecRequest, tty: bool, stdin: bool) -> ExecSession:
        raise NotFound("exec", request.container_id, "the fake runtime has no streams")

    async def garbage(self) -> int:
        return 0


class FakeTasks:
    """Containers whose processes are the host's: what tests put into its other fakes counts."""

    def __init__(self, host: Callable[[], Host]) -> None:
        self._host = host

    async def kill(self, container_id: str, pid: int, start_time: int, signal: int) -> bool:
        return self._host().processes.kill(pid, start_time, signal)

    async def end_rest(self, container_id: str, cgroup_path: str, shared: bool) -> None:
        for pid in await self._host().cgroups.processes(cgroup_path) if shared else ():
            self._host().processes.kill(pid, 0, signals.SIGKILL)

    async def oom_killed(self, container_id: str, cgroup_path: str) -> bool:
        return False

    async def stats(self, container_id: str, cgroup_path: str) -> CgroupStats | None:
        return await self._host().cgroups.stats(cgroup_path)


class FakeCheckpoints:
    """Checkpoints whose archives are mappings of small members, kept by path. ``reason``: why they cannot be made."""

    def __init__(self, script: Script, files: Files, runtime: FakeRuntime, reason: str = "") -> None:
        self._script = script
        self._files = files
        self._runtime = runtime
        self.reason = reason
        self.archives: dict[str, dict[str, bytes]] = {}
        self.captures: list[CaptureRequest] = []
        self.frozen_at_capture: list[set[str]] = []

    async def available(self, handler: Handler) -> str:
        return self.reason

    async def capture(self, request: CaptureRequest) -> None:
        await self._script.at("checkpoints.capture")
        self.captures.append(request)
        self.frozen_at_capture.append(set(self._runtime.frozen))
        await self._files.write(f"{request.directory}/checkpoint/core-1.img", b"core")

    async def pack(self, directory: str, target: str) -> None:
        await self._script.at("checkpoints.pack")
        names = await self._files.names(directory)
        content = {n: await self._files.read(f"{directory}/{n}", 1 << 20) or b"" for n in names}
        self.archives[target] = content
        await self._files.write(target, b"tar")

    async def documents(self, source: str, names: Sequence[str]) -> Mapping[str, bytes]:
        await self._script.at("checkpoints.documents")
        if source not in self.archives:
            raise BadImage(f"{source} is no archive")
        return {n: c for n, c in self.archives[source].items() if n in names}

    async def unpack(self, source: str, directory: str, log_path: str) -> None:
        await self._script.at("checkpoints.unpack")
        for name, content in self.archives[source].items():
            await self._files.write(f"{directory}/{name}", content)


class FakeChanges:
    """Changes of root file systems: only who was asked."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def save(self, container_id: str, directory: str) -> None:
        await self._script.at("changes.save")

    async def load(self, container_id: str, directory: str) -> None:
        await self._script.at("changes.load")


class FakeProcesses:
    """The process table as the flows see it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def alive(self, pid: int, start_time: int) -> bool:
        return pid in self._table.alive

    def ending(self, pid: int, start_time: int) -> bool:
        return pid not in self._table.alive

    def start_time(self, pid: int) -> int:
        return 1 if pid in self._table.alive else 0

    async def wait_gone(self, pid: int, start_time: int, timeout: float | None) -> bool:
        gone = self._table.gone.get(pid)
        if gone is None:
            return True
        try:
            await asyncio.wait_for(gone.wait(), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            return False
        return True

    def kill(self, pid: int, start_time: int, signal: int) -> bool:
        container = self._table.alive.get(pid)
        if container is None:
            return False
        if signal == signals.SIGKILL or (signal in DEADLY and container not in self._table.stubborn):
            self._table.end(container, 128 + signal)
        return True

    def ulimits(self) -> Mapping[str, tuple[int, int]]:
        return {}

    def oom_score_adj(self) -> int:
        return 0

    def may_raise_limits(self) -> bool:
        return True

    async def usage(self, pids: Sequence[int]) -> ProcessUsage:
        return ProcessUsage(threads=2 * len(pids), descriptors=3 * len(pids), sockets=len(pids), max_open_files=1024)
