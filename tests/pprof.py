"""A reader of pprof files for tests: profile.proto as a descriptor, written down a second time from its definition."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_U64, _I64, _BOOL, _STRING, _MESSAGE = 4, 3, 8, 9, 11
# message -> (number, name, type, repeated, type's name)
_MESSAGES: dict[str, list[tuple[int, str, int, bool, str]]] = {
    "ValueType": [(1, "type", _I64, False, ""), (2, "unit", _I64, False, "")],
    "Sample": [(1, "location_id", _U64, True, ""), (2, "value", _I64, True, "")],
    "Mapping": [
        (1, "id", _U64, False, ""),
        (5, "filename", _I64, False, ""),
        (7, "has_functions", _BOOL, False, ""),
        (8, "has_filenames", _BOOL, False, ""),
        (9, "has_line_numbers", _BOOL, False, ""),
        (10, "has_inline_frames", _BOOL, False, ""),
    ],
    "Line": [(1, "function_id", _U64, False, ""), (2, "line", _I64, False, "")],
    "Location": [
        (1, "id", _U64, False, ""),
        (2, "mapping_id", _U64, False, ""),
        (4, "line", _MESSAGE, True, "Line"),
    ],
    "Function": [
        (1, "id", _U64, False, ""),
        (2, "name", _I64, False, ""),
        (3, "system_name", _I64, False, ""),
        (4, "filename", _I64, False, ""),
    ],
    "Profile": [
        (1, "sample_type", _MESSAGE, True, "ValueType"),
        (2, "sample", _MESSAGE, True, "Sample"),
        (3, "mapping", _MESSAGE, True, "Mapping"),
        (4, "location", _MESSAGE, True, "Location"),
        (5, "function", _MESSAGE, True, "Function"),
        (6, "string_table", _STRING, True, ""),
        (9, "time_nanos", _I64, False, ""),
        (10, "duration_nanos", _I64, False, ""),
        (11, "period_type", _MESSAGE, False, "ValueType"),
        (12, "period", _I64, False, ""),
        (13, "comment", _I64, True, ""),
        (14, "default_sample_type", _I64, False, ""),
    ],
}


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tests/profile.proto", package="tests.pprof", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated, target in fields:
            added = message.field.add(name=field, number=number, type=kind, label=3 if repeated else 1)  # type: ignore[arg-type]
            if target:
                added.type_name = f".tests.pprof.{target}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.pprof.Profile"))


_CLASS = _message_class()


@dataclass(frozen=True)
class Read:
    """``samples``: stacks as (function, file, line), innermost first, with their values by kind."""

    kinds: list[tuple[str, str]]
    samples: list[tuple[list[tuple[str, str, int]], dict[str, int]]]
    raw: Any

    def total(self, kind: str) -> int:
        """The sum of all values of a kind."""
        return sum(values[kind] for _, values in self.samples)

    def of(self, function: str, kind: str) -> int:
        """The sum of the values of stacks with a function that ends so."""
        return sum(v[kind] for stack, v in self.samples if any(name.endswith(function) for name, _, _ in stack))


def read(data: bytes) -> Read:
    """Read a file; what a reader relies on is checked."""
    raw = _CLASS.FromString(gzip.decompress(data))
    strings = list(raw.string_table)
    assert strings[0] == ""
    assert len(set(strings)) == len(strings)
    functions = {f.id: (strings[f.name], strings[f.filename]) for f in raw.function}
    mappings = {m.id for m in raw.mapping}
    locations = {}
    for location in raw.location:
        assert location.id > 0
        assert location.mapping_id in mappings
        (line,) = location.line
        locations[location.id] = (*functions[line.function_id], line.line)
    assert len(locations) == len(raw.location)
    kinds = [(strings[k.type], strings[k.unit]) for k in raw.sample_type]
    samples = []
    for sample in raw.sample:
        assert len(sample.value) == len(kinds)
        named = {kind: value for (kind, _), value in zip(kinds, sample.value, strict=True)}
        samples.append(([locations[i] for i in sample.location_id], named))
    return Read(kinds, samples, raw)
