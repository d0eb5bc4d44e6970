"""Streams on a connection: windows in both directions, limits, pings, resets, peers that break the rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pycrio.api.streaming import spdy, spdy_session
from pycrio.api.streaming.spdy_session import CONNECTION_WINDOW, STREAM_WINDOW, Session, Stream


class Wire:
    """The link of a session, whose peer is the test: it sees frames."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.frames: asyncio.Queue[spdy.Frame] = asyncio.Queue()
        self.parser = spdy.Parser()
        self.serializer = spdy.Serializer()
        self.reads = 0
        self.left = False

    async def read(self) -> bytes:
        self.reads += 1
        return await self.incoming.get()

    async def write(self, *parts: bytes) -> None:
        if self.left:
            raise ConnectionResetError
        for frame in self.parser.feed(b"".join(parts)):
            self.frames.put_nowait(frame)

    def touch(self) -> None:
        pass

    def send(self, *frames: spdy.Frame) -> None:
        self.incoming.put_nowait(b"".join(map(self.serializer.dump, frames)))

    async def next(self, kind: type[spdy.Frame] | None = None) -> spdy.Frame:
        """The next frame (of a kind)."""
        while True:
            frame = await self.frames.get()
            if kind is None or isinstance(frame, kind):
                return frame

    async def pong(self) -> None:
        """Everything sent before has been received."""
        self.send(spdy.Ping(99))
        while await self.next(spdy.Ping) != spdy.Ping(99):
            pass


