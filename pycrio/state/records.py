"""Records as versioned JSON: dataclasses of ``pycrio.model`` to text and back.

A file holds ``{"version": N, "kind": "pod"|"container", "record": {...}}``. Fields that a newer pycrio added and this
one does not know are ignored; fields that an older one lacked take their defaults; so a record survives an upgrade and
a downgrade. A change that this cannot express raises VERSION and adds a step to ``_UPGRADES``; a record of a version
above ours means something that we cannot know, and is refused rather than misread.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from pycrio.errors import StoreFailure
from pycrio.model.container import ContainerRecord
from pycrio.model.pod import PodRecord

VERSION = 1
KINDS: dict[str, type[Any]] = {"pod": PodRecord, "container": ContainerRecord}
_UPGRADES: dict[int, Callable[[str, dict[str, Any]], dict[str, Any]]] = {}

T = TypeVar("T")


class NewerRecord(StoreFailure):
    """A record that a later pycrio wrote, in a form that this one does not understand."""


def plain(value: Any) -> Any:
    """Turn a model value into what JSON can hold; defaults of dataclass fields are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out = {}
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            if f.default is not dataclasses.MISSING and item == f.default:
                continue
            if f.default_factory is not dataclasses.MISSING and item == f.default_factory():
                continue
            out[f.name] = plain(item)
        return out
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return value


def typed(kind: Any, value: Any) -> Any:
    """Turn JSON back into the type ``kind``; raises TypeError, ValueError, KeyError or AttributeError when it does not
    fit."""
    return _reader(kind)(value)


@functools.cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """The function that does it for a type. Types are looked into once: a start reads a thousand records."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = _reader(next(a for a in args if a is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _tuple_reader(args)
    if origin is dict:
        item = _reader(args[1])
        return lambda value: {k: item(v) for k, v in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        readers = {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}
        return lambda value: kind(**{k: readers[k](v) for k, v in value.items() if k in readers})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return lambda value: kind[value]
    if kind is bytes:
        return lambda value: base64.b64decode(value["b64"], validate=True)
    return functools.partial(_plain_value, kind) if kind in (int, float, str, bool) else lambda value: value


def _tuple_reader(args: tuple[Any, ...]) -> Callable[[Any], Any]:
    same = _reader(args[0]) if len(args) == 2 and args[1] is Ellipsis else None
    each = () if same else tuple(_reader(a) for a in args)

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, found {type(value).__name__}")
        if same is not None:
            return tuple([same(v) for v in value])
        return tuple(reader(v) for reader, v in zip(each, value, strict=True))

    return read


def _plain_value(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind and (kind, type(value)) != (float, int):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def encode(kind: str, record: PodRecord | ContainerRecord) -> bytes:
    """The file content for a record."""
    return json.dumps({"version": VERSION, "kind": kind, "record": plain(record)}, separators=(",", ":")).encode()


def decode(kind: str, text: bytes) -> Any:
    """The record of a file's content; StoreFailure names what is wrong with it, NewerRecord that it is of a later
    version."""
    try:
        document = json.loads(text)
        if document["kind"] != kind:
            raise ValueError(f"kind is {document['kind']!r}, expected {kind!r}")
        version, body = int(document["version"]), document["record"]
        if version > VERSION:
            raise NewerRecord(f"{kind} record has version {version}, this pycrio knows {VERSION} and older")
        while version < VERSION:
            body = _UPGRADES[version](kind, body)
            version += 1
        return typed(KINDS[kind], body)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise StoreFailure(f"{kind} record is unreadable: {type(e).__name__}: {e}") from e
