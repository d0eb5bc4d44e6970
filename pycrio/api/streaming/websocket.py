"""WebSocket (RFC 6455) as Kubernetes uses it: channels numbered by the first byte of each message, or a byte stream.

Framing is wsproto's. The ``base64`` protocols carry text messages: a digit and base64 instead of a byte and bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pycrio.api.streaming.http import Refused, Request
from pycrio.api.streaming.link import Connection, Inbox, Room

if TYPE_CHECKING:
    from wsproto.connection import Connection as Framing
    from wsproto.events import Event

PIECE = 32 << 10
ROOM = 256 << 10
"""Bytes of a channel that wait for the session; while there are more, the connection is not read."""
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE = 255
"""The channel on which the number of a channel says that it has ended (version 5)."""
NORMAL, PROTOCOL = 1000, 1002

COMMAND_PROTOCOLS = {
    "v5.channel.k8s.io": 5,
    "v4.channel.k8s.io": 4,
    "v4.base64.channel.k8s.io": 4,
    "channel.k8s.io": 1,
    "base64.channel.k8s.io": 1,
    "": 1,
}
FORWARD_PROTOCOLS = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io", "")
TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
"""A SPDY connection in binary messages."""


class WebSocketError(Exception):
    """The peer broke the protocol in a way that ends the connection."""


def accept(request: Request, ours: Iterable[str]) -> tuple[str, Framing, bytes]:
    """The sub-protocol, the framing and the answer that makes the connection a WebSocket.

    The first of the client's protocols that we have; "" when it asks for none and that is served. Refused else.
    """
    from wsproto.connection import ConnectionType
    from wsproto.events import AcceptConnection
    from wsproto.handshake import H11Handshake
    from wsproto.utilities import LocalProtocolError, RemoteProtocolError

    if request.method != "GET":
        raise Refused(405, "a WebSocket begins with GET", [("Allow", "GET")])
    theirs, ours = request.values("sec-websocket-protocol"), list(ours)
    chosen = next((name for name in theirs if name in ours), None)
    if chosen is None and (theirs or "" not in ours):
        named = ", ".join(theirs) or "no protocol"
        raise Refused(403, f"none of the client's WebSocket protocols is served: {named}; served are {ours}")
    handshake = H11Handshake(ConnectionType.SERVER)
    try:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers]
        handshake.initiate_upgrade_connection(headers, request.path)
        answer = handshake.send(AcceptConnection(subprotocol=chosen))
    except (RemoteProtocolError, LocalProtocolError) as e:
        raise Refused(400, f"malformed WebSocket handshake: {e}") from e
    framing = handshake.connection
    assert framing is not None, "the handshake is complete"
    return chosen or "", framing, answer


class WebSocket:
    """One connection after its handshake. Messages are taken apart as they arrive and never held whole.

    ``readable``: the channels that the client may send on; others are dropped. Without it, every message is a piece
    of one byte stream, which is channel 0.
    """

    def __init__(
        self, connection: Connection, framing: Framing, protocol: str, readable: Iterable[int] | None = None
    ) -> None:
        self._connection = connection
        self._framing = framing
        self._text = "base64" in protocol
        self._closes = protocol.startswith("v5.")
        self._inboxes = {number: Inbox() for number in ((0,) if readable is None else readable)}
        self._demux = _Demux(self._text) if readable is not None else None
        self._room = Room()
        self._finished = False
        self._closing = False

    # --- receiving

    async def run(self) -> None:
        """Receive until the peer ends. WebSocketError when it breaks the protocol: it has been told then."""
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

        try:
            while data := await self._connection.read():
                self._framing.receive_data(data)
                for event in self._framing.events():
                    if isinstance(event, (BytesMessage, TextMessage)):
                        data = bytes(event.data) if isinstance(event, BytesMessage) else event.data.encode()
                        await self._message(data, event.message_finished)
                    elif isinstance(event, Ping):
                        await self._send(event.response())
                    elif isinstance(event, CloseConnection):
                        await self._closed(event)
                        return
        except WebSocketError:
            await self.close(PROTOCOL)
            raise
        except ConnectionError:
            return
        finally:
            for inbox in self._inboxes.values():
                inbox.feed_end()

    async def _closed(self, event: Event) -> None:
        from wsproto.connection import ConnectionState
        from wsproto.events import CloseConnection

        assert isinstance(event, CloseConnection)
        if self._framing.state is ConnectionState.REMOTE_CLOSING:
            await self._send(event.response())
        if event.code == PROTOCOL:  # either what the peer says of us, or what the framing found
            raise WebSocketError(event.reason or "protocol error")

    async def _message(self, data: bytes, finished: bool) -> None:
        if self._demux is None:
            pieces: Iterable[tuple[int, bytes]] = ((0, data),)
        else:
            pieces = self._demux.feed(data, finished)
        for channel, piece in pieces:
            if piece:
                self._connection.touch()
            if channel == CLOSE and self._closes:
                for number in piece:
                    if number in self._inboxes:
                        self._inboxes[number].feed_end()
                continue
            inbox = self._inboxes.get(channel)
            if inbox is None or self._finished:
                continue
            inbox.feed(piece)
            while inbox.size > ROOM and not self._finished:
                await self._room.wait(self._probe)

    async def _probe(self) -> None:
        from wsproto.events import Ping

        await self._send(Ping())

    async def take(self, channel: int) -> bytes:
        """The next bytes of a channel; b"" at its end."""
        data = await self._inboxes[channel].take()
        self._room.made()
        return data

    def finish_reading(self) -> None:
        """Whatever the peer still sends is read and dropped, so that it never waits for us."""
        self._finished = True
        for inbox in self._inboxes.values():
            inbox.discard()
        self._room.made()

    # --- sending

    async def put(self, channel: int, data: bytes) -> None:
        """Send on a channel, in messages of at most ``PIECE`` bytes; an empty one is sent as such."""
        from wsproto.events import BytesMessage, TextMessage

        for at in range(0, max(len(data), 1), PIECE):
            piece = data[at : at + PIECE]
            self._connection.touch()
            if self._text:
                await self._send(TextMessage(f"{chr(ord('0') + channel)}{base64.b64encode(piece).decode()}"))
            else:
                await self._send(BytesMessage(bytes((channel,)) + piece))

    async def put_raw(self, data: bytes) -> None:
        """Send a piece of the byte stream."""
        from wsproto.events import BytesMessage

        await self._send(BytesMessage(data))

    async def _send(self, event: Event) -> None:
        if self._closing:
            raise ConnectionResetError("the connection is closing")
        await self._connection.write(self._framing.send(event))

    async def close(self, code: int = NORMAL) -> None:
        """Say that we end; the peer answers and closes."""
        from wsproto.connection import ConnectionState
        from wsproto.events import CloseConnection

        if self._closing or self._framing.state is not ConnectionState.OPEN:
            return
        data = self._framing.send(CloseConnection(code))
        self._closing = True
        try:
            await self._connection.write(data)
        except ConnectionError:
            return


class _Demux:
    """Messages in pieces to pieces of channels."""

    def __init__(self, text: bool) -> None:
        self._text = text
        self._channel = -1
        self._rest = b""

    def feed(self, data: bytes, finished: bool) -> Iterable[tuple[int, bytes]]:
        """WebSocketError for what is no channel or no base64."""
        if self._channel < 0 and data:
            self._channel = data[0] - ord("0") if self._text else data[0]
            data = data[1:]
            if self._channel < 0:
                raise WebSocketError("a message that does not begin with the digit of a channel")
        channel = self._channel
        if self._text:
            data = self._rest + data
            whole = len(data) if finished else len(data) - len(data) % 4
            data, self._rest = data[:whole], data[whole:]
            try:
                data = base64.b64decode(data, validate=True)
            except binascii.Error as e:
                raise WebSocketError(f"a message that is not base64: {e}") from e
        if finished:
            self._channel = -1
        return ((channel, data),) if channel >= 0 else ()


class Channel:
    """One channel of a connection as a source or sink of a session."""

    broken = False
    """Channels are not reset one by one."""

    def __init__(self, socket: WebSocket, number: int) -> None:
        self._socket = socket
        self._number = number

    async def read(self) -> bytes:
        """See ``remotecommand.Source``."""
        return await self._socket.take(self._number)

    async def write(self, data: bytes) -> None:
        """See ``remotecommand.Sink``."""
        await self._socket.put(self._number, data)

    async def close(self) -> None:
        """Channels to the client have no end of their own: the connection's end is theirs."""


class Tunnel:
    """A WebSocket's byte stream as the link below another protocol."""

    def __init__(self, socket: WebSocket, connection: Connection) -> None:
        self._socket = socket
        self._connection = connection

    async def read(self) -> bytes:
        """See ``link.Link``."""
        return await self._socket.take(0)

    async def write(self, *parts: bytes) -> None:
        """See ``link.Link``."""
        await self._socket.put_raw(b"".join(parts))

    def touch(self) -> None:
        """See ``link.Link``."""
        self._connection.touch()
