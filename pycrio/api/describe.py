"""Messages as one line of text for the debug log, without what must not be there."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

FILTERED = "[FILTERED]"
_LONGEST = 1024


def describe(message: Message) -> str:
    """``ExecSyncRequest: {container_id: "…", cmd: ["true"]}``; bytes and fields marked debug_redact are left out, and
    long texts are cut."""
    return f"{message.DESCRIPTOR.name}: {_fields(message)}"


def _fields(message: Message) -> str:
    parts: list[str] = []
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            parts.append(f"{field.name}: {FILTERED}")
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            pairs = ", ".join(f"{_scalar(field, key)}: {_map_value(value[key])}" for key in sorted(value))
            parts.append(f"{field.name}: {{{pairs}}}")
        elif field.is_repeated:
            parts.append(f"{field.name}: [{', '.join(_one(field, item) for item in value)}]")
        else:
            parts.append(f"{field.name}: {_one(field, value)}")
    return "{" + ", ".join(parts) + "}"


def _one(field: FieldDescriptor, value: object) -> str:
    return _fields(value) if isinstance(value, Message) else _scalar(field, value)


def _map_value(value: object) -> str:
    return _fields(value) if isinstance(value, Message) else _quoted(str(value))


def _scalar(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, bytes):
        return FILTERED
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value) if isinstance(value, int) else None
        return str(known.name) if known else str(value)
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
    return '"' + cut.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
