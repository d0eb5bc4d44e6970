"""Tar archives made by hand, byte by byte: also those that no decent writer would produce."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence

BLOCK = 512
END = bytes(2 * BLOCK)


def pad(data: bytes) -> bytes:
    """Data followed by zeros up to the next block."""
    return data + bytes(-len(data) % BLOCK)


def number(value: int, width: int) -> bytes:
    """Octal with a terminator, or base-256 when that does not fit or the value is negative."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    raw = value.to_bytes(width, "big", signed=True)
    return bytes([raw[0] | 0x80]) + raw[1:]


def header(
    name: bytes,
    *,
    type: bytes = b"0",
    size: int = 0,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    mtime: int = 1_600_000_000,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] = (0, 0),
    tail: bytes = b"",
) -> bytes:
    """One header block. `tail` is what follows the device numbers (a prefix, or what GNU puts there)."""
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            number(mode, 8),
            number(owner[0], 8),
            number(owner[1], 8),
            number(size, 12),
            number(mtime, 12),
            b" " * 8,
            type,
            link.ljust(100, b"\0"),
            magic,
            b"root".ljust(32, b"\0"),
            b"root".ljust(32, b"\0"),
            number(device[0], 8),
            number(device[1], 8),
            tail,
        )
    ).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


GNU = b"ustar  \0"


def records(values: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> bytes:
    """Pax records: length, key, value."""
    out = io.BytesIO()
    for key, value in values.items() if isinstance(values, Mapping) else values:
        body = b" " + key.encode() + b"=" + value + b"\n"
        n = len(body) + 1
        while len(str(n)) + len(body) != n:
            n = len(str(n)) + len(body)
        out.write(str(n).encode() + body)
    return out.getvalue()


def pax(values: Mapping[str, bytes] | Sequence[tuple[str, bytes]], *, type: bytes = b"x") -> bytes:
    """An extended header, local ("x") or global ("g")."""
    data = records(values)
    return header(b"./PaxHeaders/x", type=type, size=len(data)) + pad(data)


def gnu_long(text: bytes, *, type: bytes = b"L") -> bytes:
    """A GNU long name ("L") or long link target ("K")."""
    return header(b"././@LongLink", type=type, size=len(text) + 1, magic=GNU) + pad(text + b"\0")


def file(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    """A regular file, with a pax path when the name is too long for the header."""
    before = pax({"path": name}) if len(name) > 100 else b""
    return before + header(name[:100], size=len(data), **fields) + pad(data)  # type: ignore[arg-type]


def directory(name: bytes, *, mode: int = 0o755, **fields: object) -> bytes:
    return header(name, type=b"5", mode=mode, **fields)  # type: ignore[arg-type]


def old_sparse(name: bytes, regions: Sequence[tuple[int, bytes]], size: int) -> bytes:
    """Type S of old GNU tar, with as many continuation blocks as the map needs."""
    pairs = [number(at, 12) + number(len(data), 12) for at, data in regions]
    first, rest = pairs[:4], pairs[4:]
    tail = bytes(41) + b"".join(first).ljust(96, b"\0") + (b"\1" if rest else b"\0") + number(size, 12)
    stored = b"".join(data for _, data in regions)
    out = header(name, type=b"S", size=len(stored), magic=GNU, tail=tail)
    while rest:
        now, rest = rest[:21], rest[21:]
        out += (b"".join(now).ljust(504, b"\0") + (b"\1" if rest else b"\0")).ljust(BLOCK, b"\0")
    return out + pad(stored)


def pax_sparse(name: bytes, regions: Sequence[tuple[int, bytes]], size: int, *, version: str) -> bytes:
    """The three pax forms: 0.0, 0.1, 1.0."""
    stored = b"".join(data for _, data in regions)
    count = str(len(regions)).encode()
    if version == "0.0":
        rows = [("GNU.sparse.size", str(size).encode()), ("GNU.sparse.numblocks", count)]
        for at, data in regions:
            rows += [("GNU.sparse.offset", str(at).encode()), ("GNU.sparse.numbytes", str(len(data)).encode())]
        return pax(rows) + header(name, size=len(stored)) + pad(stored)
    if version == "0.1":
        flat = ",".join(f"{at},{len(data)}" for at, data in regions).encode()
        head = {"GNU.sparse.size": str(size).encode(), "GNU.sparse.numblocks": count, "GNU.sparse.map": flat}
        return pax(head | {"GNU.sparse.name": name}) + header(b"GNUSparseFile.0/x", size=len(stored)) + pad(stored)
    text = pad(b"\n".join([count, *(b"%d\n%d" % (at, len(data)) for at, data in regions)]) + b"\n")
    head = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": str(size).encode()}
    stored = text + stored
    return pax(head | {"GNU.sparse.name": name}) + header(b"GNUSparseFile.0/x", size=len(stored)) + pad(stored)


def capability(bits: int) -> bytes:
    """Value of security.capability: revision 2, effective, these permitted bits."""
    return struct.pack("<IIIII", 0x02000001, bits & 0xFFFFFFFF, 0, bits >> 32, 0)


def seal(*parts: bytes) -> bytes:
    """The members and the end mark."""
    return b"".join(parts) + END
