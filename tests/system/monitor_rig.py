"""A container monitor under test: real runc, a busybox root, the pipes and files that a daemon would hold."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

OURS = pathlib.Path(__file__).resolve().parents[2] / "pycrio" / "_native" / "bin" / "pycrio-monitor"
CONMON = pathlib.Path("/usr/bin/conmon")
RUNC = "/usr/sbin/runc"
APPLETS = ("sh", "sleep", "echo", "cat", "dd", "head", "yes", "stty", "true", "printf", "seq", "kill", "trap", "tty")

BASE_CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["true"],
        "env": ["PATH=/bin"],
        "cwd": "/",
    },
    "root": {"path": "rootfs"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
}


def wait_for(fd: int, events: int = select.POLLIN, seconds: float = 20) -> None:
    """Wait for a descriptor; a hang of the program under test becomes a failure."""
    poll = select.poll()
    poll.register(fd, events)
    assert poll.poll(seconds * 1000), "nothing happened in time"


@dataclass
class Reader:
    """The daemon's end of a pipe: JSON lines, one at a time."""

    fd: int
    rest: bytes = b""

    def line(self) -> dict[str, Any] | None:
        while b"\n" not in self.rest:
            wait_for(self.fd)
            data = os.read(self.fd, 65536)
            if not data:
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        value = json.loads(line)
        assert isinstance(value, dict)
        return value


