"""Streams of one SPDY/3.1 connection, server side: who may send how much when, on top of the framing in ``spdy``.

The one SPDY client that clusters use does not know flow control: it never grants a window and never minds ours. Our
data is therefore held to a window only once the peer has spoken of windows (SETTINGS, WINDOW_UPDATE); until then TCP
is what slows us down. Towards the peer: a window per stream and one for the connection, which a peer that honours them
never exceeds; with one that does not, the connection is not read any further while as much is waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pycrio.api.streaming import spdy
from pycrio.api.streaming.link import Inbox, Link, Room

STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 4 << 20
"""Bytes that wait for their session at most: per stream, and all together."""
DEFAULT_WINDOW = 64 << 10
PIECE = 64 << 10
MAX_STREAMS = 2048
"""Open streams of a connection at most; each port-forwarded connection has two."""


class Stream:
    """One stream of a peer. Reading and writing end separately; a reset ends both."""

    def __init__(self, session: Session, ident: int, headers: dict[str, str]) -> None:
        self._session = session
        self.ident = ident
        self.headers = headers
        self.inbox = Inbox()
        self.credit = session.peer_window
        self.granted = STREAM_WINDOW
        self.consumed = 0
        self.closed = False
        self.broken = False  # reset, by either side

    async def read(self) -> bytes:
        """The next bytes; b"" when the peer has ended its half or the stream."""
        data = await self.inbox.take()
        if data:
            await self._session.took(self, len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Send; dropped after ``close``. ConnectionError when the peer has reset the stream or left."""
        await self._session.send(self, data)
        if self.broken:
            raise ConnectionResetError(f"the client has reset stream {self.ident}")

    async def close(self) -> None:
        """End our half."""
        await self._session.finish(self)

    async def reset(self, status: int = spdy.CANCEL) -> None:
        """End the stream abnormally."""
        await self._session.reset(self, status)

    def drop(self) -> None:
        """Whatever the peer has sent and will send is of no interest."""
        self._session.drop(self)


def _nobody(stream: Stream) -> None:
    """Takes the streams of a connection that has ended."""


