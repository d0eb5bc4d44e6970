"""Verbs of an OCI runtime by its command line (runtime-spec, runtime.md; the options are those of runc and crun)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio._native.run import Completed, find, run
from pycrio._native.tree import kill_tree
from pycrio.drivers.runtime import mark
from pycrio.drivers.runtime.session import Session, start_session
from pycrio.errors import NotFound, RuntimeFailure, Timeout
from pycrio.model.container import ExecResult
from pycrio.model.node import Handler
from pycrio.model.requests import ExecRequest
from pycrio.obs import log as obslog
from pycrio.obs import trace

log = obslog.get("runtime")
_STATE = ("state.json", "status")  # of runc and of crun
_SCRATCH = "exec-"
_PROCESS = "process.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """``scratch_dir`` holds process documents of execs for as long as they run; ``prefix`` goes before the runtime
    (``taskset …`` for the infra cpuset). ``call_timeout`` in seconds bounds every verb but exec. ``exec_program``:
    pycrio-exec, see ``Runtime.exec_sync``."""

    scratch_dir: str
    exec_program: str
    systemd_cgroup: bool = False
    prefix: tuple[str, ...] = ()
    call_timeout: float = 120.0


class Runtime:
    """The verbs; one object for all handlers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        os.makedirs(settings.scratch_dir, mode=0o700, exist_ok=True)

    def command(self, handler: Handler, *words: str) -> list[str]:
        """The command line for a verb."""
        systemd = ["--systemd-cgroup"] if self.settings.systemd_cgroup else []
        return [*self.settings.prefix, handler.path, f"--root={handler.root}", *systemd, *words]

    async def _call(self, handler: Handler, *words: str, stdin: bytes = b"") -> Completed:
        command = self.command(handler, *words)
        try:
            with traced(handler, words[0]) as span:
                done = await run(command, stdin=stdin, timeout=self.settings.call_timeout, cap=1 << 20)
                span.set("process.exit.code", done.code)
        except NativeError as e:
            raise missing(handler, e) from e
        if done.timed_out:
            raise Timeout(f"{handler.path} {words[0]} did not end within {self.settings.call_timeout:.0f} s")
        return done

    async def _must(self, handler: Handler, container_id: str, *words: str, stdin: bytes = b"") -> Completed:
        done = await self._call(handler, *words, stdin=stdin)
        if done.code != 0:
            raise RuntimeFailure(f"{os.path.basename(handler.path)} {words[0]} {container_id}: {said(done.stderr)}")
        return done

    async def start(self, handler: Handler, container_id: str) -> None:
        """Start a created container."""
        await self._must(handler, container_id, "start", container_id)

    async def delete(self, handler: Handler, container_id: str) -> None:
        """Delete by force; a container that the runtime does not know is deleted already."""
        state_dir = os.path.join(handler.root, container_id)
        if not os.path.lexists(state_dir):
            return
        done = await self._call(handler, "delete", "--force", container_id)
        if done.code != 0 and not any(os.path.exists(os.path.join(state_dir, name)) for name in _STATE):
            # Its creation was cut off before the runtime wrote down what it made: there is nothing else to delete.
            await offload("proc", shutil.rmtree, state_dir, True)
        if done.code != 0 and os.path.lexists(state_dir):
            raise RuntimeFailure(f"{os.path.basename(handler.path)} delete {container_id}: {said(done.stderr)}")

    async def state(self, handler: Handler, container_id: str) -> Mapping[str, Any] | None:
        """The state document; None for an unknown container."""
        if not os.path.lexists(os.path.join(handler.root, container_id)):
            return None
        done = await self._call(handler, "state", container_id)
        if done.code != 0:
            return None
        try:
            document: Mapping[str, Any] = json.loads(done.stdout)
        except ValueError as e:
            raise RuntimeFailure(f"{handler.path} state {container_id} answered what is not JSON: {e}") from e
        return document

    async def update(self, handler: Handler, container_id: str, resources: Mapping[str, Any]) -> None:
        """Apply an OCI linux.resources document."""
        text = json.dumps(resources).encode()
        await self._must(handler, container_id, "update", "--resources", "-", container_id, stdin=text)

    async def pause(self, handler: Handler, container_id: str, frozen: bool) -> None:
        """Freeze or thaw."""
        await self._must(handler, container_id, "pause" if frozen else "resume", container_id)

    async def exec_sync(self, request: ExecRequest) -> ExecResult:
        """Run a process to its end: one runtime exec, no monitor, no temporary log.

        The runtime detaches and pycrio-exec ends as the process does. What the process leaves running with its output
        open delays nothing and runs on; a runtime that stays would wait for it.

        The pid file tells a process that failed from one that never began; on a timeout it names the process whose
        tree is killed, since killing the runtime alone would leave that tree in the container.
        """
        with _Scratch(self.settings.scratch_dir, request.process) as scratch:
            words = ["exec", "--detach", "--process", scratch.process, "--pid-file", scratch.pidfile]
            program, *arguments = self.command(request.handler, *words, request.container_id)
            try:
                with traced(request.handler, words[0]) as span:
                    done = await run(
                        [self.settings.exec_program, scratch.pidfile, find(program), *arguments],
                        timeout=request.timeout or None,
                        cap=request.cap,
                        oom_score_adj=request.process.get("oomScoreAdj"),
                    )
                    span.set("process.exit.code", done.code)
            except NativeError as e:
                raise missing(request.handler, e) from e
            except asyncio.CancelledError:
                await offload("proc", scratch.kill)
                raise
            if done.timed_out:
                await offload("proc", scratch.kill)
                raise Timeout(
                    f"command timed out: exec in container {request.container_id} ran longer than {request.timeout:g} s"
                )
            pid = scratch.pid()
            if pid < 0:
                raise missing(request.handler, NativeError(-pid, "exec", program))
            if pid == 0:
                raise refused(request.container_id, done)
            return ExecResult(done.code, done.stdout, done.stderr, done.truncated)

    async def exec_stream(self, request: ExecRequest, tty: bool, stdin: bool) -> Session:
        """Start a process with its stdio in our hands."""
        scratch = _Scratch(self.settings.scratch_dir, request.process)
        try:
            words = ["exec", *(["--tty"] if tty else []), "--process", scratch.process]
            words += ["--pid-file", scratch.pidfile, request.container_id]
            command = self.command(request.handler, *words)
            return await start_session(
                command,
                tty=tty,
                stdin=stdin,
                on_close=scratch.close,
                kill=scratch.kill,
                pid=scratch.pid,
                directory=scratch.directory,
                oom_score_adj=request.process.get("oomScoreAdj"),
            )
        except NativeError as e:
            scratch.close()
            raise missing(request.handler, e) from e
        except BaseException:
            scratch.close()
            raise

    async def garbage(self) -> int:
        """End the execs whose daemon was killed, since nobody awaits them any more, and remove their documents."""
        return await offload("proc", _sweep, self.settings.scratch_dir)


