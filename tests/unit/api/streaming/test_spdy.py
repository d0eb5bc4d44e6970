"""SPDY/3.1 framing: what the draft says byte by byte, every frame there and back, and garbage."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.api.streaming import spdy

IDS = st.integers(1, 2**31 - 1)
WORDS = st.integers(0, 2**32 - 1)
NAMES = (
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
    .map(str.lower)
    .filter(lambda name: name == name.lower())
)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
HEADERS = st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3), max_size=6).map(
    lambda found: tuple((name, value) for name, values in found.items() for value in values)
)
FRAMES = st.one_of(
    st.builds(spdy.SynStream, IDS, HEADERS, st.booleans(), st.booleans(), st.integers(0, 2**31 - 1), st.integers(0, 7)),
    st.builds(spdy.SynReply, IDS, HEADERS, st.booleans()),
    st.builds(spdy.MoreHeaders, IDS, HEADERS, st.booleans()),
    st.builds(spdy.Reset, IDS, WORDS),
    st.builds(spdy.Settings, st.lists(st.tuples(st.integers(0, 2**24 - 1), WORDS), max_size=5).map(tuple)),
    st.builds(spdy.Ping, WORDS),
    st.builds(spdy.GoAway, st.integers(0, 2**31 - 1), WORDS),
    st.builds(spdy.WindowUpdate, st.integers(0, 2**31 - 1), IDS),
    st.builds(spdy.Data, IDS, st.binary(max_size=300), st.booleans()),
)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[start:end]


def joined(frames: list[spdy.Frame]) -> list[spdy.Frame]:
    """Pieces of data frames put together again, as far as that can be told."""
    out: list[spdy.Frame] = []
    for frame in frames:
        last = out[-1] if out else None
        if (
            isinstance(frame, spdy.Data)
            and isinstance(last, spdy.Data)
            and last.stream == frame.stream
            and not last.fin
        ):
            out[-1] = spdy.Data(frame.stream, last.data + frame.data, frame.fin)
        else:
            out.append(frame)
    return out


def test_the_dictionary_is_the_drafts() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 10**6), max_size=8))
@settings(max_examples=200, deadline=None)
def test_frames_there_and_back_in_any_pieces(frames: list[spdy.Frame], cuts: list[int]) -> None:
    serializer, parser = spdy.Serializer(), spdy.Parser()
    data = b"".join(map(serializer.dump, frames))
    found = [frame for piece in pieces(data, cuts) for frame in parser.feed(piece)]
    assert joined(found) == joined(frames)


@given(st.lists(st.binary(max_size=200), max_size=10))
@settings(max_examples=300, deadline=None)
def test_garbage_is_frames_or_a_fault(chunks: list[bytes]) -> None:
    parser = spdy.Parser()
    try:
        for chunk in chunks:
            for _ in parser.feed(chunk):
                pass
    except spdy.SpdyError:
        return


@given(st.lists(FRAMES, min_size=1, max_size=4), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_damaged_frames_are_frames_or_a_fault(frames: list[spdy.Frame], at: int, flip: int) -> None:
    serializer, parser = spdy.Serializer(), spdy.Parser()
    data = bytearray(b"".join(map(serializer.dump, frames)))
    data[at % len(data)] ^= flip
    try:
        list(parser.feed(bytes(data)))
    except spdy.SpdyError:
        return


def only(data: bytes) -> spdy.Frame:
    (frame,) = spdy.Parser().feed(data)
    return frame


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("80030006 00000004 00000007", spdy.Ping(7)),
        ("80030007 00000008 00000005 00000001", spdy.GoAway(5, 1)),
        ("80030003 00000008 00000009 00000005", spdy.Reset(9, spdy.CANCEL)),
        ("80030009 00000008 00000000 00010000", spdy.WindowUpdate(0, 65536)),
        ("80030004 0000000c 00000001 01000007 00008000", spdy.Settings(((7, 32768),))),
        ("00000003 01000005 68656c6c6f", spdy.Data(3, b"hello", True)),
        ("00000003 00000000", spdy.Data(3, b"", False)),
    ],
)
def test_frames_by_the_byte(text: str, frame: spdy.Frame) -> None:
    assert only(bytes.fromhex(text)) == frame


def test_headers_as_a_plain_compressor_makes_them() -> None:
    block = bytes.fromhex("00000002 0000000a") + b"StreamType" + bytes.fromhex("00000005") + b"error"
    block += bytes.fromhex("00000001") + b"x" + bytes.fromhex("00000003") + b"a\0b"
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    body = bytes.fromhex("00000001 00000000 0000") + deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    frame = only(bytes.fromhex("80030001 01") + len(body).to_bytes(3, "big") + body)
    assert frame == spdy.SynStream(1, (("streamtype", "error"), ("x", "a"), ("x", "b")), fin=True)


def test_unknown_control_frames_are_passed_over() -> None:
    parser = spdy.Parser()
    data = bytes.fromhex("80030010 00000003 616263") + bytes.fromhex("80030006 00000004 00000001")
    assert list(parser.feed(data)) == [spdy.Ping(1)]


@pytest.mark.parametrize(
    "text",
    [
        "80020006 00000004 00000001",  # another version
        "80030006 00000003 000000",  # too short
        "80030007 00000004 00000001",
        "80030009 00000008 00000001 00000000",  # a window update by nothing
        "80030003 00000008 00000000 00000005",  # a reset of stream 0
        "00000000 00000001 61",  # data for stream 0
        "80030004 00000004 00000009",  # settings that are not there
        "80030001 00ffffff",  # a control frame of 16 MiB
        "80030001 00000004 00000001",  # a stream without its fixed part
        "80030001 0000000e 00000001 00000000 0000 ffffffff",  # headers that are not compressed
    ],
)
def test_faults(text: str) -> None:
    with pytest.raises(spdy.SpdyError):
        list(spdy.Parser().feed(bytes.fromhex(text)))


def test_headers_that_unpack_to_too_much() -> None:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    bomb = deflate.compress(bytes(50_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    body = (1).to_bytes(4, "big") + bomb
    assert len(body) < spdy.CONTROL_LIMIT
    with pytest.raises(spdy.SpdyError, match="too much"):
        list(spdy.Parser().feed(bytes.fromhex("80030002 00") + len(body).to_bytes(3, "big") + body))


def test_a_large_data_frame_is_not_held() -> None:
    parser = spdy.Parser()
    assert list(parser.feed(spdy.data_head(1, 1 << 23, True))) == []
    for index in range(128):
        (piece,) = parser.feed(b"x" * 65536)
        assert piece == spdy.Data(1, b"x" * 65536, index == 127)
