"""Port-forward: bytes between a client's channels and ports of a pod, one connection per pair of channels."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any, Protocol

from pycrio.api.streaming import spdy
from pycrio.api.streaming.remotecommand import Sink, Source
from pycrio.api.streaming.spdy_session import Stream
from pycrio.api.streaming.websocket import Channel, WebSocket
from pycrio.errors import PycrioError
from pycrio.flows.descriptors import Reader, Writer
from pycrio.flows.node_state import Node
from pycrio.flows.pods import portforward as flow
from pycrio.obs import log as obslog

log = obslog.get("streaming")

PAIR_TIMEOUT = 30.0
"""Seconds in which the second stream of a pair must follow the first."""


class Pipe(Source, Sink, Protocol):
    """What carries a connection's bytes both ways."""

    @property
    def broken(self) -> bool:
        """Whether the client has ended it abnormally."""


async def forward(node: Node, pod_id: str, port: int, data: Pipe, error: Sink) -> None:
    """Connect ``data`` with a port until the pod has ended its side; a failure goes to ``error``."""
    try:
        fd = await flow.connect(node, pod_id, port)
    except PycrioError as e:
        log.debug("Port not reached", id=pod_id, port=port, error=str(e))
        with contextlib.suppress(ConnectionError):
            await error.write(f"error forwarding port {port} to pod {pod_id}: {e}".encode())
        return
    try:
        await _copy_both(fd, data)
    finally:
        os.close(fd)


async def _copy_both(fd: int, data: Pipe) -> None:
    loop = asyncio.get_running_loop()
    incoming, outgoing = loop.create_task(_to_pod(data, fd)), loop.create_task(_from_pod(fd, data))
    try:
        await asyncio.wait({incoming, outgoing}, return_when=asyncio.FIRST_COMPLETED)
        if not data.broken:
            # What the pod says counts to its end. After that, what the client still sends has nobody to answer it.
            await asyncio.wait({outgoing})
    finally:
        for task in (incoming, outgoing):
            task.cancel()
        for result in await asyncio.gather(incoming, outgoing, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("Forwarded connection failed", error=f"{type(result).__name__}: {result}")


async def _to_pod(data: Pipe, fd: int) -> None:
    writer = Writer(fd)
    taken = True
    while piece := await data.read():  # also what nobody takes: it must not hold up other connections
        taken = taken and await writer.write(piece)
    with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


async def _from_pod(fd: int, data: Sink) -> None:
    reader = Reader(fd)
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read():
            await data.write(piece)


# --- SPDY: any number of pairs, which come and go


class Pairs:
    """Pairs the streams of a SPDY connection by their request and serves each pair."""

    def __init__(self, node: Node, pod_id: str) -> None:
        self._node = node
        self._pod_id = pod_id
        self._single: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def opened(self, stream: Stream) -> None:
        """A stream that the client has opened."""
        kind, port = stream.headers.get("streamtype", ""), port_of(stream.headers.get("port", ""))
        if kind not in ("error", "data") or not port:
            log.debug("Stream without a valid port or type", headers=stream.headers)
            return self._start(stream.reset(spdy.PROTOCOL_ERROR))
        request = stream.headers.get("requestid", "")
        if not request:  # clients of old number them by their streams, the error stream first
            request = str(stream.ident if kind == "error" else stream.ident - 2)
        first = self._single.pop(request, None)
        if first is None:
            self._single[request] = stream
            return self._start(self._expire(request, stream))
        if first.headers.get("streamtype") == kind or port_of(first.headers.get("port", "")) != port:
            self._start(first.reset(spdy.PROTOCOL_ERROR))
            return self._start(stream.reset(spdy.PROTOCOL_ERROR))
        error, data = (first, stream) if kind == "data" else (stream, first)
        return self._start(self._serve(port, data, error))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Port-forward failed unforeseen", error=f"{type(error).__name__}: {error}")

    async def _expire(self, request: str, stream: Stream) -> None:
        await asyncio.sleep(PAIR_TIMEOUT)
        if self._single.get(request) is stream:
            del self._single[request]
            await stream.reset()

    async def _serve(self, port: int, data: Stream, error: Stream) -> None:
        await forward(self._node, self._pod_id, port, data, error)
        with contextlib.suppress(ConnectionError):
            await data.close()
            await error.close()
        data.drop()
        error.drop()

    async def serve(self, gone: asyncio.Event) -> None:
        """Serve until the client has left; then every connection ends."""
        try:
            await gone.wait()
        finally:
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)


def port_of(text: str) -> int:
    """A port's number, 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536 else 0


# --- WebSocket: the ports of the request, once each


async def serve_websocket(
    node: Node, pod_id: str, ports: tuple[int, ...], websocket: WebSocket, gone: asyncio.Event
) -> None:
    """A pair of channels per port, in the order of ``ports``; each begins with its port, little-endian."""

    async def one(index: int, port: int) -> None:
        data, error = Channel(websocket, 2 * index), Channel(websocket, 2 * index + 1)
        with contextlib.suppress(ConnectionError):
            await data.write(port.to_bytes(2, "little"))
            await error.write(port.to_bytes(2, "little"))
            await forward(node, pod_id, port, data, error)

    loop = asyncio.get_running_loop()
    waiting = {loop.create_task(one(index, port)) for index, port in enumerate(ports)}
    leaving = loop.create_task(gone.wait())
    try:
        while waiting and not gone.is_set():
            done, _ = await asyncio.wait({leaving, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting -= done
    finally:
        for task in (leaving, *waiting):
            task.cancel()
        await asyncio.gather(leaving, *waiting, return_exceptions=True)
