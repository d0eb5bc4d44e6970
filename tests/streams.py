"""Clients of the streaming server for tests: SPDY/3.1 as kubelets speak it, and WebSocket as browsers and kubectl do.

Both can misbehave on purpose: not read, not grant windows, break the protocol, leave in the middle.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio.api.streaming import spdy

CHUNK = 64 << 10
COMMAND_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")


class NotUpgraded(Exception):
    """The server refused; ``status``, ``headers`` (lower case) and ``body`` of its answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"{status}: {body!r}")
        self.status = status
        self.headers = headers
        self.body = body


@dataclass
class Wire:
    """A connection after its answer; ``early`` is what came with it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: dict[str, str]
    early: bytes = b""

    async def read(self) -> bytes:
        if self.early:
            early, self.early = self.early, b""
            return early
        try:
            return await self.reader.read(CHUNK)
        except OSError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def connect(url: str, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urllib.parse.urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)


async def ask(
    url: str, headers: Sequence[tuple[str, str]], method: str = "POST", tls: ssl.SSLContext | None = None
) -> Wire:
    """Send a request to upgrade and read the answer's head; NotUpgraded unless it is 101."""
    parts = urllib.parse.urlsplit(url)
    reader, writer = await connect(url, tls)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", *(f"{n}: {v}" for n, v in headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError):
        writer.transport.abort()
        raise
    status, *rest = raw.decode().split("\r\n")
    code = int(status.split()[1])
    found: dict[str, str] = {}
    for line in filter(None, rest):
        name, _, value = line.partition(":")
        found[name.lower()] = f"{found[name.lower()]}, {value.strip()}" if name.lower() in found else value.strip()
    if code != 101:
        body = await reader.read()
        writer.close()
        await writer.wait_closed()
        raise NotUpgraded(code, found, body)
    return Wire(reader, writer, found)


# --- SPDY -------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Stream:
    """One stream of a client."""

    client: Spdy
    ident: int
    inbox: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    replied: asyncio.Event = field(default_factory=asyncio.Event)
    reset: int = 0
    received: int = 0
    credit: int = 64 << 10

    async def read(self) -> bytes:
        """The next piece; b"" at the end."""
        return await self.inbox.get()

    async def read_all(self) -> bytes:
        """Everything to the end."""
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)

    async def write(self, data: bytes, fin: bool = False) -> None:
        """As clusters' clients do: without regard to windows."""
        for at in range(0, max(len(data), 1), 32 << 10):
            part = data[at : at + (32 << 10)]
            await self.client.send(spdy.Data(self.ident, part, fin and at + len(part) >= len(data)))

    async def close(self) -> None:
        await self.client.send(spdy.Data(self.ident, b"", True))


class Spdy:
    """A SPDY/3.1 connection. With ``honest`` the client keeps to windows and grants them, as the protocol demands."""

    def __init__(self, wire: Wire | Tunnelled, honest: bool = False) -> None:
        self.wire = wire
        self.honest = honest
        self.streams: dict[int, Stream] = {}
        self.pongs: asyncio.Queue[int] = asyncio.Queue()
        self.gone_away: spdy.GoAway | None = None
        self.window = 64 << 10
        self.credit = 64 << 10
        self.changed = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.ended = asyncio.Event()
        self.updates = 0
        self._next = 1
        self._parser = spdy.Parser()
        self._serializer = spdy.Serializer()
        self._pump = asyncio.get_running_loop().create_task(self._run())

    @property
    def protocol(self) -> str:
        """What the server chose."""
        return self.wire.headers.get("x-stream-protocol-version", "")

    async def _run(self) -> None:
        try:
            while True:
                await self.reading.wait()
                if not (data := await self.wire.read()):
                    return
                for frame in self._parser.feed(data):
                    await self._received(frame)
        finally:
            self.ended.set()
            self.changed.set()
            for stream in self.streams.values():
                stream.inbox.put_nowait(b"")

    async def _received(self, frame: spdy.Frame) -> None:
        if isinstance(frame, spdy.Data):
            stream = self.streams[frame.stream]
            if frame.data:
                stream.received += len(frame.data)
                stream.inbox.put_nowait(frame.data)
                if self.honest:
                    await self.send(spdy.WindowUpdate(frame.stream, len(frame.data)))
                    await self.send(spdy.WindowUpdate(0, len(frame.data)))
            if frame.fin:
                stream.inbox.put_nowait(b"")
        elif isinstance(frame, spdy.SynReply):
            self.streams[frame.stream].replied.set()
        elif isinstance(frame, spdy.Reset):
            stream = self.streams[frame.stream]
            stream.reset = frame.status
            stream.replied.set()
            stream.inbox.put_nowait(b"")
        elif isinstance(frame, spdy.Ping):
            self.pongs.put_nowait(frame.ident)
        elif isinstance(frame, spdy.GoAway):
            self.gone_away = frame
        elif isinstance(frame, spdy.Settings):
            for ident, value in frame.values:
                if ident == spdy.INITIAL_WINDOW_SIZE:
                    for stream in self.streams.values():
                        stream.credit += value - self.window
                    self.window = value
                    self.changed.set()
        elif isinstance(frame, spdy.WindowUpdate):
            self.updates += 1
            if frame.stream == 0:
                self.credit += frame.delta
            else:
                self.streams[frame.stream].credit += frame.delta
            self.changed.set()

    async def send(self, frame: spdy.Frame) -> None:
        """One frame; an honest client waits for its windows."""
        if isinstance(frame, spdy.Data) and self.honest:
            stream = self.streams[frame.stream]
            while min(stream.credit, self.credit) < len(frame.data) and not self.ended.is_set():
                self.changed.clear()
                await self.changed.wait()
            stream.credit -= len(frame.data)
            self.credit -= len(frame.data)
        await self.send_raw(self._serializer.dump(frame))

    async def send_raw(self, data: bytes) -> None:
        self.wire.writer.write(data)
        await self.wire.writer.drain()

    async def stream(self, fin: bool = False, **headers: str) -> Stream:
        """Open a stream and wait for the reply; names of headers as keywords."""
        stream = self.streams[self._next] = Stream(self, self._next, credit=self.window)
        self._next += 2
        await self.send(spdy.SynStream(stream.ident, tuple(headers.items()), fin))
        await stream.replied.wait()
        return stream

    async def ping(self) -> None:
        """A round trip."""
        await self.send(spdy.Ping(1))
        assert await self.pongs.get() == 1

    async def close(self) -> None:
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        await self.wire.close()


