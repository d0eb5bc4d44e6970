"""Calls in both directions over one connection: ours to the peer's services, the peer's to ours."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol

from google.protobuf.message import DecodeError

from pycrio.obs import log as obslog
from pycrio.obs import trace
from pycrio.ttrpc import frames
from pycrio.ttrpc._pb import ttrpc_pb2

log = obslog.get("ttrpc")
OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 9, 12, 13
_PARALLEL = 16
_UNREAD = 8 << 20
Service = Callable[[str, str, bytes], Awaitable[bytes]]


class CallError(Exception):
    """A call was answered with a status other than OK; ``code`` is the gRPC number."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message or f"status {code}")
        self.code = code


class LinkLost(Exception):
    """The connection ended, the peer broke the protocol, or it took longer than it may."""


class Codec(Protocol):
    """How messages lie on the stream. One object per connection."""

    def feed(self, data: bytes) -> list[tuple[bool, frames.Message]]:
        """The messages that are complete now, and whether each one answers a call of ours; FramingError when the peer
        does not speak the protocol."""

    def encode(self, message: frames.Message, ours: bool) -> bytes:
        """The bytes of a call of ours, or of our answer to the peer's."""


async def refuse(service: str, method: str, payload: bytes) -> bytes:
    """The service of a link whose peer has nothing to call."""
    raise CallError(UNIMPLEMENTED, f"{service}/{method} is not served here")


class Link(asyncio.Protocol):
    """One connection. ``serve(service, method, payload)`` answers the peer's calls; a CallError that it raises is the
    answer's status. At most sixteen of them run at a time, further ones are refused. ``accepted``: there is a
    connection already, of which asyncio will tell. ``peer`` is what messages call the other side."""

    def __init__(self, serve: Service, *, accepted: bool, codec: Codec, peer: str) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.peer_pid = 0
        self.answers = 0  # that came, late ones included
        self._serve = serve
        self._accepted = accepted
        self._peer = peer
        self._ended = asyncio.Event()
        self._codec = codec
        self._transport: asyncio.Transport | None = None
        self._next = 1
        self._last_theirs = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- calls --------------------------------------------------------------------------------------------------------

    async def call(self, service: str, method: str, payload: bytes, timeout: float, *, patient: bool = False) -> bytes:
        """The answer's payload. CallError for a status other than OK; LinkLost, after which the link is closed, when no
        answer came in ``timeout`` seconds (0: no limit) or the connection is gone; ValueError for a request that is too
        large. ``patient``: that one call took too long is a TimeoutError, the link stays and its answer is dropped."""
        about = {"rpc.system": "ttrpc", "rpc.service": service, "rpc.method": method}
        with trace.span(f"{service}/{method}", about, trace.CLIENT):
            return await self._call(service, method, payload, timeout, patient)

    async def _call(self, service: str, method: str, payload: bytes, timeout: float, patient: bool) -> bytes:
        request = ttrpc_pb2.Request(
            service=service,
            method=method,
            payload=payload,
            timeout_nano=max(1, int(timeout * 1e9)) if timeout else 0,
            metadata=[ttrpc_pb2.Header(key=key, value=value) for key, value in trace.carrier().items()],
        )
        stream = self._next
        data = self._codec.encode(frames.Message(stream, frames.REQUEST, 0, request.SerializeToString()), True)
        if self._transport is None or self.closed.done():
            raise LinkLost(self.closed.result() if self.closed.done() else "not connected")
        self._next += 2
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = answer
        self._transport.write(data)
        try:
            return await asyncio.wait_for(answer, timeout or None)
        except (TimeoutError, asyncio.TimeoutError) as e:  # two classes before Python 3.11
            reason = f"no answer to {method} in {timeout:g} seconds"
            if patient:
                raise TimeoutError(reason) from e
            self.close(reason)
            raise LinkLost(reason) from e
        finally:
            self._waiting.pop(stream, None)

    def close(self, reason: str) -> None:
        """End the connection; calls that wait fail with ``reason``. Idempotent."""
        if self.closed.done():
            return
        self.closed.set_result(reason)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(LinkLost(reason))
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """After ``close``: wait until the descriptor is closed too."""
        if self._accepted or self._transport is not None:
            await self._ended.wait()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if self.closed.done():
            transport.abort()
            return
        self.peer_pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.close(f"connection closed by the {self._peer}" if exc is None else f"connection lost: {exc}")
        self._ended.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.closed.done():
            return
        try:
            for ours, message in self._codec.feed(data):
                if ours:
                    self._answered(message)
                else:
                    self._called(message)
        except (frames.FramingError, DecodeError) as e:
            self.close(f"protocol violation: {e}")

    # --- messages -----------------------------------------------------------------------------------------------------

    def _answered(self, message: frames.Message) -> None:
        self.answers += message.kind == frames.RESPONSE
        waiting = self._waiting.get(message.stream)
        if message.kind != frames.RESPONSE or waiting is None or waiting.done():
            return
        response = ttrpc_pb2.Response.FromString(message.data)
        if response.status.code != OK:
            waiting.set_exception(CallError(response.status.code, response.status.message))
        else:
            waiting.set_result(response.payload)

    def _called(self, message: frames.Message) -> None:
        if message.kind != frames.REQUEST:
            return
        if message.stream % 2 != 1 or message.stream <= self._last_theirs:
            raise frames.FramingError(f"stream id {message.stream} is even or was used before")
        self._last_theirs = message.stream
        request = ttrpc_pb2.Request.FromString(message.data)
        if message.flags & frames.REMOTE_OPEN:
            self._reply(message.stream, ttrpc_pb2.Status(code=UNIMPLEMENTED, message="streams are not supported"))
        elif len(self._tasks) >= _PARALLEL:
            self._reply(message.stream, ttrpc_pb2.Status(code=RESOURCE_EXHAUSTED, message="too many calls at a time"))
        else:
            task = asyncio.get_running_loop().create_task(self._run(message.stream, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: int, request: ttrpc_pb2.Request) -> None:
        try:
            payload = await self._serve(request.service, request.method, request.payload)
        except CallError as e:
            self._reply(stream, ttrpc_pb2.Status(code=e.code, message=str(e)))
        except DecodeError as e:
            self._reply(stream, ttrpc_pb2.Status(code=INVALID_ARGUMENT, message=f"request cannot be decoded: {e}"))
        except Exception as e:
            log.exception("Call of a peer failed", peer=self._peer, method=request.method)
            self._reply(stream, ttrpc_pb2.Status(code=INTERNAL, message=str(e)))
        else:
            self._reply(stream, None, payload)

    def _reply(self, stream: int, status: ttrpc_pb2.Status | None, payload: bytes = b"") -> None:
        if self._transport is None or self.closed.done():
            return
        response = ttrpc_pb2.Response(status=status, payload=payload).SerializeToString()
        self._transport.write(self._codec.encode(frames.Message(stream, frames.RESPONSE, 0, response), False))
        if self._transport.get_write_buffer_size() > _UNREAD:
            self.close(f"the {self._peer} calls, but does not read the answers")
