"""A profile as data, and its two written forms: ``profile.proto`` of google/pprof, and collapsed stacks.

The first is for ``go tool pprof`` and everything that reads its files, the second (``outer;inner;innermost count``, a
line per stack) for flame graphs and speedscope. The proto is small and settled, so it is written by hand: the daemon
needs no generated code for something that is rarely asked for.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Frame(NamedTuple):
    """One call in a stack. ``line``: the one that runs, 0 where there is none."""

    function: str
    file: str = ""
    line: int = 0


Stack = tuple[Frame, ...]
"""Innermost call first."""


class Kind(NamedTuple):
    """What a value counts, e.g. ``cpu`` in ``nanoseconds``."""

    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class Profile:
    """Values per stack, as many as there are kinds. Times in nanoseconds; ``at`` since the epoch. ``period``: how much
    of ``period_kind`` lies between two samples."""

    kinds: tuple[Kind, ...]
    samples: Mapping[Stack, tuple[int, ...]]
    at: int = 0
    duration: int = 0
    period_kind: Kind | None = None
    period: int = 0
    comments: tuple[str, ...] = field(default=())


def collapsed(profile: Profile) -> str:
    """A line per stack with the last kind's value; nothing for stacks that have none of it."""
    lines = []
    for stack, values in profile.samples.items():
        if values[-1]:
            names = (_plain(frame) for frame in reversed(stack))
            lines.append(f"{';'.join(names)} {values[-1]}\n")
    return "".join(sorted(lines))


def _plain(frame: Frame) -> str:
    """A name without what separates names and counts."""
    return frame.function.replace(";", ":").replace("\n", " ")


def encode(profile: Profile) -> bytes:
    """The gzipped message ``perftools.profiles.Profile``."""
    return gzip.compress(_Writer().profile(profile), 6, mtime=0)


# Field numbers of profile.proto.
_SAMPLE_TYPE, _SAMPLE, _MAPPING, _LOCATION, _FUNCTION, _STRINGS = 1, 2, 3, 4, 5, 6
_TIME, _DURATION, _PERIOD_TYPE, _PERIOD, _COMMENT, _DEFAULT_TYPE = 9, 10, 11, 12, 13, 14


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are ten bytes of two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _packed(number: int, values: Iterable[int]) -> bytes:
    return _bytes(number, b"".join(map(_varint, values)))


class _Writer:
    """Tables of one message: strings, functions and locations are numbered as they turn up."""

    def __init__(self) -> None:
        self._strings = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[Frame, int] = {}
        self._written: list[bytes] = []

    def profile(self, profile: Profile) -> bytes:
        parts = [_bytes(_SAMPLE_TYPE, self._kind(kind)) for kind in profile.kinds]
        for stack, values in profile.samples.items():
            ids = [self._location(frame) for frame in stack]
            parts.append(_bytes(_SAMPLE, _packed(1, ids) + _packed(2, values)))
        # One mapping whose places are all known: readers then do not look for symbols in the interpreter's binary.
        program = _number(1, 1) + _number(5, self._string(sys.executable))
        parts.append(_bytes(_MAPPING, program + b"".join(_number(n, 1) for n in (7, 8, 9, 10))))
        parts += self._written
        parts += [_number(_TIME, profile.at), _number(_DURATION, profile.duration)]
        if profile.period_kind is not None:
            parts += [_bytes(_PERIOD_TYPE, self._kind(profile.period_kind)), _number(_PERIOD, profile.period)]
        parts.append(_packed(_COMMENT, [self._string(text) for text in profile.comments]))
        parts.append(_number(_DEFAULT_TYPE, self._string(profile.kinds[-1].name)))
        parts += [_bytes(_STRINGS, text.encode("utf-8", "replace")) for text in self._strings]
        return b"".join(parts)

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _kind(self, kind: Kind) -> bytes:
        return _number(1, self._string(kind.name)) + _number(2, self._string(kind.unit))

    def _function(self, frame: Frame) -> int:
        key = (frame.function, frame.file)
        ident = self._functions.get(key)
        if ident is None:
            ident = self._functions[key] = len(self._functions) + 1
            name = self._string(frame.function)
            content = _number(1, ident) + _number(2, name) + _number(3, name) + _number(4, self._string(frame.file))
            self._written.append(_bytes(_FUNCTION, content))
        return ident

    def _location(self, frame: Frame) -> int:
        ident = self._locations.get(frame)
        if ident is None:
            function = self._function(frame)
            ident = self._locations[frame] = len(self._locations) + 1
            line = _number(1, function) + _number(2, frame.line)
            self._written.append(_bytes(_LOCATION, _number(1, ident) + _number(2, 1) + _bytes(4, line)))
        return ident
