"""Which driver a call goes to, and that nothing is made of shims where there are none."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from pycrio.drivers.kinds.monitors import MonitorsByKind
from pycrio.drivers.kinds.runtime import RuntimeByKind
from pycrio.drivers.kinds.shims import Late
from pycrio.drivers.kinds.tasks import TasksByKind
from pycrio.model.container import ExitReport
from pycrio.model.node import Handler
from pycrio.model.requests import ExecRequest, MonitorReport, MonitorRequest
from pycrio.model.stats import CgroupStats, MemoryUsage

OCI = Handler("runc", "/usr/bin/runc", "/run/runc", "/monitor")
VM = Handler("kata", "/usr/bin/containerd-shim-kata-v2", "/run/kata", "/monitor", type="vm")


class Recorder:
    """Every method of every port: what was called, with the answers that a test gives."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def _note(self, name: str, *args: Any) -> Any:
        self.calls.append((name, args))
        return self.answers.get(name)

    def __getattr__(self, name: str) -> Any:
        if name in ("kill_process", "oom_recorded", "oom_marked", "knows"):
            return lambda *args: self._note(name, *args)

        async def call(*args: Any) -> Any:
            return self._note(name, *args)

        return call

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Exits(Recorder):
    """A monitor driver."""

    async def exits(self) -> AsyncIterator[ExitReport]:
        yield ExitReport("one", 3, 5)


class Processes:
    """A process table."""

    def __init__(self) -> None:
        self.killed: list[tuple[int, int, int]] = []

    def kill(self, pid: int, start_time: int, signal: int) -> bool:
        self.killed.append((pid, start_time, signal))
        return True


def late(shims: Any, directory: pathlib.Path) -> Late:
    return Late(lambda: shims, str(directory / "tasks"))


async def test_what_a_shim_runs_is_the_shims(tmp_path: pathlib.Path) -> None:
    """Also when the configuration has another kind of handler by that name now."""
    (tmp_path / "tasks").mkdir()
    plain, shims = Recorder(), Recorder(knows=True)
    runtime = RuntimeByKind(plain, late(shims, tmp_path))  # type: ignore[arg-type]
    await runtime.delete(OCI, "one")
    assert (plain.names, shims.names) == ([], ["knows", "delete"])
    shims.answers["knows"] = False
    await runtime.delete(OCI, "one")
    assert (plain.names, shims.names[-1]) == (["delete"], "knows")


def request(handler: Handler) -> MonitorRequest:
    return MonitorRequest("one", "one", handler, "/b", "/p", "/l", "/parent", "pod")


async def test_shims_are_made_when_they_are_needed(tmp_path: pathlib.Path) -> None:
    made: list[Recorder] = []

    def make() -> Any:
        made.append(Recorder())
        return made[-1]

    shims = Late(make, str(tmp_path / "tasks"))
    await shims.close()
    assert shims.used() is None
    assert shims.get() is shims.get() is shims.used()
    await shims.close()
    assert len(made) == 1
    assert made[0].names == ["close"]
    (tmp_path / "tasks").mkdir()
    assert Late(make, str(tmp_path / "tasks")).used() is not None  # an earlier run needed them


@pytest.mark.parametrize("handler", [OCI, VM], ids=["oci", "vm"])
async def test_runtime(handler: Handler, tmp_path: pathlib.Path) -> None:
    plain, shims = Recorder(garbage=1), Recorder(garbage=2)
    runtime = RuntimeByKind(plain, late(shims, tmp_path))  # type: ignore[arg-type]
    await runtime.start(handler, "one")
    await runtime.delete(handler, "one")
    await runtime.state(handler, "one")
    await runtime.update(handler, "one", {})
    await runtime.pause(handler, "one", True)
    await runtime.exec_sync(ExecRequest("one", handler, {}))
    await runtime.exec_stream(ExecRequest("one", handler, {}), True, False)
    called, other = (shims, plain) if handler is VM else (plain, shims)
    called.calls = [call for call in called.calls if call[0] != "knows"]
    assert called.names == ["start", "delete", "state", "update", "pause", "exec_sync", "exec_stream"]
    assert other.names == []
    assert await runtime.garbage() == (3 if handler is VM else 1)


