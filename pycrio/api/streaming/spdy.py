"""SPDY/3.1 framing: bytes to frames and back, without I/O (SPDY protocol draft 3.1, sections 2.2, 2.6).

Only what can travel on a stream between two peers is here; who may send what is ``spdy_session``'s business. Data
frames are handed out in pieces as they arrive, so that a frame of 16 MiB costs no memory; control frames are held
whole and therefore limited.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

VERSION = 3
FIN = 0x01
UNIDIRECTIONAL = 0x02
CONTROL_LIMIT = 64 << 10
"""Bytes of a control frame's body at most, and of its headers when unpacked."""

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9

PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, UNSUPPORTED_VERSION, CANCEL, INTERNAL_ERROR = 1, 2, 3, 4, 5, 6
STREAM_IN_USE, STREAM_ALREADY_CLOSED = 8, 9
"""Status codes of RST_STREAM."""
INITIAL_WINDOW_SIZE = 7
"""The one SETTINGS id that matters here."""

_NAMES = """options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age
allow authorization cache-control connection content-base content-encoding content-language content-length
content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since
if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate
proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning
www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin"""
_REASONS = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information|204 No Content|301 Moved Permanently|400 Bad Request|401 Unauthorized|"
    "403 Forbidden|404 Not Found|500 Internal Server Error|501 Not Implemented|503 Service Unavailable|"
)
_VALUES = (
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT|"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "|publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(len(name).to_bytes(4, "big") + name.replace("_", " ").encode() for name in _NAMES.split())
    + (_REASONS + _VALUES).replace("|", "").encode()
)
"""The preset dictionary of the header compression (section 2.6.10.1); its Adler-32 is 0xe3c6a7c2."""

Headers = Sequence[tuple[str, str]]


class SpdyError(Exception):
    """The peer broke the protocol in a way that ends the whole connection."""


@dataclass(frozen=True, slots=True)
class SynStream:
    """A new stream. ``headers``: names in lower case, a name once per value."""

    stream: int
    headers: Headers
    fin: bool = False
    unidirectional: bool = False
    associated: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SynReply:
    """A stream was accepted."""

    stream: int
    headers: Headers = ()
    fin: bool = False


@dataclass(frozen=True, slots=True)
class MoreHeaders:
    """Further headers of a stream."""

    stream: int
    headers: Headers
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """A stream ends abnormally."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Pairs of id and value."""

    values: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """To be sent back by the peer."""

    ident: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer accepts no further streams."""

    last: int
    status: int = 0


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    """``delta`` more bytes may be sent on a stream (0: on the connection)."""

    stream: int
    delta: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; ``fin`` with the last piece of the frame that carried it."""

    stream: int
    data: bytes
    fin: bool = False


Frame = SynStream | SynReply | MoreHeaders | Reset | Settings | Ping | GoAway | WindowUpdate | Data


class Parser:
    """Frames from bytes, for one direction of one connection. After a SpdyError it is of no further use."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._data: tuple[int, bool, int] | None = None  # stream, fin and bytes to come of the data frame at hand

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes, in order; take them all. SpdyError at the first fault."""
        self._buffer += data
        while True:
            if self._data is not None:
                if (piece := self._piece(*self._data)) is None:
                    return
                yield piece
                continue
            if len(self._buffer) < 8:
                return
            length = int.from_bytes(self._buffer[5:8], "big")
            if not self._buffer[0] & 0x80:
                stream, fin = int.from_bytes(self._buffer[:4], "big"), bool(self._buffer[4] & FIN)
                if stream == 0:
                    raise SpdyError("data for stream 0")
                del self._buffer[:8]
                self._data = stream, fin, length
                if length == 0:
                    self._data = None
                    yield Data(stream, b"", fin)
                continue
            if length > CONTROL_LIMIT:
                raise SpdyError(f"control frame of {length} bytes")
            if len(self._buffer) < 8 + length:
                return
            head, body = bytes(self._buffer[:5]), bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if (frame := self._control(head, body)) is not None:
                yield frame

    def _piece(self, stream: int, fin: bool, missing: int) -> Data | None:
        if not self._buffer:
            return None
        data = bytes(self._buffer[:missing])
        del self._buffer[:missing]
        missing -= len(data)
        self._data = (stream, fin, missing) if missing else None
        return Data(stream, data, fin and not missing)

    def _control(self, head: bytes, body: bytes) -> Frame | None:
        version, kind, flags = int.from_bytes(head[:2], "big") & 0x7FFF, int.from_bytes(head[2:4], "big"), head[4]
        if version != VERSION:
            raise SpdyError(f"control frame of version {version}")
        fin = bool(flags & FIN)
        if kind == SYN_STREAM:
            first, second, priority = _word(body, 0), _word(body, 4), _byte(body, 8) >> 5
            _byte(body, 9)
            stream, headers = _number(first), self._headers(body[10:])
            return SynStream(stream, headers, fin, bool(flags & UNIDIRECTIONAL), second & 0x7FFFFFFF, priority)
        if kind in (SYN_REPLY, HEADERS):
            stream = _number(_word(body, 0))
            headers = self._headers(body[4:])
            return SynReply(stream, headers, fin) if kind == SYN_REPLY else MoreHeaders(stream, headers, fin)
        if kind == SETTINGS:
            return _settings(body)
        if kind == PING:
            _exactly(body, 4)
            return Ping(_word(body, 0))
        if kind == GOAWAY:
            _exactly(body, 8)
            return GoAway(_word(body, 0) & 0x7FFFFFFF, _word(body, 4))
        if kind == RST_STREAM:
            _exactly(body, 8)
            return Reset(_number(_word(body, 0)), _word(body, 4))
        if kind == WINDOW_UPDATE:
            _exactly(body, 8)
            delta = _word(body, 4) & 0x7FFFFFFF
            if delta == 0:
                raise SpdyError("window update by nothing")
            return WindowUpdate(_word(body, 0) & 0x7FFFFFFF, delta)
        return None  # section 2.2.1: unknown kinds are ignored

    def _headers(self, packed: bytes) -> Headers:
        try:
            text = self._inflate.decompress(packed, CONTROL_LIMIT)
        except zlib.error as e:
            raise SpdyError(f"headers that do not unpack: {e}") from e
        if self._inflate.unconsumed_tail or self._inflate.eof:
            raise SpdyError("headers that unpack to too much")
        return _pairs(text)


