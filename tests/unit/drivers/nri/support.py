"""A plugin that speaks the protocol by itself (framing written a second time, on purpose), and a node for the hub."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

from google.protobuf.message import Message

from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.nri import Nri
from pycrio.drivers.nri.settings import Settings
from pycrio.errors import RuntimeFailure
from pycrio.model.container import ContainerConfig, ContainerMetadata, ContainerRecord
from pycrio.model.image import ImageSpec
from pycrio.model.nri import Eviction, LimitChange, NriContainer, NriEvent, NriState
from pycrio.model.pod import PodConfig, PodMetadata, PodRecord
from pycrio.ttrpc._pb import ttrpc_pb2

REQUESTS: dict[str, tuple[type[Message], type[Message]]] = {
    m.name: (getattr(pb, m.input_type.name), getattr(pb, m.output_type.name))
    for m in pb.DESCRIPTOR.services_by_name["Plugin"].methods
}
Handler = Callable[[Any], Any]


class Refusal(Exception):
    """What a handler raises to answer with a status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class FakePlugin:
    """``handlers`` answer calls by method name with a message (or an awaitable of one); a method without handler gets
    an empty answer, unless it is in ``missing``. ``calls`` are the methods in order, ``got`` each one's last request,
    ``told`` its metadata.
    """

    everyone: ClassVar[list[FakePlugin]] = []

    def __init__(self, name: str = "test", index: str = "10", events: int = 0, **handlers: Handler) -> None:
        self.name, self.index, self.events = name, index, events
        self.handlers = handlers
        self.missing: set[str] = set()
        self.calls: list[str] = []
        self.got: dict[str, Any] = {}
        self.told: dict[str, dict[str, str]] = {}
        self.closed = asyncio.Event()
        self.synchronized = asyncio.Event()
        self._next = 1
        self._waiting: dict[int, asyncio.Future[ttrpc_pb2.Response]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, path: str) -> FakePlugin:
        self.reader, self.writer = await asyncio.open_unix_connection(path)
        self.everyone.append(self)
        self._pump = asyncio.get_running_loop().create_task(self._read())
        return self

    async def join(self, path: str) -> FakePlugin:
        """Connect, register, and wait until the runtime has configured and synchronised it."""
        await self.connect(path)
        await self.register()
        await self.synchronized.wait()
        return self

    async def register(self) -> None:
        request = pb.RegisterPluginRequest(plugin_name=self.name, plugin_idx=self.index, NRI_version="v0.12.0")
        await self.call("RegisterPlugin", request)

    async def call(self, method: str, request: Message, service: str = "Runtime", flags: int = 0) -> bytes:
        """The answer's payload; Refusal for a status."""
        stream, self._next = self._next, self._next + 2
        data = ttrpc_pb2.Request(
            service=f"nri.pkg.api.v1alpha1.{service}", method=method, payload=request.SerializeToString()
        ).SerializeToString()
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        self.send(2, struct.pack(">IIBB", len(data), stream, 1, flags) + data)
        response = await self._waiting[stream]
        del self._waiting[stream]
        if response.status.code:
            raise Refusal(response.status.code, response.status.message)
        return response.payload

    def send(self, conn: int, data: bytes) -> None:
        self.writer.write(struct.pack(">II", conn, len(data)) + data)

    async def leave(self) -> None:
        self.writer.close()
        await self.closed.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._pump, *self._tasks, return_exceptions=True)
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def _read(self) -> None:
        parts = {1: b"", 2: b""}
        try:
            while True:
                conn, length = struct.unpack(">II", await self.reader.readexactly(8))
                parts[conn] += await self.reader.readexactly(length)
                while len(parts[conn]) >= 10:
                    size, stream, kind, _ = struct.unpack(">IIBB", parts[conn][:10])
                    if len(parts[conn]) < 10 + size:
                        break
                    data, parts[conn] = parts[conn][10 : 10 + size], parts[conn][10 + size :]
                    if conn == 2:
                        self._waiting[stream].set_result(ttrpc_pb2.Response.FromString(data))
                    elif kind == 1:
                        task = asyncio.get_running_loop().create_task(self._serve(stream, data))
                        self._tasks.add(task)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writer.close()
            self.closed.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError("closed"))

    async def _serve(self, stream: int, data: bytes) -> None:
        request = ttrpc_pb2.Request.FromString(data)
        assert request.service == "nri.pkg.api.v1alpha1.Plugin"
        assert request.timeout_nano > 0
        kind, answer = REQUESTS[request.method]
        message = kind.FromString(request.payload)
        self.calls.append(request.method)
        self.got[request.method] = message
        self.told[request.method] = {header.key: header.value for header in request.metadata}
        response = ttrpc_pb2.Response()
        try:
            response.payload = (await self._answer(request.method, message, answer)).SerializeToString()
        except Refusal as e:
            response.status.code, response.status.message = e.code, str(e)
        payload = response.SerializeToString()
        self.send(1, struct.pack(">IIBB", len(payload), stream, 2, 0) + payload)
        if request.method == "Synchronize" and not getattr(message, "more", False):
            self.synchronized.set()

    async def _answer(self, method: str, message: Message, answer: type[Message]) -> Message:
        if method in self.missing:
            raise Refusal(12, f"method {method}")
        handler = self.handlers.get(method)
        if handler is not None:
            found = handler(message)
            result: Message = await found if isinstance(found, Awaitable) else found
            return result
        if method == "Configure":
            return pb.ConfigureResponse(events=self.events)
        if method == "Synchronize":
            return pb.SynchronizeResponse(more=getattr(message, "more", False))
        return answer()