async def test_a_monitor_of_a_shim_s_container(tmp_path: pathlib.Path) -> None:
    prepared = replace(request(VM), handler=replace(VM, path="/usr/libexec/pycrio-task"))
    plain = Exits(create=MonitorReport(5, 6, 7, 8), oom_recorded=True, attach=9)
    shims = Recorder(prepare=prepared, init_pid=99)
    monitors = MonitorsByKind(plain, late(shims, tmp_path))  # type: ignore[arg-type]
    assert await monitors.create(request(OCI)) == MonitorReport(5, 6, 7, 8)
    assert shims.names == []
    assert await monitors.create(request(VM)) == MonitorReport(5, 6, 7, 8, 99)
    assert plain.calls[-1] == ("create", (prepared,))
    assert shims.names == ["prepare", "init_pid"]
    plain.calls.clear()
    await monitors.reopen_log("/b", "/l")
    await monitors.resize("/b", 1, 2)
    assert await monitors.attach("one", "/b") == 9
    await monitors.exit_of("one", "/p")
    assert monitors.oom_recorded("/p", "/b")
    await monitors.forget_exit("one")
    assert plain.names == ["reopen_log", "resize", "attach", "exit_of", "oom_recorded", "forget_exit"]
    assert [report async for report in monitors.exits()] == [ExitReport("one", 3, 5)]


def stats(kills: int) -> CgroupStats:
    return CgroupStats(1, memory=MemoryUsage(1, 1, 1, oom_kills=kills))


async def test_tasks_of_the_host(tmp_path: pathlib.Path) -> None:
    processes, cgroups = Processes(), Recorder(processes=[11, 12], stats=stats(1))
    for shims in (Recorder(), Recorder(knows=False)):
        tasks = TasksByKind(cgroups, processes, late(shims, tmp_path))  # type: ignore[arg-type]
        if "knows" in shims.answers:
            (tmp_path / "tasks").mkdir()
        assert await tasks.kill("one", 5, 6, 15)
        await tasks.end_rest("one", "/c", False)
        assert processes.killed == [(5, 6, 15)]
        await tasks.end_rest("one", "/c", True)
        assert processes.killed == [(5, 6, 15), (11, 0, 9), (12, 0, 9)]
        assert not await tasks.oom_killed("one", "/c")
        assert await tasks.stats("one", "/c") == stats(1)
        assert set(shims.names) <= {"knows"}
        processes.killed.clear()


async def test_tasks_of_a_shim(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tasks").mkdir()
    processes, cgroups = Processes(), Recorder(processes=[11], stats=stats(0))
    shims = Recorder(knows=True, kill=False, oom_marked=False, stats=stats(7))
    tasks = TasksByKind(cgroups, processes, late(shims, tmp_path))  # type: ignore[arg-type]
    assert not await tasks.kill("one", 5, 6, 15)
    assert shims.calls[-1] == ("kill", ("one", 15))
    assert processes.killed == []
    await tasks.end_rest("one", "/c", True)
    assert processes.killed == [(11, 0, 9)]
    assert not await tasks.oom_killed("one", "/c")
    cgroups.answers["stats"] = stats(1)
    assert await tasks.oom_killed("one", "/c")
    cgroups.answers["stats"] = None
    assert not await tasks.oom_killed("one", "/c")
    shims.answers["oom_marked"] = True
    assert await tasks.oom_killed("one", "/c")
    assert await tasks.stats("one", "/c") == stats(7)
    shims.answers["stats"], cgroups.answers["stats"] = None, stats(2)
    assert await tasks.stats("one", "/c") == stats(2)