@contextlib.asynccontextmanager
async def spdy_client(
    url: str, protocols: Iterable[str] = COMMAND_PROTOCOLS, *, honest: bool = False, **how: Any
) -> AsyncIterator[Spdy]:
    """A SPDY connection to a streaming URL."""
    headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        *(("X-Stream-Protocol-Version", p) for p in protocols),
    ]
    client = Spdy(await ask(url, headers, **how), honest)
    try:
        yield client
    finally:
        await client.close()


# --- WebSocket --------------------------------------------------------------------------------------------------------


class WebSocket:
    """A WebSocket of channels; ``text`` for the base64 protocols."""

    def __init__(self, wire: Wire, framing: Any, text: bool, raw: bool) -> None:
        self.wire = wire
        self.framing = framing
        self.text = text
        self.raw = raw
        self.channels: dict[int, asyncio.Queue[bytes]] = {}
        self.pongs = 0
        self.closed: int | None = None
        self.reading = asyncio.Event()
        self.reading.set()
        self.ended = asyncio.Event()
        self._pump = asyncio.get_running_loop().create_task(self._run())

    @property
    def protocol(self) -> str:
        return self.wire.headers.get("sec-websocket-protocol", "")

    def queue(self, channel: int) -> asyncio.Queue[bytes]:
        return self.channels.setdefault(channel, asyncio.Queue())

    async def _run(self) -> None:
        from wsproto import events

        message = b""
        try:
            while True:
                await self.reading.wait()
                if not (data := await self.wire.read()):
                    return
                self.framing.receive_data(data)
                for event in self.framing.events():
                    if isinstance(event, (events.BytesMessage, events.TextMessage)):
                        assert isinstance(event, events.TextMessage) == self.text
                        message += event.data.encode() if isinstance(event, events.TextMessage) else event.data
                        if event.message_finished:
                            self._message(bytes(message))
                            message = b""
                    elif isinstance(event, events.Pong):
                        self.pongs += 1
                    elif isinstance(event, events.CloseConnection):
                        self.closed = event.code
                        with contextlib.suppress(Exception):
                            await self._send(event.response())
                        return
        finally:
            self.ended.set()
            for queue in self.channels.values():
                queue.put_nowait(b"")

    def _message(self, message: bytes) -> None:
        if self.raw:
            self.queue(0).put_nowait(message)
        elif self.text:
            self.queue(message[0] - ord("0")).put_nowait(base64.b64decode(message[1:], validate=True))
        else:
            self.queue(message[0]).put_nowait(message[1:])

    async def _send(self, event: Any) -> None:
        self.wire.writer.write(self.framing.send(event))
        await self.wire.writer.drain()

    async def send(self, channel: int, data: bytes) -> None:
        from wsproto import events

        if self.text:
            await self._send(events.TextMessage(f"{channel}{base64.b64encode(data).decode()}"))
        else:
            await self._send(events.BytesMessage(bytes([channel]) + data))

    async def send_bytes(self, data: bytes) -> None:
        from wsproto import events

        await self._send(events.BytesMessage(data))

    async def ping(self) -> None:
        from wsproto import events

        await self._send(events.Ping())

    async def read(self, channel: int) -> bytes:
        """The next message of a channel."""
        return await self.queue(channel).get()

    async def read_all(self, channel: int) -> bytes:
        """All of a channel, to the connection's end."""
        await self.ended.wait()
        queue, parts = self.queue(channel), []
        while not queue.empty():
            parts.append(queue.get_nowait())
        return b"".join(parts)

    async def close(self) -> None:
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        await self.wire.close()


