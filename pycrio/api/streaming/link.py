"""The byte stream below a session: a TCP or TLS connection that was handed over after its HTTP upgrade."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

CHUNK = 64 << 10
PROBE = 10.0
"""Seconds between looks after a client whose bytes nobody takes at the moment. Its FIN may wait behind bytes for which
there is no room; only an answer to something that we send (a reset) then tells that it has left."""


class Gone(asyncio.Event):
    """Set when the client has left, or when we end its session: ``why`` tells what to say then."""

    def __init__(self) -> None:
        super().__init__()
        self.why = ""

    def end(self, why: str) -> None:
        """End the session of a client that is still there."""
        self.why = why
        self.set()


class Link(Protocol):
    """What SPDY travels on: a connection, or binary messages of a WebSocket."""

    async def read(self) -> bytes:
        """Bytes as they come; b"" when the peer has ended."""

    async def write(self, *parts: bytes) -> None:
        """Send, waiting as long as the peer is slow. ConnectionError when it has left."""

    def touch(self) -> None:
        """Something happened that counts against the idle timeout."""


class Connection:
    """A client's connection. ``idle``: seconds without ``touch`` after which ``idled`` returns, 0: never."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: float, early: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self.idle = idle
        self._early = early
        self._turn = asyncio.Lock()
        self._ended = False
        self._last = asyncio.get_running_loop().time()

    def touch(self) -> None:
        """See ``Link``."""
        self._last = asyncio.get_running_loop().time()

    async def read(self) -> bytes:
        """See ``Link``; what came with the HTTP request comes first."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            return await self._reader.read(CHUNK)
        except OSError:  # reset, timed out, or TLS that ended in the middle: the peer has gone in any case
            return b""

    async def write(self, *parts: bytes) -> None:
        """See ``Link``. The parts of one call stay together; calls take turns in their order."""
        async with self._turn:
            if self._ended or self._writer.is_closing():
                raise ConnectionResetError("the client has left")
            # Not writelines(): up to Python 3.12.8 and 3.13.1 nobody waits for a slow client then (CVE-2024-12254).
            self._writer.write(b"".join(parts))
            try:
                await self._writer.drain()
            except OSError as e:
                raise ConnectionResetError("the client has left") from e

    async def idled(self) -> None:
        """Return when nothing has happened for the idle time."""
        loop = asyncio.get_running_loop()
        if self.idle <= 0:
            await loop.create_future()
        while (left := self._last + self.idle - loop.time()) > 0:  # noqa: ASYNC110 - each touch moves the end
            await asyncio.sleep(left)

    async def hung_up(self, half: bool) -> None:
        """Return when the peer has closed the connection, also while nobody reads what it sent before.

        A reader that waits for room does not see the end of the stream. ``half``: that the peer sends no more is
        enough; else only a connection that is dead both ways counts.
        """
        sock: socket.socket = self._writer.get_extra_info("socket")
        loop = asyncio.get_running_loop()
        with select.epoll(1) as poll:
            poll.register(sock.fileno(), select.EPOLLRDHUP if half else 0)  # HUP and ERR always come along
            ready: asyncio.Future[None] = loop.create_future()

            def settle() -> None:
                if not ready.done():
                    ready.set_result(None)

            loop.add_reader(poll.fileno(), settle)
            try:
                await ready
            finally:
                loop.remove_reader(poll.fileno())

    async def end_writing(self) -> None:
        """Tell the peer that nothing more comes. TLS has no half-closed connections: it is closed there."""
        self._ended = True
        with contextlib.suppress(OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            else:
                self._writer.close()

    async def drop(self) -> None:
        """Drop the connection and what was not sent yet."""
        self._writer.transport.abort()
        try:
            await self._writer.wait_closed()
        except OSError as e:
            e.__traceback__ = None  # its frames hold the reader, which holds the error: nothing would be freed for long


class Room:
    """Where a receiver waits until the session has taken what came before."""

    def __init__(self) -> None:
        self._made = asyncio.Event()

    def made(self) -> None:
        """Something was taken."""
        self._made.set()

    async def wait(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Return when something was taken; the peer is probed meanwhile."""
        self._made.clear()
        while True:
            try:
                await asyncio.wait_for(self._made.wait(), PROBE)
                return
            except (asyncio.TimeoutError, TimeoutError):
                await probe()


class Inbox:
    """Bytes that came for one stream, until the session takes them. The peer's half of a stream ends once."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._discarding = False
        self.size = 0

    def feed(self, data: bytes) -> int:
        """Add bytes; how many were added: none after the end."""
        if not data or self._ended or self._discarding:
            return 0
        self._chunks.append(data)
        self.size += len(data)
        self._wake()
        return len(data)

    def feed_end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._wake()

    def discard(self) -> int:
        """Drop what is there and whatever else will come; how many bytes were there."""
        dropped, self.size = self.size, 0
        self._chunks.clear()
        self._discarding = True
        return dropped

    @property
    def ended(self) -> bool:
        """Whether the peer has ended its half."""
        return self._ended

    async def take(self) -> bytes:
        """The next bytes; b"" at the end."""
        while not self._chunks and not self._ended:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        if not self._chunks:
            return b""
        data = self._chunks.popleft()
        self.size -= len(data)
        return data

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
