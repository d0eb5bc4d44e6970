"""pycrio-task, the program that stands for a container, between a monitor's pipes and a shim."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import pathlib
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import pytest

from pycrio._native.run import readable
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.ttrpc.link import CallError
from tests.unit.drivers.shim.support import FakeShim, fake_shim

PROGRAM = str(resources.files("pycrio").joinpath("_native", "bin", "pycrio-task"))
ID = "c1"


class Stand:
    """The program's directory, and the pipes of a monitor."""

    def __init__(self, directory: pathlib.Path, shim: FakeShim) -> None:
        self.directory, self.shim = directory / "tasks", shim
        self.place = self.directory / ID
        self.place.mkdir(parents=True)
        self.put("socket", shim.path.encode())
        self.put("service", b"containerd.task.v3.Task")
        self.put("create", pb.CreateRequest(id=ID, bundle=str(self.place)).SerializeToString())
        self.fifos("stdout", "stderr")
        self.end = asyncio.Event()
        self.code = 0
        self.pid = 0

        async def wait(request: Any) -> pb.WaitResponse:
            await self.end.wait()
            return pb.WaitResponse(exit_status=self.code)

        shim.answers["Wait"] = wait
        shim.answers["Create"] = lambda request: self._open() or pb.CreateResponse(pid=1)
        self.opened: dict[str, int] = {}
        self.ours: dict[str, int] = {}
        self.theirs: dict[str, int] = {}
        for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
            read, write = os.pipe()
            self.theirs[name], self.ours[name] = (read, write) if number == 0 else (write, read)

    def put(self, name: str, content: bytes) -> None:
        (self.place / name).write_bytes(content)

    def fifos(self, *names: str) -> None:
        for name in names:
            os.mkfifo(self.place / name)

    def _open(self) -> None:
        """As a shim does when it creates a container."""
        for path in self.place.iterdir():
            if path.is_fifo():
                reads = path.name == "stdin"
                self.opened[path.name] = os.open(path, os.O_RDONLY | os.O_NONBLOCK if reads else os.O_WRONLY)

    def close(self, name: str) -> None:
        os.close(self.opened.pop(name))

    async def create(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run the program as a monitor does; ``pid`` is then what stands for the container."""
        command = [PROGRAM, "--systemd-cgroup", f"--root={self.directory}", "create", "--bundle", "/b", "--pid-file"]
        command += [str(self.place / "pid"), "--no-pivot", *words, ID]
        stdio: Any = dict(self.theirs)
        done = await asyncio.to_thread(subprocess.run, command, **stdio, check=False)
        for fd in self.theirs.values():
            os.close(fd)
        self.theirs.clear()
        if done.returncode == 0:
            self.pid = int((self.place / "pid").read_text())
        return done

    async def ended(self) -> int:
        """The exit code of what stands for the container; the test process adopts it as a monitor does."""
        pidfd = os.pidfd_open(self.pid)
        try:
            await readable(pidfd)
        finally:
            os.close(pidfd)
        pid, self.pid = self.pid, 0
        status = os.waitpid(pid, 0)[1]  # noqa: ASYNC222  it has ended
        return os.waitstatus_to_exitcode(status)

    def read(self, name: str) -> bytes:
        """Everything up to the end."""
        with open(self.ours.pop(name), "rb") as f:
            return f.read()

    def release(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for fd in [*self.opened.values(), *self.ours.values(), *self.theirs.values()]:
            os.close(fd)


@pytest.fixture
async def stand(tmp_path: pathlib.Path) -> AsyncIterator[Stand]:
    import ctypes

    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, as monitors are
    async with fake_shim(tmp_path) as shim:
        made = Stand(tmp_path, shim)
        try:
            yield made
        finally:
            made.release()
            libc.prctl(36, 0, 0, 0, 0)


async def test_output_and_exit_code(stand: Stand) -> None:
    assert (await stand.create()).returncode == 0
    assert stand.shim.got("Create").bundle == str(stand.place)
    await stand.shim.called("Wait")
    assert stand.shim.got("Wait").id == ID
    os.write(stand.opened["stdout"], b"out")
    os.write(stand.opened["stderr"], b"err")
    stand.code = 42
    stand.end.set()
    os.write(stand.opened["stdout"], b" late")
    stand.close("stdout")
    stand.close("stderr")
    assert await stand.ended() == 42
    assert (stand.read("stdout"), stand.read("stderr")) == (b"out late", b"err")


async def test_what_a_shim_refuses(stand: Stand) -> None:
    os.close(stand.theirs["stderr"])
    said = os.memfd_create("said")
    stand.theirs["stderr"] = os.dup(said)
    stand.shim.answers["Create"] = CallError(2, "OCI runtime create failed: no such file")
    assert (await stand.create()).returncode == 1
    assert os.pread(said, 1000, 0) == b"OCI runtime create failed: no such file\n"
    os.close(said)


async def test_input(stand: Stand) -> None:
    stand.fifos("stdin")
    await stand.create()
    data = os.urandom(200_000)
    writing = asyncio.ensure_future(asyncio.to_thread(_write, stand.ours["stdin"], data))
    got = b""
    while len(got) < len(data):
        await readable(stand.opened["stdin"])
        got += os.read(stand.opened["stdin"], 65536)
    await writing
    assert got == data
    assert "CloseIO" not in stand.shim.methods
    os.close(stand.ours.pop("stdin"))
    await stand.shim.called("CloseIO")
    assert (stand.shim.got("CloseIO").id, stand.shim.got("CloseIO").stdin) == (ID, True)
    assert os.read(stand.opened["stdin"], 100) == b""


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


async def test_a_terminal(stand: Stand, tmp_path: pathlib.Path) -> None:
    stand.fifos("stdin")
    (stand.place / "stderr").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        assert (await stand.create("--console-socket", str(tmp_path / "console"))).returncode == 0
        with listener.accept()[0] as peer:
            fds = array.array("i")
            _, extra, _, _ = peer.recvmsg(10, socket.CMSG_LEN(4))
            fds.frombytes(extra[0][2][:4])
    master = fds[0]
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 43, 112, 0, 0))
    await stand.shim.called("ResizePty")
    told = stand.shim.got("ResizePty")
    assert (told.id, told.width, told.height) == (ID, 112, 43)
    os.write(master, b"typed\n")
    await readable(stand.opened["stdin"])
    assert os.read(stand.opened["stdin"], 100) == b"typed\n"  # neither echoed nor edited: the container's own does that
    os.write(stand.opened["stdout"], b"a\r\nb\n")
    await readable(master)
    assert os.read(master, 100) == b"a\r\nb\n"
    stand.end.set()
    stand.close("stdout")
    assert await stand.ended() == 0
    with contextlib.suppress(OSError):  # EIO: it has hung up
        assert os.read(master, 100) == b""
    os.close(master)


async def test_a_shim_that_dies(stand: Stand, tmp_path: pathlib.Path) -> None:
    program = stand.shim.program(tmp_path)
    stand.put("delete", b"".join(w.encode() + b"\0" for w in (program, "-id", ID, "delete")))
    await stand.create()
    await stand.shim.called("Wait")
    os.write(stand.opened["stdout"], b"last")
    for name in ("stdout", "stderr"):
        stand.close(name)
    await stand.shim.close()
    assert await stand.ended() == 137
    assert stand.read("stdout") == b"last"
    assert stand.shim.log.read_text() == f"-id {ID} delete\n"
    assert (stand.place / "deleted").exists()


@pytest.mark.parametrize("words", [[], ["/none", "delete"]], ids=["no-command", "no-program"])
async def test_a_shim_that_dies_and_cannot_clean_up(stand: Stand, words: list[str]) -> None:
    if words:
        stand.put("delete", b"".join(w.encode() + b"\0" for w in words))
    await stand.create()
    await stand.shim.called("Wait")
    for name in ("stdout", "stderr"):
        stand.close(name)
    await stand.shim.close()
    assert await stand.ended() == 255
    assert not (stand.place / "deleted").exists()


async def test_a_shim_that_does_not_know_its_container(stand: Stand, tmp_path: pathlib.Path) -> None:
    program = stand.shim.program(tmp_path, refusal="no")
    stand.put("delete", f"{program}\0delete\0".encode())
    stand.shim.answers["Wait"] = CallError(5, "not found")
    await stand.create()
    for name in ("stdout", "stderr"):
        stand.close(name)
    assert await stand.ended() == 255
    assert "delete" in stand.shim.log.read_text()


async def test_a_monitor_that_is_killed(stand: Stand) -> None:
    """Then nobody reads, but the container must not stand still."""
    await stand.create()
    await stand.shim.called("Wait")
    os.close(stand.ours.pop("stdout"))
    await asyncio.to_thread(_write, stand.opened["stdout"], b"x" * 300_000)
    for name in ("stdout", "stderr"):
        stand.close(name)
    stand.code = 3
    stand.end.set()
    assert await stand.ended() == 3


async def test_output_that_somebody_else_holds(stand: Stand) -> None:
    """The end of the container is not the end of its output's other holders: it is waited for, but not for ever."""
    await stand.create()
    stand.end.set()
    assert await stand.ended() == 0
    assert (stand.read("stdout"), stand.read("stderr")) == (b"", b"")


@pytest.mark.parametrize(
    "words",
    [["--root=/x", "state", ID], ["create", ID], ["--root=/x", "create", "--pid-file", "/p", "a/b"], ["--what"]],
)
def test_faulty_command_lines(words: list[str]) -> None:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "usage: pycrio-task" in done.stderr


def test_version() -> None:
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("pycrio-task version ")


def test_a_container_without_a_directory(tmp_path: pathlib.Path) -> None:
    command = [PROGRAM, f"--root={tmp_path}", "create", "--pid-file", str(tmp_path / "p"), ID]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "enter the directory of container c1" in done.stderr) == (1, True)