def _settings(body: bytes) -> Settings:
    count = _word(body, 0)
    _exactly(body, 4 + 8 * count)
    return Settings(tuple((_word(body, at) & 0xFFFFFF, _word(body, at + 4)) for at in range(4, 4 + 8 * count, 8)))


def _pairs(text: bytes) -> Headers:
    """A name/value block; several values of a name are separated by NUL."""
    if not text:
        return ()
    count, at = _word(text, 0), 4
    found: list[tuple[str, str]] = []
    if count > len(text) // 8:
        raise SpdyError(f"{count} headers in {len(text)} bytes")
    for _ in range(count):
        name, at = _string(text, at)
        value, at = _string(text, at)
        found += [(name.lower(), one) for one in value.split("\0")]
    if at != len(text):
        raise SpdyError("bytes after the last header")
    return tuple(found)


def _string(text: bytes, at: int) -> tuple[str, int]:
    end = at + 4 + _word(text, at)
    if end > len(text):
        raise SpdyError("header longer than its block")
    return text[at + 4 : end].decode("utf-8", "replace"), end


def _word(body: bytes, at: int) -> int:
    if len(body) < at + 4:
        raise SpdyError("frame too short")
    return int.from_bytes(body[at : at + 4], "big")


def _byte(body: bytes, at: int) -> int:
    if len(body) <= at:
        raise SpdyError("frame too short")
    return body[at]


def _number(word: int) -> int:
    stream = word & 0x7FFFFFFF
    if stream == 0:
        raise SpdyError("stream 0 in a frame of a stream")
    return stream


def _exactly(body: bytes, length: int) -> None:
    if len(body) != length:
        raise SpdyError(f"frame of {len(body)} bytes instead of {length}")


class Serializer:
    """Frames to bytes, for one direction of one connection."""

    def __init__(self) -> None:
        # The smallest window: what we send is short, and a connection's memory counts.
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, 9, 1, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)

    def dump(self, frame: Frame) -> bytes:
        """One frame. Frames with headers must be sent in the order in which they were dumped."""
        if isinstance(frame, Data):
            return data_head(frame.stream, len(frame.data), frame.fin) + frame.data
        if isinstance(frame, SynStream):
            flags = (FIN if frame.fin else 0) | (UNIDIRECTIONAL if frame.unidirectional else 0)
            head = _words(frame.stream, frame.associated) + bytes((frame.priority << 5, 0))
            return _control(SYN_STREAM, head + self._pack(frame.headers), flags)
        if isinstance(frame, (SynReply, MoreHeaders)):
            kind = SYN_REPLY if isinstance(frame, SynReply) else HEADERS
            return _control(kind, _words(frame.stream) + self._pack(frame.headers), FIN if frame.fin else 0)
        if isinstance(frame, Settings):
            return _control(SETTINGS, _words(len(frame.values), *(n for pair in frame.values for n in pair)))
        if isinstance(frame, Ping):
            return _control(PING, _words(frame.ident))
        if isinstance(frame, GoAway):
            return _control(GOAWAY, _words(frame.last, frame.status))
        if isinstance(frame, Reset):
            return _control(RST_STREAM, _words(frame.stream, frame.status))
        return _control(WINDOW_UPDATE, _words(frame.stream, frame.delta))

    def _pack(self, headers: Headers) -> bytes:
        merged: dict[str, list[str]] = {}
        for name, value in headers:
            merged.setdefault(name.lower(), []).append(value)
        text = _words(len(merged)) + b"".join(_packed(merged.items()))
        return self._deflate.compress(text) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _packed(headers: Iterable[tuple[str, list[str]]]) -> Iterator[bytes]:
    for name, values in headers:
        for word in (name, "\0".join(values)):
            raw = word.encode()
            yield _words(len(raw)) + raw


def data_head(stream: int, length: int, fin: bool) -> bytes:
    """The eight bytes before the data of a frame."""
    return stream.to_bytes(4, "big") + bytes((FIN if fin else 0,)) + length.to_bytes(3, "big")


def _words(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(4, "big") for n in numbers)


def _control(kind: int, body: bytes, flags: int = 0) -> bytes:
    head = (0x8000 | VERSION).to_bytes(2, "big") + kind.to_bytes(2, "big")
    return head + bytes((flags,)) + len(body).to_bytes(3, "big") + body
