"""Start and control of container monitors (conmon's command line and protocols; facts: monitor.md)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from pycrio._native import proc
from pycrio._native.base import Fd, NativeError
from pycrio._native.pools import offload
from pycrio._native.run import Child, readable, spawn
from pycrio._native.tree import kill_tree
from pycrio._native.watch import ARRIVALS, NEW_NAMES, DirectoryWatch
from pycrio.errors import NotFound, RuntimeFailure, StoreFailure, Timeout
from pycrio.model.container import ExitReport
from pycrio.model.requests import MonitorReport, MonitorRequest
from pycrio.obs import log as obslog
from pycrio.obs import trace

log = obslog.get("monitor")
REPORT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """Directories and switches of the configuration. ``prefix`` goes before the monitor (``taskset …``)."""

    exits_dir: str
    attach_dir: str
    log_level: str = "info"
    log_size_max: int = -1
    log_to_journald: bool = False
    systemd_cgroup: bool = False
    no_pivot: bool = False
    prefix: tuple[str, ...] = ()


class CgroupPlacer(Protocol):
    """Moves a monitor to where the configuration wants it."""

    async def place(self, pid: int, request: MonitorRequest) -> None: ...


class Monitors:
    """See ``flows.ports.Monitors``. ``placer`` may be None: monitors then stay in the daemon's cgroup."""

    def __init__(self, settings: Settings, placer: CgroupPlacer | None = None) -> None:
        self.settings = settings
        self._placer = placer
        for directory in (settings.exits_dir, settings.attach_dir):
            os.makedirs(directory, mode=0o755, exist_ok=True)

    # --- create ---------------------------------------------------------------------------------------------------

    def arguments(self, request: MonitorRequest) -> list[str]:
        """The monitor's command line."""
        s, handler, bundle = self.settings, request.handler, request.bundle
        args = [*s.prefix, handler.monitor_path, "-b", bundle, "-c", request.container_id]
        args += ["--exit-dir", s.exits_dir, "-l", request.log_path, "--log-level", _LEVELS.get(s.log_level, "info")]
        args += ["-n", request.name, "-P", f"{bundle}/conmon-pidfile", "-p", f"{bundle}/pidfile"]
        args += ["--persist-dir", request.persist_dir, "-r", handler.path, "--runtime-arg", f"--root={handler.root}"]
        args += ["--socket-dir-path", s.attach_dir, "--syslog", "-u", request.container_id]
        if s.systemd_cgroup:
            args.append("-s")
        if s.log_size_max >= 0:
            args += ["--log-size-max", str(s.log_size_max)]
        if s.log_to_journald:
            args += ["--log-path", "journald:"]
        if handler.no_sync_log:
            args.append("--no-sync-log")
        if s.no_pivot:
            args.append("--no-pivot")
        if request.restore_from:
            args += ["--restore", request.restore_from]
            for option in request.restore_options:
                args += ["--runtime-opt", option]
        if request.tty:
            args.append("-t")
        if request.stdin and not request.stdin_once:  # a terminal's input outlasts its first client, too
            args.append("--leave-stdin-open")
        if request.stdin:
            args.append("-i")
        return args

    async def create(self, request: MonitorRequest) -> MonitorReport:
        """Start a monitor, which has the runtime create the container.

        On failure, timeout and cancellation the monitor is killed and the runtime's half-made container is left to the
        caller's ``runtime.delete``.
        """
        with trace.span("monitor create", {"process.executable.path": request.handler.monitor_path}):
            return await self._create(request)

    async def _create(self, request: MonitorRequest) -> MonitorReport:
        sync_read, sync_write = os.pipe2(os.O_CLOEXEC)
        start_read, start_write = os.pipe2(os.O_CLOEXEC)
        said = os.memfd_create("monitor-stderr")  # until it has gone to the background, where it has other ways
        opened = {sync_read, sync_write, start_read, start_write, said}
        child: Child | None = None
        try:
            child = await offload("proc", self._spawn, request, {2: said, 3: sync_write, 4: start_read})
            for fd in (sync_write, start_read):
                os.close(fd)
                opened.discard(fd)
            if self._placer is not None:
                await self._placer.place(child.pid, request)
            with contextlib.suppress(BrokenPipeError):  # it has ended already: its code says more
                os.write(start_write, b"\0")
            os.close(start_write)
            opened.discard(start_write)
            return await asyncio.wait_for(_begun(child, sync_read, said, request), request.handler.create_timeout)
        except NativeError as e:
            raise RuntimeFailure(
                f"monitor of handler {request.handler.name!r} cannot be executed: {request.handler.monitor_path}: "
                f"{e.strerror}; check monitor_path"
            ) from e
        except (asyncio.TimeoutError, TimeoutError) as e:
            await _end(child, request)
            raise Timeout(
                f"create container timeout: the runtime of container {request.container_id} did not finish within "
                f"{request.handler.create_timeout} s"
            ) from e
        except BaseException:
            await _end(child, request)
            raise
        finally:
            for fd in opened:
                os.close(fd)

    def _spawn(self, request: MonitorRequest, fds: dict[int, int]) -> Child:
        env = dict(item.partition("=")[::2] for item in request.handler.monitor_env)
        env.setdefault("PATH", os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
        if "XDG_RUNTIME_DIR" in os.environ:
            env.setdefault("XDG_RUNTIME_DIR", os.environ["XDG_RUNTIME_DIR"])
        env |= {"_OCI_SYNCPIPE": "3", "_OCI_STARTPIPE": "4", "CRI_O_EXTERNAL": "1"}
        # A monitor protects itself, and gives its runtime the score that it was started with.
        score = request.oom_score_adj
        return spawn(self.arguments(request), env=env, cwd=request.bundle, fds=fds, oom_score_adj=score)

    # --- control --------------------------------------------------------------------------------------------------

    async def reopen_log(self, bundle: str, log_path: str) -> None:
        """Have the log reopened; returns when the new file has arrived, or at once when the monitor writes to the file
        of that name already: it would put an empty one in its place, and what was written since an earlier request,
        whose answer was lost, with it.

        NotFound when the monitor is not there or ends before, RuntimeFailure when the directory cannot be watched.
        """
        arrived = asyncio.Event()
        name = os.path.basename(log_path)
        try:  # of a monitor that dies CLOSE_WRITE would come, too
            watch = DirectoryWatch(lambda _, n: arrived.set() if n in (name, "") else None, NEW_NAMES)
        except NativeError as e:
            raise RuntimeFailure(f"log directory of {log_path} cannot be watched: {e}") from e
        try:
            watch.add(os.path.dirname(log_path))
            with _pidfd_of_monitor(bundle) as monitor:
                if not await offload("proc", _has_open, _read_pid(f"{bundle}/conmon-pidfile"), log_path):
                    await offload("proc", _command, f"{bundle}/ctl", b"2 0 0\n")
                    await _unless_ended(arrived, monitor, bundle)
        except NativeError as e:
            raise RuntimeFailure(f"log {log_path} cannot be reopened: {e}") from e
        finally:
            watch.close()

    async def resize(self, bundle: str, width: int, height: int) -> None:
        """Set the size of the container's terminal."""
        await offload("proc", _command, f"{bundle}/ctl", b"1 %d %d\n" % (height, width))

    async def attach(self, container_id: str, bundle: str) -> int:
        """A connected SOCK_SEQPACKET descriptor of the attach socket; the caller owns it."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            await offload("proc", _connect, sock, os.path.join(bundle, "attach"))
        except OSError as e:
            sock.close()
            raise NotFound("attach socket of container", container_id, str(e)) from e
        return sock.detach()

    # --- exits ----------------------------------------------------------------------------------------------------

    async def exits(self) -> AsyncIterator[ExitReport]:
        """Exits as they are recorded, those that are there already first."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        watch = DirectoryWatch(lambda _, name: queue.put_nowait(name), ARRIVALS)
        try:
            watch.add(self.settings.exits_dir)
            for name in sorted(os.listdir(self.settings.exits_dir)):
                queue.put_nowait(name)
            while True:
                name = await queue.get()
                if not name:  # events were lost: read the directory anew
                    for again in sorted(os.listdir(self.settings.exits_dir)):
                        queue.put_nowait(again)
                    continue
                report = await offload("proc", self._read_exit, name)
                if report is not None:
                    yield report
        finally:
            watch.close()

    def _read_exit(self, container_id: str) -> ExitReport | None:
        if "." in container_id:  # the monitor's temporary name
            return None
        return read_exit(os.path.join(self.settings.exits_dir, container_id), container_id)

    async def exit_of(self, container_id: str, persist_dir: str) -> ExitReport | None:
        """The recorded exit of one container."""
        for path in (os.path.join(self.settings.exits_dir, container_id), os.path.join(persist_dir, "exit")):
            report = await offload("proc", read_exit, path, container_id)
            if report is not None:
                return report
        return None

    def oom_recorded(self, persist_dir: str, bundle: str) -> bool:
        """True when the monitor saw an out-of-memory kill (two look-ups on tmpfs or a warm directory)."""
        return os.path.exists(os.path.join(persist_dir, "oom")) or os.path.exists(os.path.join(bundle, "oom"))

    async def forget_exit(self, container_id: str) -> None:
        """Remove the exit file, and the attach link that a killed monitor left; absent is fine."""
        for directory in (self.settings.exits_dir, self.settings.attach_dir):
            await offload("proc", _unlink, os.path.join(directory, container_id))


_LEVELS = {"trace": "trace", "debug": "debug", "info": "info", "warn": "warn", "warning": "warn", "error": "error"}


def read_exit(path: str, container_id: str) -> ExitReport | None:
    """An exit file: the code as digits; its mtime is the time of the end. None when absent or garbage."""
    try:
        with open(path, "rb") as f:
            text, info = f.read(32), os.fstat(f.fileno())
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StoreFailure(f"exit file {path} cannot be read: {e.strerror}") from e
    if not stat.S_ISREG(info.st_mode) or not text.strip().lstrip(b"-").isdigit():
        log.warning("Exit file is not a number, ignored", path=path)
        return None
    return ExitReport(container_id, int(text), info.st_mtime_ns)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as e:
        raise StoreFailure(f"{path} cannot be removed: {e.strerror}") from e


def _read_pid(path: str) -> int:
    try:
        with open(path, "rb") as f:
            return int(f.read() or 0)
    except (OSError, ValueError):
        return 0


async def _begun(child: Child, sync_fd: int, said_fd: int, request: MonitorRequest) -> MonitorReport:
    """Wait until the monitor has gone to the background and the runtime has made the container."""
    code = await child.wait()
    if code != 0:
        said = " ".join(os.pread(said_fd, 2000, 0).decode("utf-8", "replace").split())
        raise RuntimeFailure(
            f"monitor {request.handler.monitor_path} of container {request.container_id} ended with code "
            f"{code} before it began: {said or 'see its messages in syslog'}"
        )
    pid = await _first_report(sync_fd, request)
    monitor_pid = _read_pid(f"{request.bundle}/conmon-pidfile")
    return MonitorReport(pid, proc.start_time(pid), monitor_pid, proc.start_time(monitor_pid) if monitor_pid else 0)


async def _end(child: Child | None, request: MonitorRequest) -> None:
    """Kill a monitor that has not begun or whose container is not wanted, with the runtime that it waits for."""
    if child is None:
        return
    if child.poll() is None:
        await offload("proc", kill_tree, child.pid)
        await child.wait()
    await offload("proc", kill_tree, _read_pid(f"{request.bundle}/conmon-pidfile"))


def _connect(sock: socket.socket, path: str) -> None:
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # socket addresses hold 108 bytes: go through the directory's descriptor
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def _pidfd_of_monitor(bundle: str) -> Fd:
    pid = _read_pid(f"{bundle}/conmon-pidfile")
    try:
        return Fd(os.pidfd_open(pid))
    except OSError as e:
        raise NotFound("monitor", str(pid), f"the monitor of {bundle} has ended: {e.strerror}") from e


def _has_open(pid: int, path: str) -> bool:
    """Whether the process has the file of this name open, under whatever name it opened it."""
    try:
        file = os.stat(path)
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.path.samestat(file, os.stat(f"/proc/{pid}/fd/{name}")):
                return True
    return False


async def _unless_ended(event: asyncio.Event, process: Fd, bundle: str) -> None:
    """Wait for the event; NotFound when the monitor ends before it."""
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(readable(process.fileno()))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)  # the descriptor is closed after this
    if not event.is_set():
        raise NotFound("monitor", bundle, "the container's monitor ended before it answered")


