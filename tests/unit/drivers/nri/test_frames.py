"""The framing: whatever is cut wherever comes out whole, and nothing that a peer sends does more than end the link."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.drivers.nri import frames
from pycrio.drivers.nri.frames import Demultiplexer, FramingError, Message, encode
from pycrio.ttrpc.frames import MAX_DATA

MESSAGES = st.builds(
    Message,
    stream=st.integers(0, 2**32 - 1),
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    data=st.one_of(st.binary(max_size=64), st.binary(min_size=4000, max_size=9000)),
)
TRAFFIC = st.lists(st.tuples(st.sampled_from([frames.PLUGIN_CONN, frames.RUNTIME_CONN]), MESSAGES), max_size=8)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({c % (len(data) + 1) for c in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(deadline=None)
@given(TRAFFIC, st.lists(st.integers(0, 1 << 20), max_size=20))
def test_messages_survive_any_chunks(traffic: list[tuple[int, Message]], cuts: list[int]) -> None:
    data = b"".join(encode(conn, message) for conn, message in traffic)
    parser = Demultiplexer()
    assert [m for piece in chunks(data, cuts) for m in parser.feed(piece)] == traffic


@settings(deadline=None)
@given(TRAFFIC, st.lists(st.integers(0, 1 << 20), max_size=20), st.integers(3, 2**32 - 1))
def test_messages_survive_any_frames(traffic: list[tuple[int, Message]], cuts: list[int], other: int) -> None:
    """Frames of the two connections interleaved and cut anywhere, others' frames between them."""
    streams = {1: b"", 2: b""}
    for conn, m in traffic:
        streams[conn] += struct.pack(">IIBB", len(m.data), m.stream, m.kind, m.flags) + m.data
    pieces = {conn: chunks(data, cuts) for conn, data in streams.items()}
    raw = b""
    while pieces[1] or pieces[2]:
        for conn, rest in pieces.items():
            if rest:
                piece = rest.pop(0)
                raw += struct.pack(">II", conn, len(piece)) + piece + struct.pack(">II", other, 3) + b"xyz"
    found = Demultiplexer().feed(raw)
    for conn in (1, 2):
        assert [m for c, m in found if c == conn] == [m for c, m in traffic if c == conn]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_junk_raises_nothing_else(pieces: list[bytes]) -> None:
    parser = Demultiplexer()
    try:
        for piece in pieces:
            for _, message in parser.feed(piece):
                assert len(message.data) <= MAX_DATA
    except FramingError:
        pass


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(1, 2))
def test_junk_in_a_frame_raises_nothing_else(payload: bytes, conn: int) -> None:
    parser = Demultiplexer()
    try:
        parser.feed(struct.pack(">II", conn, len(payload)) + payload)
    except FramingError:
        assert struct.unpack(">I", payload[:4])[0] > MAX_DATA


@pytest.mark.parametrize("size", [0, 1, 4085, 4086, 4087, 8182, 100_000, MAX_DATA])
def test_frames_fit_the_buffers_of_readers_in_go(size: int) -> None:
    data = encode(1, Message(1, 1, 0, b"x" * size))
    sizes = []
    while data:
        conn, length = struct.unpack(">II", data[:8])
        assert conn == 1
        sizes.append(length)
        data = data[8 + length :]
    assert sizes[0] <= 4096
    assert len(sizes) <= 2
    assert sum(sizes) == size + 10


def test_limits() -> None:
    with pytest.raises(ValueError, match="beyond the limit"):
        encode(1, Message(1, 1, 0, b"x" * (MAX_DATA + 1)))
    with pytest.raises(FramingError, match="frame of"):
        Demultiplexer().feed(struct.pack(">II", 1, MAX_DATA + 11))
    with pytest.raises(FramingError, match="message of"):
        Demultiplexer().feed(struct.pack(">IIIIBB", 1, 10, MAX_DATA + 1, 1, 1, 0))
