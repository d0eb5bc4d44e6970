"""The verbs against a shim that answers as told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from pycrio.drivers.shim import names, stuck
from pycrio.drivers.shim._pb import metrics2_pb2 as v2
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.drivers.shim.shims import Settings, Shims
from pycrio.errors import NotFound, RuntimeFailure, Timeout, Unsupported
from pycrio.model.node import Handler
from pycrio.model.requests import ExecRequest, MonitorRequest
from pycrio.ttrpc.link import CallError
from tests.unit.drivers.shim.support import NOT_FOUND, FakeShim, fake_shim


class Placer:
    """Where shims were put."""

    def __init__(self) -> None:
        self.placed: list[str] = []
        self.left: list[str] = []

    async def place(self, pid: int, request: MonitorRequest) -> None:
        self.placed.append(request.container_id)

    async def leave(self, parent: str, container_id: str) -> None:
        self.left.append(container_id)


class Rig:
    """A driver, its shim, and bundles of a pod ``pod`` with containers."""

    def __init__(self, directory: pathlib.Path, shim: FakeShim) -> None:
        self.directory, self.shim = directory, shim
        self.placer = Placer()
        self.state = directory / "tasks"
        self.shims = Shims(Settings(str(self.state), "/usr/libexec/pycrio-task", "/usr/bin/pycrio"), self.placer)
        self.handler = Handler(
            "vm", shim.program(directory), "/run/vm", "/monitor", type="vm", config_path="/etc/vm.toml"
        )

    def request(self, ident: str, **more: Any) -> MonitorRequest:
        bundle = self.directory / "bundles" / ident
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps({"annotations": {"a": "b"}, "process": {}}))
        return MonitorRequest(
            ident, ident, more.pop("handler", self.handler), str(bundle), str(bundle), "/log", "/parent", "pod", **more
        )

    async def make(self, *idents: str) -> None:
        for ident in ("pod", *idents):
            await self.shims.prepare(self.request(ident))
            (self.directory / "bundles" / ident / "pidfile").write_text("0")

    @property
    def commands(self) -> list[str]:
        return self.shim.log.read_text().splitlines() if self.shim.log.exists() else []


@pytest.fixture
async def rig(tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    async with fake_shim(tmp_path) as shim:
        rig = Rig(tmp_path, shim)
        yield rig
        await rig.shims.close()


# --- create -----------------------------------------------------------------------------------------------------------


async def test_a_pod_s_shim_is_started_once(rig: Rig) -> None:
    rig.shim.answers["Connect"] = pb.ConnectResponse(shim_pid=os.getpid())
    made = await rig.shims.prepare(rig.request("pod", oom_score_adj=1000))
    assert made.oom_score_adj is None
    assert (made.handler.path, made.handler.root) == ("/usr/libexec/pycrio-task", str(rig.state))
    assert (made.bundle, made.container_id, made.handler.monitor_path) == (rig.request("pod").bundle, "pod", "/monitor")
    await rig.shims.prepare(rig.request("one", stdin=True))
    await rig.shims.prepare(rig.request("two", tty=True))
    events = f"{rig.state}/events.sock"
    assert rig.commands == [f"-namespace default -address {events} -publish-binary /usr/bin/pycrio -id pod start"]
    assert rig.placer.placed == ["pod-shim"]
    assert (rig.state / "one" / "socket").read_text() == rig.shim.path
    assert (rig.state / "one" / "service").read_text() == "containerd.task.v2.Task"
    words = (rig.state / "one" / "delete").read_bytes().split(b"\0")
    assert words[-5:] == [b"one", b"-bundle", str(rig.state / "one").encode(), b"delete", b""]
    fifos = {i: sorted(p.name for p in (rig.state / i).iterdir() if p.is_fifo()) for i in ("pod", "one", "two")}
    assert fifos == {
        "pod": ["log", "stderr", "stdout"],
        "one": ["stderr", "stdin", "stdout"],
        "two": ["stdin", "stdout"],
    }
    create = pb.CreateRequest.FromString((rig.state / "two" / "create").read_bytes())
    assert (create.id, create.bundle, create.terminal) == ("two", str(rig.state / "two"), True)
    assert (create.stdin, create.stderr) == (str(rig.state / "two" / "stdin"), "")
    assert pb.ConfigOptions.FromString(create.options.value).config_path == "/etc/vm.toml"
    config = json.loads((rig.state / "two" / "config.json").read_text())
    assert config["annotations"]["io.kubernetes.cri.container-type"] == "container"


@pytest.mark.effect("crio.runtime.runtimes.*.runtime_pull_image")
async def test_an_image_that_the_guest_pulls(rig: Rig) -> None:
    handler = dataclasses.replace(rig.handler, pull_image=True)
    await rig.shims.prepare(rig.request("pod", handler=handler))
    assert not pb.CreateRequest.FromString((rig.state / "pod" / "create").read_bytes()).rootfs
    bundle = rig.request("one", handler=handler)
    pathlib.Path(bundle.bundle, "config.json").write_text(
        json.dumps({"annotations": {"io.kubernetes.cri-o.ImageName": "quay.io/a"}})
    )
    await rig.shims.prepare(bundle)
    assert pb.CreateRequest.FromString((rig.state / "one" / "create").read_bytes()).rootfs[0].type.startswith("fuse.")


async def test_what_cannot_be_made(rig: Rig) -> None:
    with pytest.raises(NotFound, match="no shim runs it"):
        await rig.shims.prepare(rig.request("one"))
    with pytest.raises(Unsupported, match="checkpoints"):
        await rig.shims.prepare(rig.request("pod", restore_from="/c"))
    rig.shim.program(rig.directory, answer="vsock://1:2")
    with pytest.raises(RuntimeFailure, match="answered what cannot be used"):
        await rig.shims.prepare(rig.request("pod"))
    os.unlink(rig.handler.path)
    with pytest.raises(RuntimeFailure, match="cannot be executed"):
        await rig.shims.prepare(rig.request("pod"))
    for ident in ("pod", "one"):
        await rig.shims.delete(rig.handler, ident)
    assert [p.name for p in rig.state.iterdir()] == ["events.sock"]


# --- life -------------------------------------------------------------------------------------------------------------


async def test_calls_and_their_failures(rig: Rig) -> None:
    await rig.make("one")
    rig.shim.answers["State"] = pb.StateResponse(status=pb.PAUSED, pid=77)
    assert await rig.shims.state(rig.handler, "one") == {"id": "one", "status": "paused", "pid": 77}
    assert await rig.shims.init_pid("one") == 77
    await rig.shims.start(rig.handler, "one")
    await rig.shims.pause(rig.handler, "one", True)
    await rig.shims.pause(rig.handler, "one", False)
    await rig.shims.update(rig.handler, "one", {"cpu": {"shares": 5}})
    assert rig.shim.methods[-4:] == ["Start", "Pause", "Resume", "Update"]
    told = rig.shim.got("Update").resources
    assert (told.type_url, json.loads(told.value)) == (names.RESOURCES, {"cpu": {"shares": 5}})
    rig.shim.answers["Start"] = CallError(2, "no such command")
    with pytest.raises(RuntimeFailure, match="shim Start one: no such command"):
        await rig.shims.start(rig.handler, "one")
    rig.shim.answers["State"] = CallError(NOT_FOUND, "who?")
    assert await rig.shims.state(rig.handler, "one") is None
    assert await rig.shims.state(rig.handler, "unknown") is None
    await rig.shim.close()
    assert await rig.shims.state(rig.handler, "one") is None
    with pytest.raises(RuntimeFailure, match=r"is gone|cannot be reached"):
        await rig.shims.start(rig.handler, "one")
    await rig.shim.open()
    await rig.shims.pause(rig.handler, "one", True)  # over a new connection


async def test_a_shim_that_does_not_answer(rig: Rig, tmp_path: pathlib.Path) -> None:
    await rig.make("one")
    hurried = Shims(Settings(str(rig.state), "/t", call_timeout=0.05))

    rig.shim.answers["Start"] = rig.shim.answers["Kill"] = never
    with pytest.raises(Timeout, match="no answer to Start"):
        await hurried.start(rig.handler, "one")
    assert await hurried.state(rig.handler, "one") is not None  # the others' answers still come
    assert await hurried.kill("one", signal.SIGTERM)
    await hurried.close()


async def test_signals(rig: Rig) -> None:
    await rig.make("one")
    assert rig.shims.knows("one")
    assert not rig.shims.knows("two")
    assert await rig.shims.kill("one", signal.SIGTERM)
    assert (rig.shim.got("Kill").signal, rig.shim.got("Kill").all) == (signal.SIGTERM, False)
    assert await rig.shims.kill("one", signal.SIGKILL)
    assert rig.shim.got("Kill").all
    rig.shim.answers["Kill"] = CallError(2, "not now")
    assert await rig.shims.kill("one", signal.SIGTERM)
    rig.shim.answers["Kill"] = CallError(NOT_FOUND, "process already finished")
    assert not await rig.shims.kill("one", signal.SIGTERM)
    assert not await rig.shims.kill("two", signal.SIGTERM)
    await rig.shim.close()
    assert await rig.shims.kill("one", signal.SIGKILL)  # pycrio-task ends it


async def test_what_stands_for_a_container_is_gone(rig: Rig) -> None:
    await rig.make("one")
    rig.shim.answers["State"] = pb.StateResponse(status=pb.STOPPED)
    await rig.shims.end_rest("one")
    assert "Kill" not in rig.shim.methods
    rig.shim.answers["State"] = pb.StateResponse(status=pb.RUNNING)
    await rig.shims.end_rest("one")
    assert rig.shim.got("Kill").signal == signal.SIGKILL
    rig.shim.answers["State"] = CallError(NOT_FOUND, "")
    await rig.shims.end_rest("one")
    await rig.shims.end_rest("unknown")
    rig.shim.answers["State"] = CallError(2, "not now")
    await rig.shims.end_rest("one")
    await rig.shim.close()
    await rig.shims.end_rest("one")
    assert rig.commands[-1].endswith("delete")
    await rig.shims.end_rest("one")
    assert sum("delete" in c for c in rig.commands) == 1


async def test_memory_and_readings(rig: Rig) -> None:
    await rig.make("one")
    assert not rig.shims.oom_marked("one")
    rig.shims._oom("one")
    rig.shims._oom("../one")
    rig.shims._oom("unknown")
    assert rig.shims.oom_marked("one")
    value = v2.Metrics(pids=v2.Pids(current=4)).SerializeToString()
    stats = AnyMessage(type_url="io.containerd.cgroups.v2.Metrics", value=value)
    rig.shim.answers["Stats"] = pb.StatsResponse(stats=stats)
    found = await rig.shims.stats("one")
    assert found is not None
    assert found.pids == 4
    rig.shim.answers["Stats"] = CallError(12, "not implemented")
    assert await rig.shims.stats("one") is None
    assert await rig.shims.stats("unknown") is None


# --- delete -----------------------------------------------------------------------------------------------------------


async def test_the_last_container_ends_the_shim(rig: Rig) -> None:
    await rig.make("one")
    await rig.shims.delete(rig.handler, "pod")
    assert rig.shim.methods[-3:] == ["Kill", "Wait", "Delete"]

    def shut_down(request: Any) -> pb.ShutdownRequest:
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(rig.shim.close()))
        return request  # an empty answer

    rig.shim.answers["Shutdown"] = shut_down
    await rig.shims.delete(rig.handler, "one")
    await rig.shims.delete(rig.handler, "one")
    assert rig.shim.got("Shutdown").id == "pod"
    assert rig.placer.left == ["pod-shim"]
    assert not any(p.is_dir() for p in rig.state.iterdir())
    assert not os.path.exists(rig.shim.path)


async def test_an_ended_container_is_deleted(rig: Rig) -> None:
    await rig.make("one")
    rig.shim.answers["Kill"] = CallError(NOT_FOUND, "process already finished")
    await rig.shims.delete(rig.handler, "one")
    assert rig.shim.methods[-3:] == ["Kill", "Wait", "Delete"]


async def test_a_shim_in_the_middle_of_a_creation(rig: Rig) -> None:
    """It waits for the other side of the fifos, whose pycrio-task was killed, and answers nobody before."""
    await rig.make("one")

    async def held_up(request: Any) -> pb.KillRequest:
        for name in ("stdout", "stderr"):  # ENXIO without a reader
            os.close(os.open(rig.state / "one" / name, os.O_WRONLY | os.O_NONBLOCK))
        return pb.KillRequest()

    rig.shim.answers["Kill"] = held_up
    await rig.shims.delete(rig.handler, "one")
    assert rig.shim.methods[-3:] == ["Kill", "Wait", "Delete"]


async def test_a_shim_that_does_not_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycrio.drivers.shim.shims.END_WAIT", 0.1)
    await rig.make()
    with subprocess.Popen(["sleep", "1000"], cwd=rig.state / "pod") as process:
        rig.shim.answers["Connect"] = pb.ConnectResponse(shim_pid=process.pid)
        await rig.shims.delete(rig.handler, "pod")
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
    assert not rig.shims.knows("pod")


async def never(request: Any) -> Any:
    await asyncio.Event().wait()


@contextlib.contextmanager
def process_of(rig: Rig, *words: str, cwd: pathlib.Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the place of the shim's, which listens on a socket of its own."""
    script = "import socket as s, sys; u = s.socket(s.AF_UNIX); u.bind(sys.argv[1]); u.listen(); print('on', flush=1)"
    argv = [sys.executable, "-c", f"{script}; u.accept()", str(rig.directory / "own.sock"), *words]
    with subprocess.Popen(argv, cwd=cwd, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        yield process
        process.kill()


def earlier(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Shims:
    """The driver of the next run, which is in a hurry."""
    monkeypatch.setattr("pycrio.drivers.shim.shims.ANSWER_WAIT", 0.1)
    monkeypatch.setattr("pycrio.drivers.shim.shims.SILENT_WAIT", 0.05)
    monkeypatch.setattr("pycrio.drivers.shim.shims.END_WAIT", 0.2)
    return Shims(rig.shims.settings, rig.placer)


async def test_a_silent_shim_of_an_earlier_run_is_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once; its process is found without asking it."""
    await rig.make()
    again = earlier(rig, monkeypatch)
    rig.shim.answers |= dict.fromkeys(("Connect", "Kill", "State", "Wait", "Delete", "Shutdown"), never)
    with process_of(rig, cwd=rig.state / "pod") as process:
        rig.shim.calls.clear()
        await again.delete(rig.handler, "pod")
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
    assert rig.shim.methods[0] == "Kill"
    assert not {"Wait", "Delete", "Shutdown"} & set(rig.shim.methods)
    assert rig.commands[-1].endswith("delete")
    assert not (rig.directory / "own.sock").exists()
    assert not again.knows("pod")
    assert rig.placer.left == ["pod-shim"]
    await again.close()


async def test_a_silent_shim_is_found_by_its_word(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid that it told earlier, if that is still the process, and one of the pod's."""
    with process_of(rig, "-id", "pod") as process:
        rig.shim.answers["Connect"] = pb.ConnectResponse(shim_pid=process.pid)
        await rig.make("one")
        assert rig.shims._facts("one")[1].pid == process.pid
        again = earlier(rig, monkeypatch)
        rig.shim.answers |= dict.fromkeys(("Connect", "Kill"), never)
        facts = rig.shims._facts("pod")[1]
        for other in ({"start_time": facts.start_time - 1}, {"pod": "other"}, {"pid": 0}):
            stuck.kill(str(rig.state / "pod"), dataclasses.replace(facts, **other))
            assert process.poll() is None
        await again.delete(rig.handler, "pod")
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
        await again.close()


async def test_a_shim_that_is_deaf_to_sigkill(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, as the one way to end its containers; not for another signal, and not while it answers others."""
    monkeypatch.setattr("pycrio.drivers.shim.shims.END_WAIT", 0.1)
    await rig.make("one")
    rig.shim.answers["Kill"] = never
    with process_of(rig, cwd=rig.state / "pod") as process:
        assert await rig.shims.kill("one", signal.SIGTERM)
        killing = asyncio.ensure_future(rig.shims.kill("one", signal.SIGKILL))
        await rig.shims.start(rig.handler, "one")
        assert await killing
        assert process.poll() is None
        assert await rig.shims.kill("one", signal.SIGKILL)
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL


async def test_a_silent_shim_with_other_containers_lives(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One container's end is not worth the pod."""
    await rig.make("one")
    again = earlier(rig, monkeypatch)
    rig.shim.answers["Kill"] = never
    with process_of(rig, cwd=rig.state / "pod") as process:
        await again.delete(rig.handler, "one")
        assert rig.commands[-1].endswith(f"-bundle {rig.state}/one delete")
        assert process.poll() is None
    assert not again.knows("one")
    assert again.knows("pod")
    await again.close()


async def test_a_process_that_cannot_be_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.make()
    monkeypatch.setattr("pycrio.drivers.shim.stuck.END_WAIT", 0.05)
    monkeypatch.setattr("pycrio.drivers.shim.stuck.kill_tree", lambda *pids: None)
    with process_of(rig, cwd=rig.state / "pod"), pytest.raises(RuntimeFailure, match="does not end"):
        stuck.kill(str(rig.state / "pod"), rig.shims._facts("pod")[1])


async def test_a_shim_that_waits_for_a_reader_of_its_log(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was started just before the daemon was killed answers nobody before."""
    await rig.make()
    await rig.shims.close()
    again = earlier(rig, monkeypatch)

    async def held_up(request: Any) -> Any:
        os.close(os.open(rig.state / "pod" / "log", os.O_WRONLY | os.O_NONBLOCK))  # ENXIO without a reader
        return pb.KillRequest()

    rig.shim.answers |= dict.fromkeys(("Connect", "Kill"), held_up)
    assert await again.garbage() == 0
    assert list(again._logs) == ["pod"]
    await again.close()
    third = earlier(rig, monkeypatch)
    await third.delete(rig.handler, "pod")
    assert {"Kill", "Wait", "Delete", "Shutdown"} <= set(rig.shim.methods)
    await third.close()


async def test_silent_shims_and_what_they_left(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left alone while they have a record, and nobody waits for them twice."""
    await rig.make("one")
    (rig.state / "one" / "execs" / "a").mkdir(parents=True)
    again = earlier(rig, monkeypatch)
    rig.shim.answers |= dict.fromkeys(("Connect", "State", "Kill"), never)
    assert await again.garbage() == 1
    assert list(again._logs) == ["pod"]
    address = again._facts("pod")[1].address
    assert again._calls.silent(address)
    with pytest.raises(Timeout, match=r"no answer to State in 0\.05"):
        await again.state(rig.handler, "one")
    await again.end_rest("one")
    rig.shim.answers["Stats"] = CallError(12, "not implemented")
    assert await again.stats("one") is None  # an answer
    assert not again._calls.silent(address)
    await again.close()


async def test_the_socket_for_events_is_there_before_the_first_pod(rig: Rig) -> None:
    """As many descriptors with the first container as before it."""
    assert await rig.shims.garbage() == 0
    assert (rig.state / "events.sock").exists()


async def test_a_dead_shim_s_program_cleans_up(rig: Rig) -> None:
    await rig.make("one")
    await rig.shim.close()
    await rig.shims.delete(rig.handler, "one")
    assert rig.commands[-1].endswith(f"-id one -bundle {rig.state}/one delete")
    (rig.state / "pod" / "deleted").touch()  # by pycrio-task
    await rig.shims.delete(rig.handler, "pod")
    assert sum("delete" in c for c in rig.commands) == 1
    assert not rig.shims.knows("pod")


async def test_a_program_that_cannot_clean_up(rig: Rig) -> None:
    await rig.make("one", "two")
    await rig.shim.close()
    rig.shim.program(rig.directory, refusal="will not")
    with pytest.raises(RuntimeFailure, match="will not"):
        await rig.shims.delete(rig.handler, "one")
    assert rig.shims.knows("one")
    os.unlink(rig.directory / "bundles" / "two" / "pidfile")  # it was never made
    await rig.shims.delete(rig.handler, "two")
    assert not rig.shims.knows("two")


async def test_what_was_cut_off_before_there_was_a_shim(rig: Rig) -> None:
    (rig.state / "half").mkdir(parents=True)
    await rig.shims.delete(rig.handler, "half")
    assert not rig.shims.knows("half")
    assert rig.shim.calls == []


async def test_what_was_cut_off_before_the_shim_was_heard_of(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycrio.drivers.shim.shims.END_WAIT", 0.1)
    await rig.make()
    place = rig.shims._place("pod")
    place.put_facts(dataclasses.replace(rig.shims._facts("pod")[1], address="", version=0))
    place.write("address", f"unix://{rig.shim.path}".encode())
    await rig.shims.delete(rig.handler, "pod")
    assert {"Kill", "Shutdown"} <= set(rig.shim.methods)
    assert not os.path.exists(rig.shim.path)


# --- commands ---------------------------------------------------------------------------------------------------------


def command(rig: Rig, *argv: str, **more: Any) -> ExecRequest:
    return ExecRequest("one", rig.handler, {"args": list(argv)}, **more)


def writing(rig: Rig, out: bytes, err: bytes = b"", code: int = 0) -> asyncio.Event:
    """The shim starts a command that writes, and ends when it is told to."""
    end = asyncio.Event()
    opened: list[int] = []

    def start(request: Any) -> pb.StartResponse:
        told = rig.shim.got("Exec")
        for path, data in ((told.stdout, out), (told.stderr, err)):
            if path:
                fd = os.open(path, os.O_WRONLY)
                os.write(fd, data)
                opened.append(fd)
        return pb.StartResponse(pid=9)

    async def wait(request: Any) -> pb.WaitResponse:
        await end.wait()
        return pb.WaitResponse(exit_status=code)

    def delete(request: Any) -> pb.DeleteResponse:
        while opened:
            os.close(opened.pop())
        return pb.DeleteResponse()

    def kill(request: Any) -> pb.KillRequest:
        end.set()
        return pb.KillRequest()

    rig.shim.answers |= {"Start": start, "Wait": wait, "Delete": delete, "Kill": kill}
    return end


async def test_a_command(rig: Rig) -> None:
    await rig.make("one")
    writing(rig, b"out", b"err!", code=3).set()
    done = await rig.shims.exec_sync(command(rig, "x", cap=3))
    assert (done.exit_code, done.stdout, done.stderr, done.truncated) == (3, b"out", b"err", True)
    told = rig.shim.got("Exec")
    assert (told.terminal, told.stdin, told.spec.type_url) == (False, "", names.PROCESS)
    assert json.loads(told.spec.value) == {"args": ["x"]}
    assert not list((rig.state / "one" / "execs").iterdir())


async def test_a_command_that_takes_too_long(rig: Rig) -> None:
    await rig.make("one")
    writing(rig, b"")
    with pytest.raises(Timeout, match="command timed out"):
        await rig.shims.exec_sync(command(rig, "x", timeout=0.05))
    assert rig.shim.got("Kill").exec_id == rig.shim.got("Exec").exec_id
    assert rig.shim.methods[-1] == "Delete"
    assert not list((rig.state / "one" / "execs").iterdir())


async def test_a_command_that_nobody_wants_any_more(rig: Rig) -> None:
    await rig.make("one")
    writing(rig, b"")
    task = asyncio.ensure_future(rig.shims.exec_sync(command(rig, "x")))
    await rig.shim.called("Wait")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert "Kill" in rig.shim.methods
    assert not list((rig.state / "one" / "execs").iterdir())


async def test_a_command_that_cannot_start(rig: Rig) -> None:
    await rig.make("one")
    rig.shim.answers["Start"] = CallError(2, "exec: nope: not found")
    with pytest.raises(RuntimeFailure, match="nope: not found"):
        await rig.shims.exec_sync(command(rig, "nope"))
    assert rig.shim.methods[-3:] == ["Kill", "Wait", "Delete"]
    with pytest.raises(RuntimeFailure, match="nope: not found"):
        await rig.shims.exec_stream(command(rig, "nope"), True, True)
    assert not list((rig.state / "one" / "execs").iterdir())
    await rig.shim.close()
    with pytest.raises(NotFound, match="not running"):
        await rig.shims.exec_sync(command(rig, "x"))


async def test_a_session(rig: Rig) -> None:
    await rig.make("one")
    end = writing(rig, b"hello", code=5)
    session = await rig.shims.exec_stream(command(rig, "x"), False, True)
    assert (os.read(session.stdout_fd, 100), session.pty_fd) == (b"hello", -1)
    os.write(session.stdin_fd, b"typed")
    stdin = os.open(rig.shim.got("Exec").stdin, os.O_RDONLY | os.O_NONBLOCK)
    session.close_stdin()
    session.close_stdin()
    await rig.shim.called("CloseIO")
    assert (os.read(stdin, 100), os.read(stdin, 100)) == (b"typed", b"")
    os.close(stdin)
    end.set()
    assert await session.wait() == 5
    await session.close()
    await session.close()
    assert "Kill" not in rig.shim.methods
    assert not list((rig.state / "one" / "execs").iterdir())


async def test_a_session_in_a_terminal(rig: Rig) -> None:
    await rig.make("one")
    writing(rig, b"")
    session = await rig.shims.exec_stream(command(rig, "x"), True, True)
    assert session.stderr_fd == -1
    session.close_stdin()
    assert session.stdin_fd >= 0  # a terminal's input has no end
    session.resize(80, 25)
    await rig.shim.called("ResizePty")
    assert (rig.shim.got("ResizePty").width, rig.shim.got("ResizePty").height) == (80, 25)
    await session.close()
    assert "Kill" in rig.shim.methods


async def test_a_shim_that_goes_with_its_commands(rig: Rig) -> None:
    await rig.make("one")
    writing(rig, b"")
    session = await rig.shims.exec_stream(command(rig, "x"), False, False)
    assert session.stdin_fd == -1
    await rig.shim.close()
    assert await session.wait() == 137
    await session.close()


async def test_commands_of_an_earlier_run(rig: Rig) -> None:
    await rig.make("one")
    for ident in ("a", "b"):
        (rig.state / "one" / "execs" / ident).mkdir(parents=True)
    (rig.state / "half").mkdir()
    again = Shims(Settings(str(rig.state), "/t"))
    await rig.shims.close()
    assert await again.garbage() == 2
    killed = [r.exec_id for name, r in rig.shim.calls if name == "Kill"]
    assert killed == ["a", "b"]
    assert not list((rig.state / "one" / "execs").iterdir())
    assert list(again._logs) == ["pod"]
    await rig.shim.close()
    assert await again.garbage() == 0
    await again.close()