@contextlib.asynccontextmanager
async def websocket_client(url: str, *protocols: str, **how: Any) -> AsyncIterator[WebSocket]:
    """A WebSocket connection to a streaming URL."""
    from wsproto.connection import Connection, ConnectionType

    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    headers.append(("Sec-WebSocket-Key", base64.b64encode(b"0123456789abcdef").decode()))
    if protocols:
        headers.append(("Sec-WebSocket-Protocol", ", ".join(protocols)))
    wire = await ask(url, headers, **{"method": "GET", **how})
    chosen = wire.headers.get("sec-websocket-protocol", "")
    client = WebSocket(wire, Connection(ConnectionType.CLIENT), "base64" in chosen, chosen.startswith("SPDY"))
    try:
        yield client
    finally:
        await client.close()


class Tunnelled:
    """A WebSocket's byte stream as the wire of a SPDY client."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.headers = socket.wire.headers
        self.writer: Any = self
        self._unsent = b""

    async def read(self) -> bytes:
        return await self._socket.read(0)

    def write(self, data: bytes) -> None:
        self._unsent += data

    async def drain(self) -> None:
        data, self._unsent = self._unsent, b""
        if data:
            await self._socket.send_bytes(data)

    async def close(self) -> None:
        """Its WebSocket is closed by who opened it."""


# --- sessions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a command wrote and how it ended: the error channel's text, parsed when it is a Status."""

    stdout: bytes
    stderr: bytes
    error: bytes

    @property
    def status(self) -> Any:
        return json.loads(self.error)

    @property
    def code(self) -> int:
        """The exit code; the session must have had one."""
        status = self.status
        if status["status"] == "Success":
            return 0
        assert status["reason"] == "NonZeroExitCode", status
        causes = {cause["reason"]: cause["message"] for cause in status["details"]["causes"]}
        return int(causes["ExitCode"])


@dataclass
class Command:
    """A command's open streams over SPDY."""

    client: Spdy
    error: Stream
    stdin: Stream | None = None
    stdout: Stream | None = None
    stderr: Stream | None = None
    resize: Stream | None = None

    async def outcome(self, stdin: bytes | None = None) -> Outcome:
        """Send the input, end it, read everything."""

        async def feed() -> None:
            assert self.stdin is not None
            await self.stdin.write(stdin or b"", fin=True)

        async def nothing() -> bytes:
            return b""

        feeding = asyncio.ensure_future(feed()) if stdin is not None else None
        try:
            streams = (self.stdout, self.stderr, self.error)
            out, err, error = await asyncio.gather(*(s.read_all() if s else nothing() for s in streams))
        finally:
            if feeding is not None:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
        return Outcome(out, err, error)


@contextlib.asynccontextmanager
async def command(
    url: str,
    *,
    stdin: bool = False,
    stdout: bool = True,
    stderr: bool = True,
    tty: bool = False,
    protocols: Sequence[str] = COMMAND_PROTOCOLS,
    **how: Any,
) -> AsyncIterator[Command]:
    """An exec or attach session with its streams open, in the order in which kubelets open them."""
    async with spdy_client(url, protocols, **how) as client:
        opened = Command(client, await client.stream(streamType="error"))
        if stdin:
            opened.stdin = await client.stream(streamType="stdin")
        if stdout:
            opened.stdout = await client.stream(streamType="stdout")
        if stderr and not tty:
            opened.stderr = await client.stream(streamType="stderr")
        if tty and client.protocol in ("v4.channel.k8s.io", "v3.channel.k8s.io"):
            opened.resize = await client.stream(streamType="resize")
        yield opened


async def run(url: str, stdin: bytes | None = None, **how: Any) -> Outcome:
    """A session from its beginning to its end."""
    async with command(url, stdin=stdin is not None, **how) as session:
        return await session.outcome(stdin)