@dataclass
class Rig:
    """One container (or none yet) with its monitor, below a scratch directory."""

    program: pathlib.Path
    base: pathlib.Path
    name: str = "test-container-0123"
    tty: bool = False
    monitor_pid: int = -1
    sync: Reader | None = None
    closers: list[int] = field(default_factory=list)
    runtime: str = RUNC
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    clients: list[socket.socket] = field(default_factory=list)

    @property
    def bundle(self) -> pathlib.Path:
        return self.base / "bundle"

    @property
    def log_path(self) -> pathlib.Path:
        return self.base / "logs" / "log"

    @property
    def root_argument(self) -> str:
        return f"--root={self.base / 'runc'}"

    def prepare(self, script: str, *, tty: bool = False, **changes: Any) -> None:
        """Write the bundle: sh -c script; changes are merged into the linux part."""
        config = copy.deepcopy(BASE_CONFIG)
        config["process"]["args"] = ["sh", "-c", script]
        config["process"]["terminal"] = tty
        config["linux"] |= {"cgroupsPath": f"/pycrio-test/{self.base.name}"} | changes
        self.tty = tty
        rootfs = self.bundle / "rootfs"
        (rootfs / "bin").mkdir(parents=True)
        for directory in ("proc", "dev", "tmp"):
            (rootfs / directory).mkdir()
        shutil.copy("/bin/busybox", rootfs / "bin" / "busybox")
        for applet in APPLETS:
            (rootfs / "bin" / applet).symlink_to("busybox")
        (self.bundle / "config.json").write_text(json.dumps(config))
        for directory in ("logs", "exits", "persist", "socks", "runc"):
            (self.base / directory).mkdir()

    def arguments(self) -> list[str]:
        """What a daemon passes on create."""
        return [
            *("-b", str(self.bundle), "-c", self.name, "-u", self.name, "-n", "name", "-r", self.runtime),
            *("--runtime-arg", self.root_argument, "-p", str(self.bundle / "pidfile")),
            *("-P", str(self.bundle / "conmon-pidfile"), "--exit-dir", str(self.base / "exits")),
            *("--persist-dir", str(self.base / "persist"), "--socket-dir-path", str(self.base / "socks")),
            *("-l", str(self.log_path)),
            *(("-t",) if self.tty else ()),
        ]

    def launch(self, arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start the monitor with sync and start pipes, let it go at once."""
        sync_read, sync_write = os.pipe()
        start_read, start_write = os.pipe()
        names = {"_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(start_read)}
        process = subprocess.Popen(
            [str(self.program), *arguments],
            pass_fds=[sync_write, start_read],
            env={**os.environ, **names, **environment},
            cwd=self.bundle,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.children.append(process)
        os.close(sync_write)
        os.close(start_read)
        os.write(start_write, b"\0")
        os.close(start_write)
        self.closers.append(sync_read)
        self.sync = Reader(sync_read)
        return process

    def create(self, *extra: str, **environment: str) -> dict[str, Any]:
        """Create the container; the first report on the sync pipe."""
        process = self.launch([*self.arguments(), *extra], **environment)
        assert process.wait(20) == 0, process.stderr and process.stderr.read()
        self.monitor_pid = int((self.bundle / "conmon-pidfile").read_text())
        assert self.sync
        report = self.sync.line()
        assert report is not None
        return report

    def runc(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([RUNC, self.root_argument, *arguments], capture_output=True, check=False, timeout=30)

    def start(self) -> None:
        result = self.runc("start", self.name)
        assert result.returncode == 0, result.stderr

    def run(self, *extra: str) -> None:
        assert self.create(*extra)["pid"] > 0
        self.start()

    def exit_code(self) -> int:
        """Wait for the monitor's end, then read both exit files."""
        with pidfd(self.monitor_pid) as fd:
            if fd is not None:
                wait_for(fd)
        code = (self.base / "exits" / self.name).read_text()
        assert (self.base / "persist" / "exit").read_text() == code
        return int(code)

    def wait_log(self, text: bytes, seconds: float = 20) -> bytes:
        """The log once it holds text."""
        deadline = time.monotonic() + seconds
        while True:
            content = self.log_path.read_bytes() if self.log_path.exists() else b""
            if text in content:
                return content
            assert time.monotonic() < deadline, content[-2000:]
            with inotify_wait(self.log_path.parent):
                pass

    def attach(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.clients.append(client)
        client.connect(str(self.base / "socks" / self.name / "attach"))
        client.settimeout(20)
        return client

    def control(self, line: bytes, fifo: str = "ctl") -> None:
        fd = os.open(self.bundle / fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, line)
        os.close(fd)

    def close(self) -> None:
        """Whatever a test left: container, monitor, descriptors."""
        for client in self.clients:
            client.close()
        self.runc("delete", "-f", self.name)
        if self.monitor_pid > 0:
            with pidfd(self.monitor_pid) as fd:
                if fd is not None and not select.select([fd], [], [], 10)[0]:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
        for fd in self.closers:
            os.close(fd)
        for process in self.children:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
        for controller in pathlib.Path("/sys/fs/cgroup").iterdir():
            with contextlib.suppress(OSError):
                (controller / "pycrio-test" / self.base.name).rmdir()
            with contextlib.suppress(OSError):
                (controller / "pycrio-test").rmdir()


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int | None]:
    """A pidfd, None when the process is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def inotify_wait(directory: pathlib.Path) -> Iterator[None]:
    """Pause until something happens in directory, or a tenth of a second: an event may have come before the watch."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd >= 0
    try:
        libc.inotify_add_watch(fd, os.fsencode(directory), 0x2 | 0x100 | 0x80)
        select.select([fd], [], [], 0.1)
        yield
    finally:
        os.close(fd)


def packets(client: socket.socket, until: bytes | None = None, size: int | None = None) -> dict[int, bytes]:
    """Output of an attached client by stream, up to a text at the end of a stream, a size, or the end of all."""
    seen = {2: bytearray(), 3: bytearray()}
    while True:
        packet = client.recv(16384)
        if not packet:
            assert until is None
            assert size is None
            break
        assert len(packet) <= 8193
        stream = seen[packet[0]]
        stream += packet[1:]
        if (until is not None and stream.endswith(until)) or (size is not None and len(seen[2]) >= size):
            break
    return {number: bytes(stream) for number, stream in seen.items()}