def traced(handler: Handler, verb: str) -> trace.Opened:
    """A span around a verb of the runtime. Its arguments stay out: they hold what users run."""
    return trace.span(f"{os.path.basename(handler.path)} {verb}", {"process.executable.path": handler.path})


def _sweep(directory: str) -> int:
    places = [os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(_SCRATCH)]
    if places:
        marks = [_marked(place) for place in places]
        kill_tree(*_running(f"{place}/".encode() for place in places), others=lambda: mark.bearers(*marks))
    for place in places:
        shutil.rmtree(place, ignore_errors=True)  # a runtime may still be writing there
    return len(places)


def _marked(place: str) -> int:
    """The mark of an exec whose document lies there; 0 when it was cut off before."""
    try:
        with open(os.path.join(place, _PROCESS), "rb") as f:
            return mark.of(json.load(f))
    except (FileNotFoundError, ValueError):
        return 0


def _running(places: Iterable[bytes]) -> Iterator[int]:
    """Runtimes at work with files in these directories. Their names are unique, and so say more than a pid could."""
    wanted = tuple(places)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue  # it has ended
        if any(word.startswith(wanted) for word in words):
            yield int(pid)


def refused(container_id: str, done: Completed) -> Exception:
    """Why the runtime did not start a process."""
    text = said(done.stderr)
    if "does not exist" in text or "cannot exec in a stopped" in text or "not running" in text:
        # The only judgement by text: no runtime gives these two an exit code of their own.
        return NotFound("container", container_id, f"container is not created or running: {text}")
    return RuntimeFailure(
        f"command error: {text}, stdout: {said(done.stdout)}, exit code {done.code} (container {container_id})"
    )


def missing(handler: Handler, error: NativeError) -> RuntimeFailure:
    """The runtime's program itself cannot be executed."""
    return RuntimeFailure(
        f"OCI runtime of handler {handler.name!r} cannot be executed: {handler.path}: {error.strerror}; check "
        f"runtime_path in crio.runtime.runtimes.{handler.name}"
    )


def said(text: bytes) -> str:
    """What a program said, as one line of at most 2000 characters."""
    return " ".join(text.decode("utf-8", "replace").split())[-2000:] or "no message"


class _Scratch:
    """Process document and pid file of one exec. They live on tmpfs and are a few kB: plain calls will do."""

    def __init__(self, directory: str, process: Mapping[str, Any]) -> None:
        self.directory = tempfile.mkdtemp(prefix=_SCRATCH, dir=directory)
        self.process = os.path.join(self.directory, _PROCESS)
        self.pidfile = os.path.join(self.directory, "pid")
        document, self._mark = mark.put(process)
        with open(self.process, "wb") as f:
            f.write(json.dumps(document).encode("utf-8", "surrogateescape"))

    def pid(self) -> int:
        """The process in our pid namespace; 0 when it never began, -errno when the runtime could not be run."""
        try:
            with open(self.pidfile, "rb") as f:
                return int(f.read() or 0)
        except (FileNotFoundError, ValueError):
            return 0

    def kill(self, *pids: int) -> None:
        """End what the exec has started, wherever it went, and the trees of ``pids``."""
        kill_tree(self.pid(), *pids, others=lambda: mark.bearers(self._mark))

    def close(self) -> None:
        """Remove all of it, also what a runtime that was killed had begun to write. Idempotent."""
        if os.path.isdir(self.directory):
            for name in os.listdir(self.directory):
                os.unlink(os.path.join(self.directory, name))
            os.rmdir(self.directory)

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
