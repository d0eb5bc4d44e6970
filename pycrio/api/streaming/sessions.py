"""A connection from its upgrade to its end: what is received, what is worked on, and who leaves first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from pycrio.api.streaming import portforward, remotecommand, spdy, spdy_channels, websocket
from pycrio.api.streaming.http import Refused, Request
from pycrio.api.streaming.link import Connection, Gone
from pycrio.api.streaming.portforward import Pairs
from pycrio.api.streaming.remotecommand import Channels, Wanted
from pycrio.api.streaming.spdy_session import Session
from pycrio.api.streaming.websocket import Channel, Tunnel, WebSocket, WebSocketError
from pycrio.flows.node_state import Node
from pycrio.obs import log as obslog
from pycrio.obs.trace import Carrier

log = obslog.get("streaming")

LINGER = 5.0
"""Seconds in which a client whose session has ended may close its connection; then we do."""


@dataclass(frozen=True, slots=True)
class Ending:
    """``half``: a client that sends no more has left, even if it had sent more than was taken yet. ``farewell``: how
    the client is told that the session has ended."""

    half: bool
    farewell: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Forward:
    """A port-forward as asked for; ``ports`` matter to WebSocket clients only. ``trace``: the trace of who asked."""

    pod_id: str
    ports: tuple[int, ...]
    trace: Carrier = field(default_factory=dict)


async def spdy_command(node: Node, request: Request, wanted: Wanted, connection: Connection) -> None:
    """Exec or attach over SPDY."""
    protocol = spdy_channels.negotiate(request, list(spdy_channels.COMMAND_VERSIONS))
    version = spdy_channels.COMMAND_VERSIONS.get(protocol, 1)
    gone = Gone()
    streams = spdy_channels.Gathering(wanted, version)
    session = Session(connection, streams.opened)
    await connection.write(spdy_channels.accept(protocol))

    async def work() -> None:
        channels = await streams.channels(gone)
        if channels is not None:
            await remotecommand.serve(node, wanted, channels)
        session.finish_reading()

    # Input that an attached client has sent is the process's even when the client has left; a command is killed then.
    await _converse(connection, session.run(), work(), gone, Ending(bool(wanted.argv), connection.end_writing))


async def spdy_forward(node: Node, request: Request, forward: Forward, connection: Connection) -> None:
    """Port-forward over SPDY."""
    protocol = spdy_channels.negotiate(request, [spdy_channels.FORWARD_PROTOCOL])
    gone = Gone()
    pairs = Pairs(node, forward.pod_id)
    session = Session(connection, pairs.opened)
    await connection.write(spdy_channels.accept(protocol))
    await _converse(connection, session.run(), pairs.serve(gone), gone, Ending(True, connection.end_writing))


async def websocket_command(node: Node, request: Request, wanted: Wanted, connection: Connection) -> None:
    """Exec or attach over WebSocket."""
    protocol, framing, answer = websocket.accept(request, websocket.COMMAND_PROTOCOLS)
    readable = [number for number, on in ((websocket.STDIN, wanted.stdin), (websocket.RESIZE, wanted.tty)) if on]
    socket = WebSocket(connection, framing, protocol, readable)
    first = websocket.STDOUT if wanted.stdout else websocket.STDERR if wanted.stderr else websocket.ERROR
    channels = Channels(
        Channel(socket, websocket.ERROR),
        websocket.COMMAND_PROTOCOLS[protocol],
        Channel(socket, websocket.STDIN) if wanted.stdin else None,
        Channel(socket, websocket.STDOUT) if wanted.stdout else None,
        Channel(socket, websocket.STDERR) if wanted.stderr else None,
        Channel(socket, websocket.RESIZE) if wanted.tty else None,
    )
    await connection.write(answer)
    await socket.put(first, b"")  # tells the client that the session is there

    async def work() -> None:
        await remotecommand.serve(node, wanted, channels)
        socket.finish_reading()

    await _converse(connection, socket.run(), work(), channels.gone, Ending(bool(wanted.argv), socket.close))


async def websocket_forward(node: Node, request: Request, forward: Forward, connection: Connection) -> None:
    """Port-forward over WebSocket: pairs of channels, or a SPDY connection inside."""
    protocol, framing, answer = websocket.accept(request, (websocket.TUNNEL_PROTOCOL, *websocket.FORWARD_PROTOCOLS))
    gone = Gone()
    if protocol == websocket.TUNNEL_PROTOCOL:
        socket = WebSocket(connection, framing, protocol)
        work = _tunnelled(node, forward.pod_id, Tunnel(socket, connection), gone)
    else:
        limit = 39 if "base64" in protocol else 127  # what one printable character, or one byte, can number
        ports = forward.ports or tuple(map(portforward.port_of, request.query.get("port", ())))
        if not 0 < len(ports) <= limit or 0 in ports:
            raise Refused(400, f"a port-forward by WebSocket needs 1 to {limit} ports between 1 and 65535")
        socket = WebSocket(connection, framing, protocol, range(0, 2 * len(ports), 2))
        work = portforward.serve_websocket(node, forward.pod_id, ports, socket, gone)
    await connection.write(answer)
    await _converse(connection, socket.run(), work, gone, Ending(True, socket.close))


async def _tunnelled(node: Node, pod_id: str, tunnel: Tunnel, gone: asyncio.Event) -> None:
    """Port-forward over SPDY inside a WebSocket."""
    pairs, loop = Pairs(node, pod_id), asyncio.get_running_loop()
    receiving, serving = loop.create_task(Session(tunnel, pairs.opened).run()), loop.create_task(pairs.serve(gone))
    try:
        await asyncio.wait({receiving, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        receiving.cancel()
        serving.cancel()
        await asyncio.gather(receiving, serving, return_exceptions=True)
    _look_at(receiving)


async def _converse(
    connection: Connection,
    receiving: Coroutine[Any, Any, None],
    work: Coroutine[Any, Any, None],
    gone: Gone,
    ending: Ending,
) -> None:
    """Receive and work until the work is done; ``gone`` is set when the client has left before.

    Afterwards the client gets a moment to take what is on its way: closing with unread input would make the kernel
    throw away what we sent last.
    """
    loop = asyncio.get_running_loop()
    working, pump = loop.create_task(work), loop.create_task(receiving)
    idle, hung_up = loop.create_task(connection.idled()), loop.create_task(connection.hung_up(ending.half))
    try:
        await asyncio.wait({working, pump, idle, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            if idle.done():
                log.info("Session ends: nothing happened for the idle time")
                gone.end(f"the session was ended since nothing had been transferred for {connection.idle:g} s")
            gone.set()
            await asyncio.wait({working})
        working.result()
        await ending.farewell()
        await asyncio.wait({pump, hung_up}, timeout=LINGER, return_when=asyncio.FIRST_COMPLETED)
    finally:
        tasks = (working, pump, idle, hung_up)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connection.drop()
    _look_at(pump)


def _look_at(receiving: asyncio.Task[None]) -> None:
    """What a receiving task that has ended says of its client."""
    error = None if receiving.cancelled() else receiving.exception()
    if isinstance(error, (spdy.SpdyError, WebSocketError)):
        log.info("Client broke the protocol", error=str(error))
    elif error is not None:
        raise error