class Session:
    """A connection's streams. ``on_stream`` is called, without waiting, with each stream that the peer opens."""

    def __init__(self, link: Link, on_stream: Callable[[Stream], None]) -> None:
        self._link = link
        self._on_stream = on_stream
        self._parser = spdy.Parser()
        self._serializer = spdy.Serializer()
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._waiting = 0  # bytes in all inboxes
        self._room = Room()
        self._windows = False  # the peer speaks of windows
        self._credit = DEFAULT_WINDOW
        self._more_credit = asyncio.Event()
        self.peer_window = DEFAULT_WINDOW
        self._granted = CONNECTION_WINDOW
        self._consumed = 0
        self._pings = 0
        self._overrun = False  # the peer does not mind our windows
        self._finished = False

    # --- receiving

    async def run(self) -> None:
        """Receive until the peer ends. SpdyError when it breaks the protocol: it has been told then."""
        try:
            await self._link.write(
                self._serializer.dump(spdy.Settings(((spdy.INITIAL_WINDOW_SIZE, STREAM_WINDOW),))),
                self._serializer.dump(spdy.WindowUpdate(0, CONNECTION_WINDOW - DEFAULT_WINDOW)),
            )
            while data := await self._link.read():
                for frame in self._parser.feed(data):
                    await self._received(frame)
        except spdy.SpdyError:
            await self._send(spdy.GoAway(self._last, 1))
            raise
        except ConnectionError:
            return
        finally:
            for stream in list(self._streams.values()):
                stream.closed = True
                stream.inbox.feed_end()
            self._streams.clear()
            self._on_stream = _nobody  # who has our streams: without this, all of us would wait for the collector
            self._more_credit.set()

    async def _received(self, frame: spdy.Frame) -> None:
        if isinstance(frame, spdy.Data):
            await self._data(frame)
        elif isinstance(frame, spdy.SynStream):
            await self._opened(frame)
        elif isinstance(frame, spdy.Reset):
            if (stream := self._forget(frame.stream)) is not None:
                self.drop(stream)
        elif isinstance(frame, spdy.MoreHeaders):
            if frame.fin:
                await self._ended(frame.stream)
        elif isinstance(frame, spdy.Ping):
            if frame.ident & 1:  # theirs; an even one answers ours
                await self._send(frame)
        elif isinstance(frame, spdy.Settings):
            for ident, value in frame.values:
                if ident == spdy.INITIAL_WINDOW_SIZE:
                    self._new_window(value)
        elif isinstance(frame, spdy.WindowUpdate):
            self._grant(frame)

    async def _opened(self, frame: spdy.SynStream) -> None:
        if frame.stream % 2 == 0 or frame.stream <= self._last:
            raise spdy.SpdyError(f"stream {frame.stream} opened after stream {self._last}")
        self._last = frame.stream
        if len(self._streams) >= MAX_STREAMS or self._finished:
            await self._send(spdy.Reset(frame.stream, spdy.REFUSED_STREAM))
            return
        stream = self._streams[frame.stream] = Stream(self, frame.stream, dict(frame.headers))
        await self._send(spdy.SynReply(frame.stream))
        if frame.unidirectional:
            stream.closed = True
        if frame.fin:
            await self._ended(frame.stream)
        self._on_stream(stream)

    async def _data(self, frame: spdy.Data) -> None:
        stream = self._streams.get(frame.stream)
        length = len(frame.data)
        self._granted -= length
        if stream is None or stream.inbox.ended:
            if stream is None and frame.stream > self._last:
                raise spdy.SpdyError(f"data for stream {frame.stream}, which was never opened")
            await self._connection_took(length)
            return
        self._link.touch()
        stream.granted -= length
        if stream.granted < 0 or self._granted < 0:
            self._overrun = True
        if kept := stream.inbox.feed(frame.data):
            self._waiting += kept
        else:
            await self._connection_took(length)
        if frame.fin:
            await self._ended(frame.stream)
        while self._waiting > CONNECTION_WINDOW or stream.inbox.size > STREAM_WINDOW:
            await self._room.wait(self._probe)

    async def _probe(self) -> None:
        self._pings += 2
        await self._send(spdy.Ping(self._pings & 0xFFFFFFFE))

    async def _ended(self, ident: int) -> None:
        stream = self._streams.get(ident)
        if stream is not None:
            stream.inbox.feed_end()
            if stream.closed:
                del self._streams[ident]

    def _forget(self, ident: int) -> Stream | None:
        stream = self._streams.pop(ident, None)
        if stream is not None:
            stream.closed = stream.broken = True
            stream.inbox.feed_end()
            self._more_credit.set()
        return stream

    async def took(self, stream: Stream, length: int) -> None:
        """The session has taken bytes of a stream: grant as many anew."""
        self._waiting -= length
        self._room.made()
        stream.consumed += length
        if stream.consumed >= STREAM_WINDOW // 2 and not self._overrun and not stream.inbox.ended:
            delta, stream.consumed = stream.consumed, 0
            stream.granted += delta
            await self._send(spdy.WindowUpdate(stream.ident, delta))
        await self._connection_took(length)

    async def _connection_took(self, length: int) -> None:
        self._consumed += length
        if self._consumed >= CONNECTION_WINDOW // 2 and not self._overrun:
            delta, self._consumed = self._consumed, 0
            self._granted += delta
            await self._send(spdy.WindowUpdate(0, delta))

    # --- sending

    async def _send(self, frame: spdy.Frame) -> None:
        """A control frame, unless the peer has left: then ``run`` ends by itself."""
        try:
            await self._link.write(self._serializer.dump(frame))
        except ConnectionError:
            return

    async def send(self, stream: Stream, data: bytes) -> None:
        """Data in frames of at most ``PIECE`` bytes, as the peer's windows allow."""
        rest = data
        while rest and not stream.closed:
            count = min(len(rest), PIECE)
            if self._windows:
                count = min(count, stream.credit, self._credit)
                if count <= 0:
                    self._more_credit.clear()
                    await self._more_credit.wait()
                    continue
            piece, rest = (rest, b"") if count == len(rest) else (rest[:count], rest[count:])
            stream.credit -= count
            self._credit -= count
            self._link.touch()
            await self._link.write(spdy.data_head(stream.ident, count, False), piece)

    async def finish(self, stream: Stream) -> None:
        """End our half of a stream."""
        if stream.closed:
            return
        stream.closed = True
        if stream.inbox.ended:
            self._streams.pop(stream.ident, None)
        await self._link.write(spdy.data_head(stream.ident, 0, True))

    async def reset(self, stream: Stream, status: int) -> None:
        """End both halves of a stream."""
        if self._streams.get(stream.ident) is stream:
            self._forget(stream.ident)
            self.drop(stream)
            await self._send(spdy.Reset(stream.ident, status))

    def finish_reading(self) -> None:
        """Whatever the peer still sends is read and dropped, so that it never waits for us."""
        self._finished = True
        for stream in self._streams.values():
            self.drop(stream)
        self._room.made()

    def drop(self, stream: Stream) -> None:
        """Forget what waits for a stream, and take in no more for it."""
        self._waiting -= stream.inbox.discard()
        self._room.made()

    def _new_window(self, size: int) -> None:
        self._windows = True
        for stream in self._streams.values():
            stream.credit += size - self.peer_window
        self.peer_window = size
        self._more_credit.set()

    def _grant(self, frame: spdy.WindowUpdate) -> None:
        self._windows = True
        if frame.stream == 0:
            self._credit += frame.delta
        elif (stream := self._streams.get(frame.stream)) is not None:
            stream.credit += frame.delta
        self._more_credit.set()
