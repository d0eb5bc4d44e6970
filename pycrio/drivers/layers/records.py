"""Records of layers, images, containers and mounts as the shared JSON files have them (store.md sections 4 to 7).

A field that we do not know is kept and written back: newer programs lose nothing when we save. Times stay the text
that their writer chose. A record is immutable; a change is a new record (``dataclasses.replace``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any, ClassVar, TypeVar, cast

from pycrio.model.security import IdMapping

_ID = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
ZERO_TIME = "0001-01-01T00:00:00Z"

# Values of a layer record's "compression".
COMPRESSION = {"none": 0, "bzip2": 1, "gzip": 2, "xz": 3, "zstd": 4}

Json = dict[str, Any]
R = TypeVar("R", bound="Record")


class BadRecord(ValueError):
    """A JSON object is not a record of the expected kind; the text says why."""


def is_id(text: str) -> bool:
    """True for 64 lower-case hexadecimal digits."""
    return _ID.fullmatch(text) is not None


def format_time(ns: int) -> str:
    """RFC 3339, UTC, with nanoseconds, trailing zeros dropped."""
    seconds, rest = divmod(ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch; 0 for the zero time, for times before the epoch and for what is not a time."""
    match = _TIME.fullmatch(text)
    if not match:
        return 0
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone == 'Z' else zone}")
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        return 0
    return max(0, seconds * 1_000_000_000 + int((fraction or "0")[:9].ljust(9, "0")))


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BadRecord("not a list of strings")
    return tuple(value)


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(v, int) for v in value):
        raise BadRecord("not a list of numbers")
    return tuple(value)


