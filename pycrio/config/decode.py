"""From what a TOML file, a flag or a variable says to values of rows; what does not fit becomes a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pycrio.config import units
from pycrio.config.documents import Document, Path
from pycrio.config.options import BY_KEY, FILE_ROWS, HANDLER, RESOURCES, WORKLOAD, Row, Value
from pycrio.config.values import Fault, HandlerConf, Origin, Typed, WorkloadConf, WorkloadResources

RUNTIMES = "crio.runtime.runtimes"
WORKLOADS = "crio.runtime.workloads"
_TABLES = {row.table for row in FILE_ROWS}
_FOLDED = {row.key.lower(): row for row in FILE_ROWS}
_HANDLER = {row.name: row for row in HANDLER}
_WORKLOAD = {row.name: row for row in WORKLOAD}
_RESOURCES = {row.name: row for row in RESOURCES}
_KEEP_WHEN_EMPTY = frozenset({"crio.root", "crio.runroot", "crio.storage_driver"})
_KINDS: dict[str, str] = {
    "string": "a string",
    "bool": "true or false",
    "int": "an integer",
    "strings": "a list of strings",
    "duration": 'a duration such as "30s"',
    "map": "a table of strings",
    "table": "a table",
}


@dataclass(slots=True)
class Draft(Typed):
    """Values while they are being collected, in the order of rising precedence."""

    values: dict[str, Value]
    origins: dict[str, Origin] = field(default_factory=dict)
    handlers: dict[str, HandlerConf] = field(default_factory=dict)
    workloads: dict[str, WorkloadConf] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def set(self, key: str, value: Value, origin: Origin) -> None:
        """Take a value over by the rules of its key."""
        if key in _KEEP_WHEN_EMPTY and not value:
            return
        if key == "crio.storage_option" and origin.kind == "file" and isinstance(value, tuple):
            earlier = self.texts(key)
            # Of equal options the last one stays, where it stands last.
            value = tuple(reversed(dict.fromkeys(reversed((*earlier, *value)))))
        self.values[key] = value
        self.origins[key] = origin

    def fault(self, origin: Origin | str, key: str, what: str) -> None:
        """Note something that is wrong."""
        self.faults.append(Fault(str(origin), key, what))


def convert(row: Row, value: Any) -> Value:
    """A TOML value as the row's kind. ValueError tells what was expected."""
    kind = row.kind
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        if -(1 << 63) <= value < 1 << 63:
            return value
        raise ValueError("the number does not fit 64 bits")
    if kind == "strings" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind == "duration" and isinstance(value, str):
        return value
    if kind == "duration" and isinstance(value, int) and not isinstance(value, bool):
        return units.duration(value)  # Go reads a bare number as nanoseconds
    raise ValueError(f"must be {_KINDS[kind]}, not {_describe(value)}")


