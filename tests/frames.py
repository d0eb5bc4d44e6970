"""HTTP/2 frames of a gRPC client by hand (RFC 9113, RFC 7541: literals without indexing), for what no library sends."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """One field of a header block."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def begin(stream: int, path: str, flags: int = END_HEADERS) -> bytes:
    """The headers of a call."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    fields["content-type"] = "application/grpc"
    return frame(HEADERS, flags, stream, b"".join(header(n.encode(), v.encode()) for n, v in fields.items()))


def call(stream: int, path: str, message: bytes = b"") -> bytes:
    """A whole call with one message."""
    body = b"\0" + struct.pack(">I", len(message)) + message
    return begin(stream, path) + frame(DATA, END_STREAM, stream, body)


def settings(**values: int) -> bytes:
    """Settings; ``window`` is the initial window of each stream."""
    numbers = {"window": 4}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[n], v) for n, v in values.items()))


def split(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """The whole frames at the beginning of what a server sent: (kind, flags, stream, payload) each."""
    found = []
    while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found
