"""TOML files with the line of every key, which the TOML libraries do not tell."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]
LIMIT = 4 << 20
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|\'\'\'(?:[^\']|\'(?!\'\'))*\'{3,5}', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\n#]+")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. ``lines`` maps key paths (tables too) to line numbers from 1; ``fault`` is "" when it parsed."""

    path: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    fault: str = ""
    fault_line: int = 0

    def line(self, path: Path) -> int:
        """The line of a key, or of the nearest table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def read(path: str) -> Document:
    """Read and parse a file; what is wrong with its content is in ``fault``. OSError when it cannot be read."""
    with open(path, "rb") as file:
        raw = file.read(LIMIT + 1)
    if len(raw) > LIMIT:
        return Document(path, fault=f"has more than {LIMIT} bytes", fault_line=1)
    return parse(path, raw)


def parse(path: str, raw: bytes) -> Document:
    """Parse the bytes of a TOML file."""
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return Document(path, fault="is not UTF-8 text", fault_line=raw.count(b"\n", 0, error.start) + 1)
    try:
        data = _loads(text)
        lines = _Scanner(text).run()
    except ValueError as error:
        place = re.search(r" \((?:at line (\d+), column \d+|at end of document)\)$", str(error))
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        said = str(error)[: place.start()] if place else str(error)
        return Document(path, fault=f"is not TOML: {said[:1].lower()}{said[1:]}", fault_line=line)
    except RecursionError:
        return Document(path, fault="is not TOML: it is nested too deeply", fault_line=1)
    return Document(path, data, lines)


def _loads(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # the same parser, before it moved into the standard library
    return tomllib.loads(text)


class _Scanner:
    """Walks text that is known to be valid TOML and notes where keys are."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._line = 1
        self._counted = 0
        self._arrays: dict[Path, int] = {}

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self.blank()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.blank()
        return self.lines

    def note(self, path: Path) -> None:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        self.lines.setdefault(path, self._line)

    def blank(self) -> None:
        found = _BLANK.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        start = self.at
        self.at += 2 if array else 1
        path = self.key()
        end = self.at
        self.at = start
        self.note(path)
        self.at = self.text.index("]", end) + (2 if array else 1)
        return path

    def key(self) -> Path:
        parts: list[str] = []
        while True:
            self.blank()
            for pattern in (_BARE, _BASIC, _LITERAL):
                found = pattern.match(self.text, self.at)
                if found:
                    break
            assert found is not None
            self.at = found.end()
            token = found[0]
            parts.append(_loads(f"k={token}")["k"] if token[0] in "\"'" else token)
            self.blank()
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def pair(self, table: Path) -> None:
        start = self.at
        path = (*table, *self.key())
        after, self.at = self.at, start
        self.note(path)
        self.at = after + 1  # the equals sign
        self.blank()
        self.value(path)

    def value(self, path: Path) -> None:
        char = self.text[self.at]
        if char in "[{":
            self.collection(path, "]" if char == "[" else "}")
            return
        for pattern in (_LONG, _BASIC, _LITERAL, _SCALAR):
            found = pattern.match(self.text, self.at)
            if found:
                self.at = found.end()
                return
        raise AssertionError(f"no TOML value at offset {self.at}")

    def collection(self, path: Path, end: str) -> None:
        self.at += 1
        self.blank()
        while self.text[self.at] != end:
            if end == "}":
                self.pair(path)
            else:
                self.value(path)
            self.blank()
            if self.text[self.at] == ",":
                self.at += 1
                self.blank()
        self.at += 1