def _describe(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "an integer", float: "a float", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def apply_document(draft: Draft, document: Document) -> None:
    """Put a file on top of what is there."""
    if document.fault:
        draft.fault(f"{document.path}:{document.fault_line}", "", document.fault)
        return
    for name, value in document.data.items():
        if name.lower() != "crio":
            _unknown(draft, document, (name,), BY_KEY)
        elif isinstance(value, dict):
            _table(draft, document, (name,), value)
        else:
            draft.fault(_origin(document, (name,)), name, "must be a table")


def _origin(document: Document, path: Path) -> Origin:
    return Origin("file", document.path, document.line(path))


def _table(draft: Draft, document: Document, path: Path, data: dict[str, Any]) -> None:
    for name, value in data.items():
        here = (*path, name)
        dotted = ".".join(here)
        folded = dotted.lower()
        row = BY_KEY.get(dotted) or _FOLDED.get(folded)
        if row is not None and row.kind == "table":
            reader = _handler if row.key == RUNTIMES else _workload
            _entries(draft, document, here, value, reader)
        elif row is not None:
            try:
                draft.set(row.key, convert(row, value), _origin(document, here))
            except ValueError as error:
                draft.fault(_origin(document, here), row.key, str(error))
        elif folded in _TABLES and isinstance(value, dict):
            _table(draft, document, here, value)
        elif folded in _TABLES:
            draft.fault(_origin(document, here), dotted, f"must be a table, not {_describe(value)}")
        else:
            _unknown(draft, document, here, BY_KEY)


Reader = Callable[[Draft, Document, Path, dict[str, Any]], None]


def _entries(draft: Draft, document: Document, path: Path, value: Any, reader: Reader) -> None:
    if not isinstance(value, dict):
        draft.fault(_origin(document, path), ".".join(path), f"must be a table, not {_describe(value)}")
        return
    for name, entry in value.items():
        here = (*path, name)
        if isinstance(entry, dict):
            reader(draft, document, here, entry)
        else:
            draft.fault(_origin(document, here), ".".join(here), f"must be a table, not {_describe(entry)}")


def _handler(draft: Draft, document: Document, path: Path, data: dict[str, Any]) -> None:
    # The entry of an earlier file goes altogether: nothing of it shines through.
    prefix = f"{RUNTIMES}.{path[-1]}"
    _forget(draft, prefix)
    draft.origins[prefix] = _origin(document, path)
    fields = _fields(draft, document, path, data, (prefix, _HANDLER))
    draft.handlers[path[-1]] = HandlerConf(path[-1], **fields)


def _workload(draft: Draft, document: Document, path: Path, data: dict[str, Any]) -> None:
    prefix = f"{WORKLOADS}.{path[-1]}"
    _forget(draft, prefix)
    draft.origins[prefix] = _origin(document, path)
    plain = {name: value for name, value in data.items() if name.lower() != "resources"}
    fields = _fields(draft, document, path, plain, (prefix, _WORKLOAD))
    for name in data:
        if name.lower() != "resources":
            continue
        here = (*path, name)
        if not isinstance(data[name], dict):
            draft.fault(_origin(document, here), f"{prefix}.resources", f"must be a table, not {_describe(data[name])}")
            continue
        numbers = _fields(draft, document, here, data[name], (f"{prefix}.resources", _RESOURCES))
        fields["resources"] = WorkloadResources(**numbers)
    draft.workloads[path[-1]] = WorkloadConf(path[-1], **fields)


def _forget(draft: Draft, prefix: str) -> None:
    for key in [key for key in draft.origins if key == prefix or key.startswith(prefix + ".")]:
        del draft.origins[key]


def _fields(
    draft: Draft, document: Document, path: Path, data: dict[str, Any], known: tuple[str, Mapping[str, Row]]
) -> dict[str, Any]:
    prefix, rows = known
    out: dict[str, Any] = {}
    for name, value in data.items():
        here = (*path, name)
        row = rows.get(name) or rows.get(name.lower())
        if row is None:
            _unknown(draft, document, here, [f"{prefix}.{other}" for other in rows])
            continue
        key = f"{prefix}.{row.name}"
        draft.origins[key] = _origin(document, here)
        try:
            out[row.name] = _map(value) if row.kind == "map" else convert(row, value)
        except ValueError as error:
            draft.fault(_origin(document, here), key, str(error))
    return out


def _map(value: Any) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return dict(value)
    raise ValueError(f"must be {_KINDS['map']}, not {_describe(value)}")


def _unknown(draft: Draft, document: Document, path: Path, known: Iterable[str]) -> None:
    place, key = _origin(document, path), ".".join(path)
    near = nearest(key, known)
    hint = f"; did you mean {near}?" if near else ""
    draft.warnings.append(f"{place}: unknown key {key} is ignored{hint}")


def nearest(key: str, known: Iterable[str]) -> str:
    """The known key that was probably meant, "" when none is near: the same name in another table, or a like one."""
    import difflib  # late: only for mistakes

    keys = [k for k in known if not k.startswith("cli.")]
    name, table = key.rpartition(".")[2].lower(), key.rpartition(".")[0]
    moved = [k for k in keys if k.rpartition(".")[2] == name]
    if len(moved) == 1:
        return moved[0]
    beside = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == table}
    found = difflib.get_close_matches(name, beside, 1, 0.7)
    if found:
        return beside[found[0]]
    return next(iter(difflib.get_close_matches(key.lower(), keys, 1, 0.85)), "")


def from_text(row: Row, text: str | list[str]) -> Value:
    """What a flag (every time that it was given) or variable says, as the row's kind. ValueError when malformed."""
    if any("\ud800" <= char <= "\udfff" for item in ([text] if isinstance(text, str) else text) for char in item):
        raise ValueError("the value is not UTF-8 text")
    if row.kind in {"strings", "table"}:
        return units.split_list([text] if isinstance(text, str) else text)
    last = text if isinstance(text, str) else text[-1]
    if row.kind == "bool":
        return units.boolean(last)
    if row.kind == "int":
        return units.integer(last)
    if row.kind == "duration":
        units.nanoseconds(last)
    return last


def apply_settings(draft: Draft, settings: Mapping[str, tuple[Value, Origin]]) -> None:
    """Put values from variables or flags on top of what is there."""
    for key, (value, origin) in settings.items():
        if key == RUNTIMES:
            assert isinstance(value, tuple)
            for item in value:
                _handler_item(draft, item, origin)
        else:
            draft.set(key, value, origin)


def _handler_item(draft: Draft, item: str, origin: Origin) -> None:
    parts = item.split(":")
    if not 3 <= len(parts) <= 7 or not parts[0]:
        draft.fault(
            origin, RUNTIMES, f"{item!r} is not name:path:root[:type[:privileged_without_host_devices"
            "[:runtime_config_path[:container_min_memory]]]]",
        )  # fmt: skip
        return
    name, path, root, kind, privileged, config, memory = [*parts, *[""] * (7 - len(parts))]
    without = False
    try:
        without = units.boolean(privileged) if privileged else False
    except ValueError as error:
        draft.fault(origin, f"{RUNTIMES}.{name}.privileged_without_host_devices", str(error))
    _forget(draft, f"{RUNTIMES}.{name}")
    draft.origins[f"{RUNTIMES}.{name}"] = origin
    draft.handlers[name] = HandlerConf(
        name,
        runtime_path=path,
        runtime_root=root,
        runtime_type=kind or "oci",
        privileged_without_host_devices=without,
        runtime_config_path=config,
        container_min_memory=memory or HandlerConf("").container_min_memory,
    )
