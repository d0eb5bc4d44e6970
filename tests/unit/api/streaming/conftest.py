"""A streaming server on a fake node whose commands are plain programs of this machine, on real pipes and terminals."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pathlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.streaming.server import StreamServer, StreamSettings
from pycrio.drivers.runtime.session import start_session
from pycrio.errors import NetworkFailure
from pycrio.flows.node_state import Node
from pycrio.flows.ports import ExecRequest, ExecSession
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.pod import PodRecord
from tests.fakes.node import FakeHost, container_config, fake_node, pod_config

CONTAINER, POD = "c" * 64, "d" * 64


class LocalRuntime:
    """Exec runs the command here instead of in a container."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self._open: set[object] = set()
        self.fail: Exception | None = None

    async def exec_stream(self, request: ExecRequest, tty: bool, stdin: bool) -> ExecSession:
        if self.fail is not None:
            raise self.fail
        token = object()
        self._open.add(token)
        pids: list[int] = []
        session = await start_session(
            list(request.process["args"]),
            tty=tty,
            stdin=stdin,
            on_close=lambda: self._open.discard(token),
            pid=lambda: pids[0] if pids else 0,
        )
        pids.append(session._child.pid)
        self.pids.append(pids[0])
        return session

    @property
    def running(self) -> int:
        """Sessions that were not closed."""
        return len(self._open)


class LocalMonitors:
    """Attach gives one end of a pair of packet sockets; the test is the monitor at the other end."""

    def __init__(self) -> None:
        self.attached: list[socket.socket] = []
        self.more = asyncio.Event()
        self.sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    async def attach(self, container_id: str, bundle: str) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.attached.append(ours)
        self.more.set()
        return theirs.detach()

    async def resize(self, bundle: str, width: int, height: int) -> None:
        self.sizes.put_nowait((width, height))


class LocalNamespaces:
    """Ports of a pod are ports of this machine."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def connect(self, netns: str, port: int) -> int:
        self.asked.append((netns, port))
        try:
            return socket.create_connection(("127.0.0.1", port)).detach()
        except OSError as e:
            raise NetworkFailure(f"connection to port {port} failed: {e.strerror}") from e


@dataclass
class Rig:
    """The server and what is behind it."""

    node: Node
    fake: FakeHost
    server: StreamServer
    runtime: LocalRuntime
    monitors: LocalMonitors
    namespaces: LocalNamespaces
    clients: list[Any] = field(default_factory=list)

    async def exec(self, *argv: str, stdin: bool = False, tty: bool = False, **streams: bool) -> str:
        """A URL for a command."""
        streams = {"stdout": True, "stderr": not tty, **streams}
        return await self.server.exec(pb.ExecRequest(container_id=CONTAINER, cmd=argv, stdin=stdin, tty=tty, **streams))

    async def attach(self, ident: str = CONTAINER, stdin: bool = False, tty: bool = False, **streams: bool) -> str:
        streams = {"stdout": True, "stderr": not tty, **streams}
        return await self.server.attach(pb.AttachRequest(container_id=ident, stdin=stdin, tty=tty, **streams))

    async def forward(self, *ports: int, pod: str = POD) -> str:
        return await self.server.port_forward(pb.PortForwardRequest(pod_sandbox_id=pod, port=ports))

    def add(self, ident: str, **config: Any) -> None:
        """A running container."""
        number = next(_numbers)
        record = ContainerRecord(
            id=ident,
            name=f"k8s_app{number}",
            pod_id=POD,
            config=container_config(**config),
            handler="",
            image_id="",
            image_ref="",
            image_name="",
            created_at=1,
            bundle=f"/bundle/{ident}",
            persist_dir="/persist",
            rootfs="/rootfs",
            state=ContainerState.RUNNING,
        )
        self.node.containers.put(record)
        self.fake.files.files[f"{record.bundle}/config.json"] = b'{"process": {"args": ["sh"], "cwd": "/"}}'

    @property
    def sessions(self) -> int:
        """Connections that are being served."""
        return len(self.server._clients)


_numbers = itertools.count()
MakeRig = Callable[..., AbstractAsyncContextManager[Rig]]


@contextlib.asynccontextmanager
async def running(directory: pathlib.Path, **settings: Any) -> AsyncIterator[Rig]:
    """A started server with one pod and one container; afterwards nothing of its sessions is left."""
    fds = len(os.listdir("/proc/self/fd"))
    async with fake_node(str(directory)) as (node, fake):
        runtime, monitors, namespaces = LocalRuntime(), LocalMonitors(), LocalNamespaces()
        fake.host.runtime = runtime  # type: ignore[assignment]
        fake.host.monitors = monitors  # type: ignore[assignment]
        fake.host.namespaces = namespaces  # type: ignore[assignment]
        before = asyncio.all_tasks()
        server = StreamServer(node, StreamSettings(**settings))
        rig = Rig(node, fake, server, runtime, monitors, namespaces)
        pod = PodRecord(POD, "web", pod_config(), "", "", 1, "/run/pod", namespaces={"net": "/run/netns/web"})
        node.pods.put(pod)
        rig.add(CONTAINER)
        await server.start()
        try:
            yield rig
        finally:
            await server.close()
            for sock in monitors.attached:
                sock.close()
        assert runtime.running == 0
        left = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()}
        assert not left, left
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= fds + 1, os.listdir("/proc/self/fd")  # the native pools' own, once


@pytest.fixture
def make_rig(tmp_path: pathlib.Path) -> MakeRig:
    """``async with make_rig(idle_timeout=…) as rig``."""
    numbers = itertools.count()
    return lambda **settings: running(tmp_path / str(next(numbers)), **settings)


@pytest.fixture
async def rig(tmp_path: pathlib.Path) -> AsyncIterator[Rig]:
    """A server with the defaults."""
    async with running(tmp_path) as rig:
        yield rig
