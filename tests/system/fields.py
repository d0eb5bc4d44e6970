"""The fields of the CRI's messages one by one: what requests can say, who proves what that does, what answers said."""

from __future__ import annotations

import ast
import functools
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from pycrio.api._pb import api_pb2 as pb
from tests.cri import SERVICES
from tests.system.node import Node

ROOT = pathlib.Path(__file__).resolve().parents[2]


# --- what requests can say --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """Proved here: ``look`` at what the request named ``request`` made gives ``found``, and something else at what a
    request without such fields made."""

    request: str
    look: Callable[[Any], Any]
    found: Any


@dataclass(frozen=True)
class By:
    """Proved by a test elsewhere, ``file.py::test``, in whose file ``word`` (else the field's name) stands."""

    test: str
    word: str = ""


@dataclass(frozen=True)
class As:
    """Read by the same code as the field of this path."""

    path: str


@dataclass(frozen=True)
class Nothing:
    """Without effect on Linux, because …"""

    why: str


Row = Act | By | As | Nothing


def is_map(f: FieldDescriptor) -> bool:
    """Whether a field is a map, whose values count as one."""
    return f.message_type is not None and bool(f.message_type.GetOptions().map_entry)


def leaves(descriptor: Descriptor, path: str) -> Iterator[str]:
    """Paths of the scalar fields at or below a message. No message of the CRI holds itself."""
    for f in descriptor.fields:
        if f.message_type is None or is_map(f):
            yield f"{path}.{f.name}"
        else:
            yield from leaves(f.message_type, f"{path}.{f.name}")


def requests() -> dict[str, Descriptor]:
    """Request messages by name."""
    found = [pb.DESCRIPTOR.services_by_name[s].methods_by_name[c].input_type for c, s in SERVICES.items()]
    return {d.name: d for d in found}


def nodes(path: str) -> list[str]:
    """A path and those above it, longest first."""
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def row_of(rows: Mapping[str, Row], path: str) -> tuple[str, Row] | None:
    """The nearest row at or above a field."""
    return next(((p, rows[p]) for p in nodes(path) if p in rows), None)


def faults(rows: Mapping[str, Row]) -> list[str]:
    """What is wrong with a table of rows: fields without one, rows without a field, proofs that are not there."""
    every = [leaf for name, descriptor in requests().items() for leaf in leaves(descriptor, name)]
    out = [f"{leaf}: no row says what it does" for leaf in every if row_of(rows, leaf) is None]
    used = {found[0] for leaf in every if (found := row_of(rows, leaf))}
    known = {p for leaf in every for p in nodes(leaf)}
    for path, row in rows.items():
        if path not in known:
            out.append(f"{path}: there is no such field")
        elif path not in used:
            out.append(f"{path}: rows below it leave it nothing to say")
        elif isinstance(row, By):
            out += [f"{path}: {fault}" for fault in missing(row, path)]
        elif isinstance(row, As) and (row.path not in known or not _alike(path, row.path)):
            out.append(f"{path}: {row.path} is not the same message")
    return out


def _alike(one: str, other: str) -> bool:
    return _at(one) is _at(other) is not None


def _at(path: str) -> Descriptor | None:
    name, *parts = path.split(".")
    found: Descriptor | None = requests()[name]
    for part in parts:
        found = found.fields_by_name[part].message_type if found is not None else None
    return found


@functools.cache
def _functions(name: str) -> tuple[str, frozenset[str]]:
    """Text and test functions of a file below tests/."""
    text = (ROOT / "tests" / name).read_text()
    functions = (n.name for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return text, frozenset(functions)


def missing(row: By, path: str) -> Iterator[str]:
    """What is wrong with a reference to a test."""
    name, _, test = row.test.partition("::")
    if not (ROOT / "tests" / name).is_file():
        yield f"no file tests/{name}"
        return
    text, functions = _functions(name)
    if test not in functions:
        yield f"no test {test} in tests/{name}"
    word = row.word or path.rpartition(".")[2]
    if not re.search(rf"\b{re.escape(word)}\b", text):
        yield f"tests/{name} does not know {word}"


def given(message: Message, path: str) -> bool:
    """Whether a message sets the field at a path below it."""
    name, _, rest = path.partition(".")
    if not name:
        return True
    f = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if f.is_repeated or is_map(f):
        items = [] if is_map(f) else list(value)
        return any(given(item, rest) for item in items) if rest else len(value) > 0
    if f.message_type is not None:
        return bool(message.HasField(name)) and given(value, rest)
    return bool(value != f.default_value)


# --- what came of a request -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MountLine:
    """A line of mountinfo (man 5 proc)."""

    root: str
    options: frozenset[str]
    tags: str
    kind: str


def proc_status(pid: int) -> dict[str, str]:
    """/proc/<pid>/status (man 5 proc)."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


@dataclass
class Container:
    """A running container, to be looked at. What is looked up is kept."""

    node: Node
    id: str

    @functools.cached_property
    def status(self) -> Any:
        return self.node.status(self.id)

    @functools.cached_property
    def _info(self) -> Any:
        return self.node.spec(self.id)

    @property
    def spec(self) -> Any:
        return self._info["runtimeSpec"]

    @property
    def pid(self) -> int:
        return int(self._info["pid"])

    def proc(self, name: str) -> str:
        return pathlib.Path(f"/proc/{self.pid}/{name}").read_text(errors="surrogateescape")

    def link(self, name: str) -> str:
        return str(pathlib.Path(f"/proc/{self.pid}/{name}").readlink())

    @functools.cached_property
    def state(self) -> dict[str, str]:
        """/proc/<pid>/status."""
        return proc_status(self.pid)

    @functools.cached_property
    def env(self) -> dict[str, str]:
        return {k: v for k, _, v in (item.partition("=") for item in self.proc("environ").split("\0")) if k}

    @functools.cached_property
    def mounts(self) -> dict[str, MountLine]:
        """By mount point; the upper one of several."""
        found = {}
        for line in self.proc("mountinfo").splitlines():
            _, _, _, root, point, options, *tags = line.partition(" - ")[0].split()
            kind = line.partition(" - ")[2].split()[0]
            found[point] = MountLine(root, frozenset(options.split(",")), " ".join(tags), kind)
        return found

    def limit(self, name: str) -> str:
        return self.node.limit(self.id, name)

    def swap_limit(self) -> int:
        """Bytes of swap; version 1 limits them together with memory."""
        both = int(self.limit("memory.swap.max"))
        return both if self.node.isolation.unified else both - int(self.limit("memory.max"))

    def says(self, script: str) -> str:
        done = self.node.exec(self.id, "sh", "-c", script)
        return bytes(done.stdout).decode().strip()

    def capability(self, kind: str, number: int) -> bool:
        return bool(int(self.state[kind], 16) >> number & 1)


@dataclass
class Pod:
    """A pod with a container in it, to be looked at."""

    node: Node
    id: str
    box: Container

    @functools.cached_property
    def status(self) -> Any:
        return self.node.cri.PodSandboxStatus(pod_sandbox_id=self.id).status

    @functools.cached_property
    def _info(self) -> Any:
        return json.loads(self.node.cri.PodSandboxStatus(pod_sandbox_id=self.id, verbose=True).info["info"])

    @property
    def filter(self) -> Any:
        """The seccomp filter of the pause process."""
        return self._info["runtimeSpec"]["linux"]["seccomp"]

    @property
    def infra(self) -> dict[str, str]:
        """/proc/<pid>/status of the pause process."""
        return proc_status(self._info["pid"])


# --- what answers say -------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """A client that notes every field, and every value of an enum, that answers have set."""

    node: Node
    seen: set[str] = field(default_factory=set)

    def __getattr__(self, call: str) -> Callable[..., Any]:
        if call not in SERVICES:
            raise AttributeError(call)

        def ask(**fields: Any) -> Any:
            answer = getattr(self.node.cri, call)(**fields)
            streams = pb.DESCRIPTOR.services_by_name[SERVICES[call]].methods_by_name[call].server_streaming
            if not streams:
                self.note(answer)
                return answer
            messages = []
            for message in answer:
                self.note(message)
                messages.append(message)
            return messages

        return ask

    def note(self, message: Message) -> None:
        name = message.DESCRIPTOR.name
        for f in message.DESCRIPTOR.fields:
            if f.enum_type is not None and not f.is_repeated:
                self.seen.add(f"{name}.{f.name}={f.enum_type.values_by_number[getattr(message, f.name)].name}")
        for f, value in message.ListFields():
            self.seen.add(f"{name}.{f.name}")
            if f.message_type is not None and not is_map(f):
                for one in value if f.is_repeated else (value,):
                    self.note(one)


def answers() -> dict[str, Descriptor]:
    """Messages of answers by name, with all that they hold."""
    found: dict[str, Descriptor] = {}

    def add(descriptor: Descriptor) -> None:
        if descriptor.name in found:
            return
        found[descriptor.name] = descriptor
        for f in descriptor.fields:
            if f.message_type is not None and not is_map(f):
                add(f.message_type)

    for call, service in SERVICES.items():
        add(pb.DESCRIPTOR.services_by_name[service].methods_by_name[call].output_type)
    return found


def answer_fields() -> set[str]:
    """``Message.field``, and ``Message.field=VALUE`` for each value of an enum."""
    out = set()
    for name, descriptor in answers().items():
        for f in descriptor.fields:
            if f.enum_type is None:
                out.add(f"{name}.{f.name}")
            else:
                out |= {f"{name}.{f.name}={value.name}" for value in f.enum_type.values}
    return out