def _command(fifo: str, line: bytes) -> None:
    """Write one line to a control fifo; NotFound when no monitor reads it."""
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise NotFound("control fifo", fifo, f"the container's monitor does not read it: {e.strerror}") from e
    try:
        os.write(fd, line)
    except OSError as e:
        raise RuntimeFailure(f"control fifo {fifo} refused a command: {e.strerror}") from e
    finally:
        os.close(fd)


async def _first_report(fd: int, request: MonitorRequest) -> int:
    """The pid from the monitor's first JSON line; RuntimeFailure with the runtime's words for pid -1."""
    os.set_blocking(fd, False)
    text = b""
    while b"\n" not in text and len(text) < REPORT_LIMIT:
        await readable(fd)
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        text += chunk
    try:
        document: Any = json.loads(text.partition(b"\n")[0].decode("utf-8", "replace"))
        pid = int(document.get("data", document.get("pid")))
    except (ValueError, AttributeError, TypeError) as e:
        raise RuntimeFailure(
            f"error reading container (probably exited) json message: the monitor of {request.container_id} said "
            f"{text[:200]!r}"
        ) from e
    if pid <= 0:
        verb = "restore" if request.restore_from else "create"
        message = " ".join(str(document.get("message", "")).split())
        raise RuntimeFailure(f"container {verb} failed" + (f": {message}" if message else ""))
    return pid
