"""ttrpc messages, without I/O: a header of ``length, stream id`` (big-endian u32), ``type, flags`` (u8), then data."""

from __future__ import annotations

import struct
from dataclasses import dataclass

REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_OPEN = 2
"""Request flag: the caller would go on sending, which no unary call does."""
MAX_DATA = 4 << 20
"""Most bytes of a message's data."""

HEADER = struct.Struct(">IIBB")


class FramingError(Exception):
    """The peer does not speak the protocol; the connection is of no use any more."""


@dataclass(frozen=True, slots=True)
class Message:
    """One ttrpc message."""

    stream: int
    kind: int
    flags: int
    data: bytes


def take(part: bytearray) -> list[Message]:
    """Take the complete messages from the front; FramingError for one that is beyond the limit."""
    out: list[Message] = []
    at = 0
    while len(part) - at >= HEADER.size:
        length, stream, kind, flags = HEADER.unpack_from(part, at)
        if length > MAX_DATA:
            raise FramingError(f"message of {length} bytes is beyond the limit of {MAX_DATA}")
        end = at + HEADER.size + length
        if len(part) < end:
            break
        out.append(Message(stream, kind, flags, bytes(part[at + HEADER.size : end])))
        at = end
    del part[:at]
    return out


def encode(message: Message) -> bytes:
    """The message's bytes; ValueError for data beyond the limit."""
    if len(message.data) > MAX_DATA:
        raise ValueError(f"message of {len(message.data)} bytes is beyond the limit of {MAX_DATA}")
    return HEADER.pack(len(message.data), message.stream, message.kind, message.flags) + message.data


class Plain:
    """Messages directly on the stream. See ``link.Codec``."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def feed(self, data: bytes) -> list[tuple[bool, Message]]:
        """The messages that are complete now, and whether each one answers a call of ours."""
        self._raw += data
        return [(message.kind == RESPONSE, message) for message in take(self._raw)]

    def encode(self, message: Message, ours: bool) -> bytes:
        """The bytes for the socket."""
        return encode(message)