def bits(*events: NriEvent) -> int:
    """An event mask."""
    return sum(1 << (e.value - 1) for e in events)


class FakeView:
    """A node with whatever a test puts in."""

    def __init__(self) -> None:
        self.pods: list[PodRecord] = []
        self.containers: list[NriContainer] = []
        self.changes: list[LimitChange] = []
        self.evictions: list[Eviction] = []
        self.refuse: set[str] = set()
        self.changed = asyncio.Event()

    async def state(self) -> NriState:
        return NriState(tuple(self.pods), tuple(self.containers))

    async def change(self, change: LimitChange) -> None:
        if change.container_id in self.refuse:
            raise RuntimeFailure("these limits cannot hold")
        self.changes.append(change)
        self.changed.set()

    def evict(self, eviction: Eviction) -> None:
        self.evictions.append(eviction)


def nothing(document: dict[str, Any], names: object) -> None:
    """CDI injection that only notes the names."""
    document["injected"] = list(names)  # type: ignore[call-overload]


@contextlib.asynccontextmanager
async def runtime(path: str, **changes: Any) -> AsyncIterator[tuple[Nri, FakeView]]:
    """The driver, listening at ``path``."""
    view = FakeView()
    values = {"plugin_dir": "/nonexistent", "config_dir": "/nonexistent", "version": "1.0", **changes}
    nri = Nri(Settings(listen=path, **values), nothing, lambda source: "private" if "private" in source else "shared")
    await nri.open(view)
    try:
        yield nri, view
    finally:
        await nri.close()
        while FakePlugin.everyone:
            await FakePlugin.everyone.pop().leave()


async def joined(nri: Nri, count: int) -> None:
    """Wait until so many plugins are in: a plugin's last answer is on its way before the hub has read it."""
    hub, counted = nri._loaded(), asyncio.Event()
    original = hub._count

    def count_and_tell() -> None:
        original()
        counted.set()

    setattr(hub, "_count", count_and_tell)  # noqa: B010
    try:
        while len(hub.plugins) != count:
            counted.clear()
            await counted.wait()
    finally:
        del hub._count


def pod(ident: str = "p1", **changes: Any) -> PodRecord:
    """A pod."""
    config = PodConfig(PodMetadata("web", "uid-1", "default"), labels={"a": "b"}, annotations={"k": "v"})
    values = {"namespaces": {"net": "/run/ns/net"}, "ips": ("10.0.0.2",), **changes}
    return PodRecord(ident, f"k8s_{ident}", config, "runc", "", 1, f"/run/{ident}", **values)


def container(ident: str = "c1", **changes: Any) -> NriContainer:
    """A container with a plain OCI config."""
    config = ContainerConfig(ContainerMetadata("app"), ImageSpec("busybox"))
    record = ContainerRecord(
        ident, f"k8s_{ident}", "p1", config, "runc", "a" * 64, "busybox@sha256:" + "b" * 64, "busybox:1", 1, "/b", "/p",
        "/r", **changes,
    )  # fmt: skip
    return NriContainer(record, document())


def document() -> dict[str, Any]:
    """An OCI config."""
    return {
        "hostname": "web",
        "annotations": {"own": "1"},
        "process": {"args": ["sh"], "env": ["PATH=/bin", "A=1"], "user": {"uid": 5, "gid": 6, "additionalGids": [7]}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "uts", "path": "/run/ns/uts"}],
            "devices": [
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}
            ],
            "resources": {
                "cpu": {"shares": 512},
                "memory": {"limit": 1 << 26, "swap": 1 << 26},
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                ],
            },
        },
    }
