"""Lines of keys, checked against the TOML parser for any document."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.config import documents, render

TEXT = b'''# a comment
top = 1
[crio]
root = "/x" # [not.a.table]
default_env = [
  "a=b", # ] with
  'c"]#d',
]
[crio.runtime.runtimes.'kata qemu']
long = """
[no.table]
x = 1 \\"""
"""
"quoted.key" = { a = 1, b.c = [1, {d = 2}], "e" = 'f' }
when = 1979-05-27 07:32:00
dotted . key = true
'''


def test_lines() -> None:
    found = documents.parse("f", TEXT)
    kata = ("crio", "runtime", "runtimes", "kata qemu")
    assert found.fault == ""
    assert found.lines == {
        ("top",): 2,
        ("crio",): 3,
        ("crio", "root"): 4,
        ("crio", "default_env"): 5,
        kata: 9,
        (*kata, "long"): 10,
        (*kata, "quoted.key"): 14,
        (*kata, "quoted.key", "a"): 14,
        (*kata, "quoted.key", "b", "c"): 14,
        (*kata, "quoted.key", "b", "c", "d"): 14,
        (*kata, "quoted.key", "e"): 14,
        (*kata, "when"): 15,
        (*kata, "dotted", "key"): 16,
    }
    assert found.line((*kata, "absent", "deeper")) == 9


@pytest.mark.parametrize(
    ("raw", "line", "fault"),
    [
        (b"a = 1\nb = \n", 2, "invalid value"),
        (b"a = 1\n\na = 2\n", 3, "cannot overwrite"),
        (b"a = [\n1,\n", 3, ""),
        (b"a = 1\nb = '\xff'\n", 2, "UTF-8"),
        (b"x = " + b"[" * 100_000, 1, "nested"),
    ],
)
def test_faults_have_a_line(raw: bytes, line: int, fault: str) -> None:
    found = documents.parse("f", raw)
    assert found.fault_line == line
    assert fault in found.fault
    assert found.fault


def test_windows_line_ends() -> None:
    found = documents.parse("f", b'a = 1\r\n[t]\r\nb = """x\r\ny"""\r\nc = 2\r\n')
    assert found.lines == {("a",): 1, ("t",): 2, ("t", "b"): 3, ("t", "c"): 5}


_names = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), st.text(max_size=6))
_texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_scalars = st.one_of(
    _texts.map(render.literal),
    st.integers(-(1 << 40), 1 << 40).map(str),
    st.booleans().map(render.literal),
    st.just("1979-05-27T07:32:00Z"),
    st.just("'#[]{}=,'"),
    st.just("''''it's a\nlong'' one'''").map(lambda t: t[1:]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ # x ]\n" + ",\n".join(items) + "\n]"),
        st.lists(inner.filter(lambda t: "\n" not in t), max_size=3).map(
            lambda items: "{ " + ", ".join(f"k{n} = {item}" for n, item in enumerate(items)) + " }"
        ),
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(_names, _values, st.integers(0, 2)), max_size=6, unique_by=lambda entry: entry[0]))
def test_any_document_is_scanned(entries: list[tuple[str, str, int]]) -> None:
    lines: list[str] = []
    expected: dict[str, int] = {}
    for name, value, blanks in entries:
        lines += [""] * blanks
        expected[name] = sum(line.count("\n") + 1 for line in lines) + 1
        lines.append(f"{render.name(name)} = {value} # {name.encode('unicode_escape').decode()}")
    found = documents.parse("f", "\n".join(lines).encode())
    assert found.fault == ""
    assert {path[0]: line for path, line in found.lines.items() if len(path) == 1} == expected
    assert _paths(found.data) <= set(found.lines)


def _paths(data: dict[str, Any], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    out: set[tuple[str, ...]] = set()
    for name, value in data.items():
        assert isinstance(value, str | int | list | dict | datetime.datetime)
        out.add((*prefix, name))
        if isinstance(value, dict):
            out |= _paths(value, (*prefix, name))
    return out
