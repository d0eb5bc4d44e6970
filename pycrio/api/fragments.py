"""Answers about pods and containers from parts that were serialised before.

A repeated protobuf field on the wire is the concatenation of its items, each with tag and length. Every list of the
CRI is field 1 of its answer, so an answer is the join of its items' fragments; the status of one object is field 1 of
its answer as well. A fragment is made once per record: records are frozen, so the same object means the same bytes, and
a changed pod or container is another object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

CHUNK = 3000
"""Items in one message of the Stream* calls."""

_TAG = b"\x0a"
_LEAST = 1024


class Identified(Protocol):
    """Whatever has an id of its own."""

    @property
    def id(self) -> str:
        """Unique within one list."""


R = TypeVar("R", bound=Identified)


def fragment(message: Message) -> bytes:
    """One item of field 1: tag, length, content (protobuf wire format, type 2)."""
    return wrap(message.SerializeToString())


def wrap(content: bytes) -> bytes:
    """A serialised message as one item of field 1."""
    size = len(content)
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return _TAG + bytes(length) + content


def numbered(number: int, item: bytes) -> bytes:
    """An item of field 1 as one of another field (below 16, so that its tag is one byte as well)."""
    return bytes([number << 3 | 2]) + item[1:]


class Fragments(Generic[R]):
    """Fragments of one kind of record. ``changed`` forgets a record that was replaced or removed; one that is answered
    after its end (a reading may take that long) is forgotten as new ones arrive."""

    def __init__(self, encode: Callable[[R], Message]) -> None:
        self._encode = encode
        self._kept: dict[str, tuple[R, bytes]] = {}
        self._limit = _LEAST

    def of(self, record: R) -> bytes:
        """The fragment of one record."""
        kept = self._kept.get(record.id)
        if kept is None or kept[0] is not record:
            kept = (record, fragment(self._encode(record)))
            self._kept[record.id] = kept
        return kept[1]

    def changed(self, old: R | None, new: R | None) -> None:
        """A listener of the table of these records."""
        _ = new  # made when it is wanted
        if old is not None:
            self._kept.pop(old.id, None)

    def join(self, records: Sequence[R]) -> bytes:
        """The answer that lists these records."""
        kept = self._kept
        parts: list[bytes] = []
        for record in records:
            found = kept.get(record.id)
            parts.append(found[1] if found is not None and found[0] is record else self.of(record))
        if len(kept) > self._limit:
            self._forget(records)
        return b"".join(parts)

    def pieces(self, records: Sequence[R]) -> Iterator[bytes]:
        """The same in answers of at most CHUNK records; none for none."""
        for start in range(0, len(records), CHUNK):
            yield self.join(records[start : start + CHUNK])

    def _forget(self, records: Sequence[R]) -> None:
        """Keep only what was just listed; what a filter or piece left out is made anew when next wanted."""
        self._kept = {r.id: self._kept[r.id] for r in records}
        self._limit = max(_LEAST, 2 * len(self._kept))


def join(messages: Sequence[Message]) -> bytes:
    """An answer of items that are made for it."""
    return b"".join(map(fragment, messages))


def pieces(messages: Sequence[Message]) -> Iterator[bytes]:
    """The same in answers of at most CHUNK items; none for none."""
    for start in range(0, len(messages), CHUNK):
        yield join(messages[start : start + CHUNK])
