"""Small things that every noun needs: checked enums and ids, values that may be absent."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from google.protobuf.message import Message

from pycrio.api._pb import api_pb2 as pb
from pycrio.errors import InvalidRequest

E = TypeVar("E", bound=Enum)

MAX_ID = 2**32 - 2
"""Largest uid or gid; 2^32-1 means "leave unchanged" to the kernel (man 2 chown)."""

_FREE_TEXT = frozenset({"labels", "annotations", "info", "label_selector"})


def enum_of(kind: type[E], number: int, what: str) -> E:
    """The model's value for a wire number; proto3 lets any number through, so unknown ones are refused here."""
    try:
        return kind(number)
    except ValueError:
        raise InvalidRequest(f"{what} has the unknown value {number}") from None


def checked_id(value: int, what: str) -> int:
    """A uid or gid in the kernel's range."""
    if not 0 <= value <= MAX_ID:
        raise InvalidRequest(f"{what} {value} is not an id between 0 and {MAX_ID}")
    return value


def checked_ids(values: Iterable[int], what: str) -> tuple[int, ...]:
    """Several uids or gids in the kernel's range."""
    return tuple(checked_id(value, what) for value in values)


def given(value: str, what: str) -> str:
    """A field that must not be empty."""
    if not value:
        raise InvalidRequest(f"{what} should not be empty")
    return value


def maybe_uint(value: int | None) -> pb.UInt64Value | None:
    """A counter that may be absent; negative readings (a counter that was reset meanwhile) count as 0."""
    return None if value is None else pb.UInt64Value(value=max(value, 0))


def refuse_nul(message: Message, where: str) -> None:
    """Raise InvalidRequest when a name, path or argument holds a NUL byte, which no system call can carry.

    Labels and annotations are free text and may hold any character.
    """
    for field, value in message.ListFields():
        if field.name in _FREE_TEXT:
            continue
        name = f"{where}.{field.name}"
        for item in _items(value):
            if isinstance(item, Message):
                refuse_nul(item, name)
            elif (isinstance(item, str) and "\0" in item) or (isinstance(item, bytes) and b"\0" in item):
                raise InvalidRequest(f"{name} contains a NUL character")


def _items(value: object) -> Iterable[object]:
    """The parts of a field's value: itself, the items of a list, keys and values of a map."""
    if isinstance(value, (str, bytes, Message)):
        return (value,)
    if hasattr(value, "items"):
        return [part for pair in value.items() for part in pair]
    return value if isinstance(value, Iterable) else ()
