"""A command run in a container by its shim: fifos for its input and output, and the calls of its life."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Coroutine
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from pycrio._native.pools import offload
from pycrio._native.tree import kill_tree
from pycrio.drivers.shim import names
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.drivers.shim.calls import Calls, ShimGone
from pycrio.drivers.shim.place import Facts, Place
from pycrio.errors import NotFound, PycrioError, RuntimeFailure
from pycrio.model.container import ExecResult
from pycrio.obs import log as obslog

log = obslog.get("shim")
KILLED = 128 + signal.SIGKILL
END_WAIT = 10.0
"""Seconds for a killed command to end and be forgotten by the shim."""
_CHUNK = 65536


class Exec:
    """One command. ``stdin``: it gets an input fifo; with ``tty`` there is one output."""

    def __init__(self, calls: Calls, place: Place, facts: Facts, *, tty: bool, stdin: bool) -> None:
        self._calls, self._place, self._facts = calls, place, facts
        self._tty = tty
        self._pid = 0
        self.id = secrets.token_hex(16)
        self._dir = place.path("execs", self.id)
        os.makedirs(self._dir, 0o700)
        self.stdin_fd = self.stdout_fd = self.stderr_fd = -1
        try:
            self._paths = {name: self._fifo(name) for name in ("stdin", "stdout", "stderr")[: 2 if tty else 3]}
            if not stdin:
                os.unlink(self._paths.pop("stdin"))
            self.stdout_fd = os.open(self._paths["stdout"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if not tty:
                self.stderr_fd = os.open(self._paths["stderr"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if stdin:  # for both, so that it need not wait for the shim's side
                self.stdin_fd = os.open(self._paths["stdin"], os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self.release()
            raise

    def _fifo(self, name: str) -> str:
        path = os.path.join(self._dir, name)
        os.mkfifo(path, 0o600)
        return path

    async def start(self, process: bytes) -> None:
        """Have the shim run the process document. RuntimeFailure with its words when it does not."""
        request = pb.ExecRequest(
            id=self._place.id,
            exec_id=self.id,
            terminal=self._tty,
            spec=AnyMessage(type_url=names.PROCESS, value=process),
            **self._paths,
        )
        await self._calls.call(self._facts, "Exec", request, Empty)
        try:
            self._pid = (await self._calls.call(self._facts, "Start", self._request(), pb.StartResponse)).pid
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self.end()))
            raise

    def _request(self) -> pb.ProcessRequest:
        return pb.ProcessRequest(id=self._place.id, exec_id=self.id)

    async def wait(self) -> int:
        """The exit code, once all output of the process itself is in the fifos: the shim says so by forgetting it."""
        try:
            ended = await self._calls.call(self._facts, "Wait", self._request(), pb.WaitResponse, 0)
            with contextlib.suppress(NotFound):
                await self._calls.call(self._facts, "Delete", self._request(), pb.DeleteResponse)
        except (ShimGone, NotFound):  # so is the container
            return KILLED
        return ended.exit_status

    async def kill(self) -> None:
        """Send SIGKILL, to its children as well where the host has them; one that has ended, or was never known, is
        fine."""
        await kill_children(self._pid, self._place.id)
        request = pb.KillRequest(id=self._place.id, exec_id=self.id, signal=signal.SIGKILL)
        try:
            await self._calls.call(self._facts, "Kill", request, Empty)
        except PycrioError as e:
            log.debug("Command not killed", id=self._place.id, error=str(e))

    async def end(self) -> None:
        """Kill it and have the shim forget it, within ``END_WAIT``."""
        await self.kill()
        try:
            await asyncio.wait_for(self.wait(), END_WAIT)
        except asyncio.TimeoutError:
            log.warning("Killed command does not end, going on", id=self._place.id)
        except PycrioError as e:
            log.debug("Command not forgotten", id=self._place.id, error=str(e))

    async def close_stdin(self) -> None:
        """The shim holds the input open as well; told to, it lets go when it has read what is in there."""
        request = pb.CloseIORequest(id=self._place.id, exec_id=self.id, stdin=True)
        try:
            await self._calls.call(self._facts, "CloseIO", request, Empty)
        except PycrioError as e:
            log.debug("Input of a command not closed", id=self._place.id, error=str(e))  # it has ended

    async def resize(self, width: int, height: int) -> None:
        """Set the terminal's size."""
        request = pb.ResizeRequest(id=self._place.id, exec_id=self.id, width=width, height=height)
        try:
            await self._calls.call(self._facts, "ResizePty", request, Empty)
        except PycrioError as e:
            log.debug("Terminal of a command not resized", id=self._place.id, error=str(e))  # it has ended

    def release(self) -> None:
        """Close and remove the fifos. Idempotent."""
        for fd in (self.stdin_fd, self.stdout_fd, self.stderr_fd):
            if fd >= 0:
                os.close(fd)
        self.stdin_fd = self.stdout_fd = self.stderr_fd = -1
        shutil.rmtree(self._dir, ignore_errors=True)


