"""The proto says what the table says, and the generated module is in step with the proto."""

from __future__ import annotations

import pathlib
import runpy

import pytest
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldOptions

from pycrio.api._pb import api_pb2 as pb
from tests.unit.api import cri_table

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_DOUBLE: "double",
}


def type_name(field: FieldDescriptor) -> str:
    """A field's type as the table writes it."""
    if field.enum_type is not None:
        return str(field.enum_type.full_name).removeprefix("runtime.v1.")
    if field.message_type is None:
        return SCALARS[field.type]
    entry = field.message_type
    if entry.GetOptions().map_entry:
        return f"map<{type_name(entry.fields_by_name['key'])},{type_name(entry.fields_by_name['value'])}>"
    return str(entry.name)


def label(field: FieldDescriptor) -> str:
    """A field's label as the table writes it."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return "map"
    return "repeated" if field.is_repeated else ""


def numbers(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def test_package_and_syntax() -> None:
    assert pb.DESCRIPTOR.package == "runtime.v1"
    assert pb.DESCRIPTOR.name == "runtime/v1/api.proto"


def test_the_same_messages() -> None:
    assert len(cri_table.MESSAGES) == 175
    assert set(pb.DESCRIPTOR.message_types_by_name) == set(cri_table.MESSAGES)


@pytest.mark.parametrize("name", sorted(cri_table.MESSAGES))
def test_message(name: str) -> None:
    descriptor = pb.DESCRIPTOR.message_types_by_name[name]
    said = {(f.number, f.name, type_name(f), label(f)) for f in descriptor.fields}
    assert said == set(cri_table.MESSAGES[name])
    assert not descriptor.oneofs


def test_enums() -> None:
    top = {name: numbers(enum) for name, enum in pb.DESCRIPTOR.enum_types_by_name.items()}
    nested = {
        f"{name}.{inner.name}": numbers(inner)
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
        for inner in message.enum_types
    }
    assert top | nested == cri_table.ENUMS
    assert len(top) == 10


def test_services() -> None:
    assert sum(map(len, cri_table.SERVICES.values())) == 43
    said = {
        name: {(m.name, m.input_type.name, m.output_type.name, m.server_streaming) for m in service.methods}
        for name, service in pb.DESCRIPTOR.services_by_name.items()
    }
    assert said == {name: set(methods) for name, methods in cri_table.SERVICES.items()}
    assert not any(m.client_streaming for s in pb.DESCRIPTOR.services_by_name.values() for m in s.methods)


def test_field_options() -> None:
    options: list[tuple[tuple[str, str], FieldOptions]] = [
        ((name, field.name), field.GetOptions())
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
        for field in message.fields
    ]
    assert {where for where, o in options if o.deprecated} == cri_table.DEPRECATED
    assert {where for where, o in options if o.debug_redact} == cri_table.REDACTED


def test_generated_code_is_in_step(tmp_path: pathlib.Path) -> None:
    """``make proto`` would change nothing (the compiler's own version may differ)."""
    script = runpy.run_path(str(ROOT / "protos" / "generate.py"))
    script["generate"](tmp_path)
    fresh: dict[str, bytes] = {}
    kept: dict[str, bytes] = {}
    for directory, found in ((tmp_path, fresh), (script["PRIVATE"], kept)):
        for line in (directory / "api_pb2.py").read_bytes().splitlines():
            if line.startswith(b"DESCRIPTOR = "):
                found["descriptor"] = line
        found["types"] = (directory / "api_pb2.pyi").read_bytes()
    assert "descriptor" in kept
    assert fresh == kept