class Peer(Wire):
    """A wire with its session."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Stream] = []
        self.session = Session(self, self.opened.append)
        self.running = asyncio.get_running_loop().create_task(self.session.run())

    async def stream(self, ident: int = 1) -> Stream:
        self.send(spdy.SynStream(ident, (("streamtype", "data"),)))
        await self.next(spdy.SynReply)
        return self.opened[-1]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    assert await peer.next() == spdy.Settings(((spdy.INITIAL_WINDOW_SIZE, STREAM_WINDOW),))
    assert await peer.next() == spdy.WindowUpdate(0, CONNECTION_WINDOW - 65536)
    yield peer
    peer.running.cancel()
    await asyncio.gather(peer.running, return_exceptions=True)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_bytes_both_ways_and_half_close(peer: Peer) -> None:
    stream = await peer.stream()
    assert stream.headers == {"streamtype": "data"}
    peer.send(spdy.Data(1, b"in"), spdy.Data(1, b"put", True))
    assert [await stream.read(), await stream.read(), await stream.read()] == [b"in", b"put", b""]
    await stream.write(b"output")
    await stream.close()
    assert await peer.next(spdy.Data) == spdy.Data(1, b"output")
    assert await peer.next(spdy.Data) == spdy.Data(1, b"", True)
    await stream.write(b"dropped")
    await peer.pong()


async def test_a_peer_that_never_speaks_of_windows_is_not_held_to_any(peer: Peer) -> None:
    stream = await peer.stream()
    await stream.write(b"x" * 1_000_000)
    got = 0
    while got < 1_000_000:
        frame = await peer.next(spdy.Data)
        assert isinstance(frame, spdy.Data)
        got += len(frame.data)


async def test_a_window_that_the_peer_announces_is_kept(peer: Peer) -> None:
    peer.send(spdy.Settings(((spdy.INITIAL_WINDOW_SIZE, 1000),)), spdy.WindowUpdate(0, 1 << 20))
    stream = await peer.stream()
    writing = asyncio.ensure_future(stream.write(b"x" * 2500))
    for size in (1000, 700, 800):
        frame = await peer.next(spdy.Data)
        assert isinstance(frame, spdy.Data)
        assert len(frame.data) == size
        await peer.pong()
        assert peer.frames.empty()
        if size == 1000:
            peer.send(spdy.WindowUpdate(1, 700))
        else:
            peer.send(spdy.WindowUpdate(1, 800))
    await writing


async def test_the_connections_window_holds_all_streams(peer: Peer) -> None:
    peer.send(spdy.Settings(((spdy.INITIAL_WINDOW_SIZE, 1 << 20),)))
    one = await peer.stream(1)
    two = await peer.stream(3)
    writing = asyncio.gather(one.write(b"x" * 60_000), two.write(b"y" * 60_000))
    got = 0
    while got < 65536:
        frame = await peer.next(spdy.Data)
        assert isinstance(frame, spdy.Data)
        got += len(frame.data)
    assert got == 65536
    await peer.pong()
    assert peer.frames.empty()
    assert not writing.done()
    peer.send(spdy.WindowUpdate(0, 1 << 20))
    await writing


async def test_a_smaller_window_counts_for_open_streams(peer: Peer) -> None:
    peer.send(spdy.WindowUpdate(0, 1 << 20))
    stream = await peer.stream()
    await stream.write(b"x" * 65_000)
    peer.send(spdy.Settings(((spdy.INITIAL_WINDOW_SIZE, 100),)))
    await peer.pong()
    writing = asyncio.ensure_future(stream.write(b"y"))
    peer.send(spdy.WindowUpdate(1, 65_000 - 100))
    await peer.pong()
    assert not writing.done()
    peer.send(spdy.WindowUpdate(1, 1))
    await writing


async def test_writer_of_a_stream_that_is_reset_is_told(peer: Peer) -> None:
    peer.send(spdy.Settings(((spdy.INITIAL_WINDOW_SIZE, 0),)))
    stream = await peer.stream()
    writing = asyncio.ensure_future(stream.write(b"x"))
    await turns()
    peer.send(spdy.Reset(1, spdy.CANCEL))
    with pytest.raises(ConnectionResetError):
        await writing
    assert stream.broken
    assert await stream.read() == b""


async def test_taken_bytes_are_granted_anew(peer: Peer) -> None:
    stream = await peer.stream()
    for _ in range(STREAM_WINDOW // 2 // 32768):
        peer.send(spdy.Data(1, b"x" * 32768))
        assert len(await stream.read()) == 32768
    assert await peer.next(spdy.WindowUpdate) == spdy.WindowUpdate(1, STREAM_WINDOW // 2)


async def test_nothing_is_granted_to_a_peer_that_does_not_mind(peer: Peer) -> None:
    """Clusters' clients do not: updates could fill the queue of one that is busy."""
    stream = await peer.stream()
    total = STREAM_WINDOW + 65536
    for _ in range(total // 65536):
        peer.send(spdy.Data(1, b"x" * 65536))
    peer.send(spdy.Data(1, b"x"))
    got = 0
    while got <= total:
        got += len(await stream.read())
    await peer.pong()
    assert peer.frames.empty()


async def test_a_full_stream_stops_the_reading(peer: Peer) -> None:
    stream = await peer.stream()
    for _ in range(100):
        peer.send(spdy.Data(1, b"x" * 65536))
    while not peer.incoming.empty():
        before = peer.reads
        await turns()
        if peer.reads == before:
            break
    assert STREAM_WINDOW < stream.inbox.size <= STREAM_WINDOW + 65536
    await stream.read()
    await stream.read()
    await turns()
    assert peer.reads > before


async def test_all_streams_together_stop_the_reading(peer: Peer) -> None:
    streams = [await peer.stream(ident) for ident in range(1, 21, 2)]
    for _ in range(20):
        for ident in range(1, 21, 2):
            peer.send(spdy.Data(ident, b"x" * 32768))
    before = -1
    while peer.reads != before:
        before = peer.reads
        await turns()
    assert CONNECTION_WINDOW < sum(s.inbox.size for s in streams) <= CONNECTION_WINDOW + 65536
    streams[3].drop()
    await turns()
    assert peer.reads > before


async def test_dropped_input_is_read_and_forgotten(peer: Peer) -> None:
    stream = await peer.stream()
    peer.send(spdy.Data(1, b"x" * 5000))
    await peer.pong()
    stream.drop()
    for _ in range(200):
        peer.send(spdy.Data(1, b"x" * 65536))
    await peer.pong()
    assert stream.inbox.size == 0


async def test_after_the_session_everything_is_read_and_new_streams_are_refused(peer: Peer) -> None:
    await peer.stream()
    peer.session.finish_reading()
    for _ in range(200):
        peer.send(spdy.Data(1, b"x" * 65536))
    peer.send(spdy.SynStream(3, ()))
    assert await peer.next(spdy.Reset) == spdy.Reset(3, spdy.REFUSED_STREAM)


async def test_too_many_streams(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy_session, "MAX_STREAMS", 3)
    for ident in (1, 3, 5):
        await peer.stream(ident)
    peer.send(spdy.SynStream(7, ()))
    assert await peer.next(spdy.Reset) == spdy.Reset(7, spdy.REFUSED_STREAM)
    peer.send(spdy.Reset(3, spdy.CANCEL))
    await peer.stream(9)


async def test_streams_that_have_ended_on_both_sides_are_forgotten(peer: Peer) -> None:
    for ident in range(1, 1001, 2):
        stream = await peer.stream(ident)
        if ident % 4 == 1:
            peer.send(spdy.Data(ident, b"", True))
            assert await stream.read() == b""
            await stream.close()
        else:
            await stream.close()
            peer.send(spdy.Data(ident, b"", True))
    await peer.pong()
    assert not peer.session._streams


async def test_a_stream_that_begins_with_its_end(peer: Peer) -> None:
    peer.send(spdy.SynStream(1, (), fin=True))
    await peer.next(spdy.SynReply)
    assert await peer.opened[0].read() == b""
    peer.send(spdy.SynStream(3, (), unidirectional=True))
    await peer.next(spdy.SynReply)
    await peer.opened[1].write(b"nothing")
    await peer.pong()


async def test_pings_are_answered_and_answers_are_not(peer: Peer) -> None:
    peer.send(spdy.Ping(2), spdy.Ping(5))
    assert await peer.next() == spdy.Ping(5)


@pytest.mark.parametrize(
    "frames",
    [
        [spdy.SynStream(2, ())],
        [spdy.SynStream(3, ()), spdy.SynStream(1, ())],
        [spdy.SynStream(1, ()), spdy.SynStream(1, ())],
        [spdy.Data(1, b"x")],
    ],
)
async def test_a_peer_that_breaks_the_rules_is_told_and_left(peer: Peer, frames: list[spdy.Frame]) -> None:
    peer.send(*frames)
    with pytest.raises(spdy.SpdyError):
        await peer.running
    assert isinstance(await peer.next(spdy.GoAway), spdy.GoAway)


async def test_data_of_a_stream_that_is_over_is_dropped(peer: Peer) -> None:
    stream = await peer.stream()
    await stream.reset()
    assert await peer.next(spdy.Reset) == spdy.Reset(1, spdy.CANCEL)
    peer.send(spdy.Data(1, b"late"), spdy.Reset(1, spdy.CANCEL), spdy.WindowUpdate(1, 5), spdy.MoreHeaders(1, ()))
    await peer.pong()


async def test_the_connections_end_ends_every_stream(peer: Peer) -> None:
    peer.send(spdy.Settings(((spdy.INITIAL_WINDOW_SIZE, 0),)))
    stream = await peer.stream()
    reading, writing = asyncio.ensure_future(stream.read()), asyncio.ensure_future(stream.write(b"x"))
    await turns()
    peer.incoming.put_nowait(b"")
    await peer.running
    assert await reading == b""
    await writing


async def test_a_peer_that_is_not_read_is_probed(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycrio.api.streaming.link.PROBE", 0.01)
    await peer.stream()
    for _ in range(40):
        peer.send(spdy.Data(1, b"x" * 65536))
    assert [await peer.next(spdy.Ping), await peer.next(spdy.Ping)] == [spdy.Ping(2), spdy.Ping(4)]
