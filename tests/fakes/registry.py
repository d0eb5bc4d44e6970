"""A registry on loopback that follows a script: by default it is honest, and a test makes it lie in one way.

Raw asyncio instead of a web framework, because most lies (wrong lengths, cut connections, endless bodies) are things
that a framework would not let pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fixtures_registry import Built, digest_of


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


@dataclass
class Reply:
    """What it gets. ``length`` overrides Content-Length ("" = none); the connection is closed after ``cut`` bytes of
    the body, if given; ``stream`` goes on after the body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: str | None = None
    cut: int | None = None
    stream: AsyncIterator[bytes] | None = None


Handler = Callable[[Request], "Reply | Awaitable[Reply | None] | None"]


class FakeRegistry:
    """Use as an async context manager; ``address`` is ``host:port``. ``rules`` are asked first, in their order."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.rules: list[Handler] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.ranges = True
        self._tls = tls
        self._host = host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FakeRegistry:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"{self._host}:{self._server.sockets[0].getsockname()[1]}"

    def add(self, image: Built, name: str) -> str:
        """Serve an image as ``repository:tag`` and by digest; answers the full reference."""
        repository, _, tag = name.partition(":")
        self.blobs.update(image.blobs)
        self.put(repository, tag, image.manifest, image.media_type)
        return f"{self.address}/{repository}:{tag}"

    def put(self, repository: str, tag: str, manifest: bytes, media_type: str) -> None:
        """Serve a manifest by tag and by digest."""
        for name in (tag, digest_of(manifest)):
            self.manifests[repository, name] = (manifest, media_type)

    def on(self, part: str, handler: Handler) -> None:
        """Answer requests whose path contains ``part`` by a handler; None from it means the honest answer."""

        def rule(request: Request) -> Reply | Awaitable[Reply | None] | None:
            return handler(request) if part in request.path else None

        self.rules.append(rule)

    def asked(self, part: str) -> list[Request]:
        """Requests so far whose path contains ``part``."""
        return [request for request in self.requests if part in request.path]

    def honest(self, request: Request) -> Reply:
        """The answer of a registry that works."""
        parts = request.path.split("/")
        if request.path == "/v2/":
            return Reply()
        kind, wanted, repository = parts[-2], parts[-1], "/".join(parts[2:-2])
        if kind == "manifests" and (repository, wanted) in self.manifests:
            body, media_type = self.manifests[repository, wanted]
            return Reply(headers={"Content-Type": media_type, "Docker-Content-Digest": digest_of(body)}, body=body)
        if kind == "blobs" and wanted in self.blobs:
            return self._blob(self.blobs[wanted], request.headers.get("range", ""))
        code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
        return refuse(404, code, "not here")

    def _blob(self, data: bytes, wanted: str) -> Reply:
        if not wanted or not self.ranges:
            return Reply(body=data)
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return Reply(206, headers, data[start:])

    async def _answer(self, request: Request) -> Reply:
        for rule in self.rules:
            found = rule(request)
            reply = await found if isinstance(found, Awaitable) else found
            if reply is not None:
                return reply
        return self.honest(request)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                while await self._one(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # the test is over: a client that was left hanging
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One exchange; False when the connection ends with it."""
        first_byte = await reader.read(1)
        if first_byte in (b"", b"\x16"):  # the end, or the beginning of TLS where plain HTTP is spoken
            return False
        head = (first_byte + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(method, target, headers, body)
        self.requests.append(request)
        reply = await self._answer(request)
        length = reply.length if reply.length is not None else str(len(reply.body))
        fields = {**reply.headers, **({"Content-Length": length} if length else {"Connection": "close"})}
        writer.write(f"HTTP/1.1 {reply.status} Scripted\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode() + b"\r\n")
        if reply.cut is not None:
            writer.write(reply.body[: reply.cut])
            await writer.drain()
            return False
        writer.write(reply.body)
        await writer.drain()
        if reply.stream is not None:
            async for part in reply.stream:
                writer.write(part)
                await writer.drain()
        return bool(length)


def refuse(status: int, code: str, message: str, **headers: str) -> Reply:
    """An error answer in the form of distribution-spec; header names with ``_`` for ``-``."""
    import json

    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Type": "application/json", **named}, body)


def once(reply: Reply) -> Handler:
    """A handler that gives this answer the first time and then lets the honest ones through."""
    left = [reply]
    return lambda request: left.pop() if left else None