def _maps(value: object) -> tuple[IdMapping, ...]:
    if not isinstance(value, list):
        raise BadRecord("not a list of id maps")
    try:
        return tuple(IdMapping(int(m["container_id"]), int(m["host_id"]), int(m["size"])) for m in value)
    except (KeyError, TypeError, ValueError) as e:
        raise BadRecord(f"bad id map: {e}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadRecord("not a string")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise BadRecord("not a number")
    return value


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise BadRecord("not an object")
    return value


_DECODE = {
    "str": _text,
    "int": _number,
    "tuple[str, ...]": _strings,
    "tuple[int, ...]": _numbers,
    "tuple[IdMapping, ...]": _maps,
    "Mapping[str, Any]": _object,
    "Mapping[str, int]": _object,
    "Mapping[str, str]": _object,
}


def _encode_value(value: object) -> object:
    if isinstance(value, tuple):
        return [_encode_value(v) for v in value]
    if isinstance(value, IdMapping):
        return {"container_id": value.container_id, "host_id": value.host_id, "size": value.length}
    return value


@dataclass(frozen=True, slots=True)
class Record:
    """What every record has. ``extra``: fields of the JSON object that this version does not know."""

    id: str
    names: tuple[str, ...] = ()
    created: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    # Field name → key of the JSON object where they differ; fields that are written even when empty.
    KEYS: ClassVar[Mapping[str, str]] = {}
    ALWAYS: ClassVar[frozenset[str]] = frozenset({"id"})

    @classmethod
    def decode(cls: type[R], document: object) -> R:
        """Make a record of a parsed JSON object; BadRecord names the field that is wrong."""
        if not isinstance(document, dict):
            raise BadRecord("an entry is not an object")
        rest = dict(document)
        values: Json = {}
        for attribute, key, kind in _plan(cls):
            value = rest.pop(key, None)
            if value is None:
                continue
            try:
                values[attribute] = _DECODE[kind](value)
            except BadRecord as e:
                raise BadRecord(f"field {key!r} of {document.get('id')!r}: {e}") from None
        if not values.get("id"):
            raise BadRecord("an entry has no id")
        return cls(**values, extra=rest)

    def encode(self) -> bytes:
        """The JSON object, compact; empty optional fields are left out."""
        out: Json = {}
        for attribute, key, _ in _plan(type(self)):
            value = getattr(self, attribute)
            if value or attribute in self.ALWAYS:
                out[key] = _encode_value(value)
        out.update(self.extra)
        return json.dumps(out, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class LayerRecord(Record):
    """A layer. Sizes are bytes, -1 unknown; ``compression`` is a value of COMPRESSION."""

    parent: str = ""
    metadata: str = ""
    mountlabel: str = ""
    compressed_digest: str = ""
    compressed_size: int = 0
    diff_digest: str = ""
    diff_size: int = 0
    toc_digest: str = ""
    compression: int = 0
    uidset: tuple[int, ...] = ()
    gidset: tuple[int, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    uidmap: tuple[IdMapping, ...] = ()
    gidmap: tuple[IdMapping, ...] = ()
    data_names: tuple[str, ...] = ()

    KEYS: ClassVar[Mapping[str, str]] = {
        "compressed_digest": "compressed-diff-digest",
        "compressed_size": "compressed-size",
        "diff_digest": "diff-digest",
        "diff_size": "diff-size",
        "toc_digest": "toc-digest",
        "data_names": "big-data-names",
    }

    @property
    def incomplete(self) -> bool:
        """True while the layer is being made or deleted (and for what a crash left of that)."""
        return bool(self.flags.get("incomplete"))


@dataclass(frozen=True, slots=True)
class ImageRecord(Record):
    """An image; ``data_*`` describe its big data items."""

    digest: str = ""
    names_history: tuple[str, ...] = ()
    layer: str = ""
    mapped_layers: tuple[str, ...] = ()
    metadata: str = ""
    data_names: tuple[str, ...] = ()
    data_sizes: Mapping[str, int] = field(default_factory=dict)
    data_digests: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)

    KEYS: ClassVar[Mapping[str, str]] = {
        "names_history": "names-history",
        "mapped_layers": "mapped-layers",
        "data_names": "big-data-names",
        "data_sizes": "big-data-sizes",
        "data_digests": "big-data-digests",
    }

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the manifests it is known by, the main one first."""
        found = [self.digest] if self.digest else []
        for key, digest in self.data_digests.items():
            if key.startswith("manifest") and digest not in found:
                found.append(digest)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class ContainerRecord(Record):
    """A container: a writable layer above an image, and what its owner says about it in ``metadata``."""

    image: str = ""
    layer: str = ""
    metadata: str = ""
    data_names: tuple[str, ...] = ()
    data_sizes: Mapping[str, int] = field(default_factory=dict)
    data_digests: Mapping[str, str] = field(default_factory=dict)
    uidmap: tuple[IdMapping, ...] = ()
    gidmap: tuple[IdMapping, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)

    KEYS: ClassVar[Mapping[str, str]] = {
        "data_names": "big-data-names",
        "data_sizes": "big-data-sizes",
        "data_digests": "big-data-digests",
    }
    ALWAYS: ClassVar[frozenset[str]] = frozenset({"id", "image", "layer"})

    @property
    def volatile(self) -> bool:
        """True when the container need not survive a crash of the machine."""
        return bool(self.flags.get("Volatile"))


@dataclass(frozen=True, slots=True)
class MountRecord(Record):
    """How often a layer is mounted, and where."""

    path: str = ""
    count: int = 0

    ALWAYS: ClassVar[frozenset[str]] = frozenset({"id", "path", "count"})


_plans: dict[type[Record], tuple[tuple[str, str, str], ...]] = {}


def _plan(cls: type[Record]) -> tuple[tuple[str, str, str], ...]:
    """(attribute, JSON key, kind of value) of each known field."""
    plan = _plans.get(cls)
    if plan is None:
        plan = tuple(
            (f.name, cls.KEYS.get(f.name, f.name), cast(str, f.type)) for f in fields(cls) if f.name != "extra"
        )
        _plans[cls] = plan
    return plan


def decode_list(cls: type[R], data: bytes) -> list[R]:
    """The records of a file; an empty file is an empty list. BadRecord when it is anything but an array of records."""
    if not data.strip():
        return []
    try:
        documents = json.loads(data)
    except ValueError as e:
        raise BadRecord(f"not JSON: {e}") from None
    if documents is None:  # what an empty list of another writer looks like
        return []
    if not isinstance(documents, list):
        raise BadRecord("not a list of records")
    return [cls.decode(d) for d in documents]