async def forget(calls: Calls, place: Place, facts: Facts, ident: str, patience: float) -> None:
    """End a command of a daemon that was killed: nobody awaits it any more. Its shim gets ``patience`` seconds for each
    answer."""
    request = pb.ProcessRequest(id=place.id, exec_id=ident)
    try:
        state = await calls.call(facts, "State", request, pb.StateResponse, patience)
        await kill_children(state.pid, place.id)
        kill = pb.KillRequest(id=place.id, exec_id=ident, signal=signal.SIGKILL)
        with contextlib.suppress(NotFound, RuntimeFailure):
            await calls.call(facts, "Kill", kill, Empty, patience)
        await calls.call(facts, "Wait", request, pb.WaitResponse, patience)
        await calls.call(facts, "Delete", request, pb.DeleteResponse, patience)
    except PycrioError as e:
        log.debug("Command of an earlier run not forgotten", id=place.id, error=str(e))
    shutil.rmtree(place.path("execs", ident), ignore_errors=True)


async def kill_children(pid: int, container_id: str) -> None:
    """Kill a command with all that it started, if it is a process of the host's: what a shim gives as its pid may as
    well be the hypervisor's. A process of the container is in the container's cgroup."""
    if pid > 0 and await offload("proc", _inside, pid, container_id):
        await offload("proc", kill_tree, pid)


def _inside(pid: int, container_id: str) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as f:
            groups = {name for line in f for name in line.strip().split("/")}
    except OSError:  # it has ended
        return False
    return not groups.isdisjoint({f"crio-{container_id}", f"crio-{container_id}.scope"})


class Collector:
    """Reads a fifo as it fills; keeps at most ``cap`` bytes and drops the rest."""

    def __init__(self, fd: int, cap: int) -> None:
        self._fd = fd
        self._cap = cap
        self._kept = bytearray()
        self.truncated = False
        self._reading = True
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> bool:
        """Read once; whether there may be more at once."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        room = self._cap - len(self._kept)
        self._kept += data[:room]
        self.truncated |= len(data) > room
        if not data:
            self._stop()
        return bool(data)

    def _stop(self) -> None:
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._reading = False

    def finish(self) -> bytes:
        """What can be read without waiting is the rest; all that was kept."""
        while self._reading and self._read():
            pass
        self._stop()
        return bytes(self._kept)


async def run(running: Exec, process: bytes, timeout: float, cap: int) -> ExecResult | None:
    """Run a command to its end; None when it took more than ``timeout`` seconds (0: no limit) and was killed."""
    collectors = [Collector(fd, cap) for fd in (running.stdout_fd, running.stderr_fd)]
    try:
        await running.start(process)
        ending = asyncio.ensure_future(running.wait())
        try:
            code = await asyncio.wait_for(asyncio.shield(ending), timeout or None)
        except asyncio.TimeoutError:
            await running.kill()
            await asyncio.wait({ending}, timeout=END_WAIT)
            return None
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.ensure_future(running.kill()))
            await asyncio.wait({ending}, timeout=END_WAIT)
            raise
        finally:
            if not ending.done():
                ending.cancel()
        out, err = (c.finish() for c in collectors)
        return ExecResult(code, out, err, any(c.truncated for c in collectors))
    finally:
        for collector in collectors:
            collector.finish()
        running.release()


class Session:
    """A streaming exec. See ``flows.ports.ExecSession``: without a pseudo terminal of the host's, a command in a
    terminal has one input and one output."""

    def __init__(self, running: Exec, *, tty: bool) -> None:
        self._exec = running
        self._tty = tty
        self.stdin_fd, self.stdout_fd, self.stderr_fd = running.stdin_fd, running.stdout_fd, running.stderr_fd
        self.pty_fd = -1
        self._ending = asyncio.ensure_future(running.wait())
        self._told: set[asyncio.Task[None]] = set()
        self._closed = False

    async def wait(self) -> int:
        """Exit code (128 + signal when killed)."""
        return await asyncio.shield(self._ending)

    def _tell(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(call)
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size."""
        self._tell(self._exec.resize(width, height))

    def close_stdin(self) -> None:
        """End the process's input; a terminal's has no end."""
        if self._tty or self.stdin_fd < 0:
            return
        os.close(self.stdin_fd)
        self.stdin_fd = self._exec.stdin_fd = -1
        self._tell(self._exec.close_stdin())

    async def close(self) -> None:
        """Kill what still runs and release everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if not self._ending.done():
            await self._exec.kill()
            await asyncio.wait({self._ending}, timeout=END_WAIT)
        self._ending.cancel()
        for task in list(self._told):
            task.cancel()
        await asyncio.gather(self._ending, *self._told, return_exceptions=True)
        self.stdin_fd = self.stdout_fd = self.stderr_fd = -1
        self._exec.release()
