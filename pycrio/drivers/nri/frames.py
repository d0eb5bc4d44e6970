"""The framing of an NRI socket, without I/O: bytes in, messages out, and back.

Two layers. The multiplexer carries two connections over one stream: frames of ``connection id, length`` (two big-endian
u32) and payload. Each connection carries ttrpc messages: a header of ``length, stream id`` (u32), ``type, flags`` (u8)
and the data (ttrpc PROTOCOL.md). A message may be cut into frames anywhere; a frame may hold several messages.
"""

from __future__ import annotations

import struct

from pycrio.ttrpc import frames as ttrpc
from pycrio.ttrpc.frames import HEADER, MAX_DATA, FramingError, Message, take

PLUGIN_CONN = 1
"""The connection on which the runtime calls the plugin."""
RUNTIME_CONN = 2
"""The connection on which the plugin calls the runtime."""

_MUX = struct.Struct(">II")
_MAX_FRAME = MAX_DATA + HEADER.size
# Readers in Go take a frame whole, into a buffer of 4096 bytes or, once they know a message's length, into that
# message's own; and a queue of 256 frames that overflows ends the connection. So: one frame of at most 4096 bytes,
# then the rest in one.
_FIRST_FRAME = 4096


class Demultiplexer:
    """From the socket's bytes to messages, each with the connection that it came on.

    Payload of connections other than the two is skipped. What is kept of an unfinished message is bounded by the
    limits of both layers.
    """

    def __init__(self) -> None:
        self._raw = bytearray()
        self._parts: dict[int, bytearray] = {PLUGIN_CONN: bytearray(), RUNTIME_CONN: bytearray()}

    def feed(self, data: bytes) -> list[tuple[int, Message]]:
        """The messages that are complete now; FramingError for frames or messages beyond the limits."""
        self._raw += data
        out: list[tuple[int, Message]] = []
        at = 0
        while len(self._raw) - at >= _MUX.size:
            conn, length = _MUX.unpack_from(self._raw, at)
            if length > _MAX_FRAME:
                raise FramingError(f"frame of {length} bytes is beyond the limit of {_MAX_FRAME}")
            if len(self._raw) - at - _MUX.size < length:
                break
            at += _MUX.size
            part = self._parts.get(conn)
            if part is not None:
                part += memoryview(self._raw)[at : at + length]
                out += ((conn, message) for message in take(part))
            at += length
        del self._raw[:at]
        return out


def encode(conn: int, message: Message) -> bytes:
    """The bytes for the socket; ValueError for data beyond the limit."""
    whole = ttrpc.encode(message)
    first, rest = whole[:_FIRST_FRAME], whole[_FIRST_FRAME:]
    frames = _MUX.pack(conn, len(first)) + first
    return frames + _MUX.pack(conn, len(rest)) + rest if rest else frames


class Codec:
    """What ``ttrpc.link.Link`` reads and writes on an NRI socket: a connection of the multiplexer per direction."""

    def __init__(self) -> None:
        self._parser = Demultiplexer()

    def feed(self, data: bytes) -> list[tuple[bool, Message]]:
        """The messages that are complete now, and whether each one came on the connection of our calls."""
        return [(conn == PLUGIN_CONN, message) for conn, message in self._parser.feed(data)]

    def encode(self, message: Message, ours: bool) -> bytes:
        """The bytes for the socket; ValueError for data beyond the limit."""
        return encode(PLUGIN_CONN if ours else RUNTIME_CONN, message)


__all__ = ["MAX_DATA", "PLUGIN_CONN", "RUNTIME_CONN", "Codec", "Demultiplexer", "FramingError", "Message", "encode"]
