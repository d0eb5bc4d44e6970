"""No key without a test of what it does: tests name the keys that they show by the mark ``effect``."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

from pycrio.config import options
from pycrio.config.options import Row

TESTS = pathlib.Path(__file__).resolve().parents[2]
# What is read so that a configuration of CRI-O does not fail, and changes nothing here.
WITHOUT = {
    "crio.runtime.default_mounts",
    "crio.runtime.ctr_stop_timeout",
    "crio.runtime.pinns_path",
    "crio.image.insecure_registries",
    "crio.image.big_files_temporary_dir",
    "crio.runtime.runtimes.*.stream_websockets",
    "crio.runtime.runtimes.*.monitor_exec_cgroup",
    "cli.address",
}


def rows() -> dict[str, Row]:
    every = (*options.ROWS, *options.HANDLER, *options.WORKLOAD, *options.RESOURCES)
    return {row.key: row for row in every if row.kind != "table"}


def named(path: pathlib.Path) -> Iterator[str]:
    """The keys that the tests of a file show."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) in ("effect", "pytest.mark.effect"):
                    assert node.name.startswith("test_")
                    yield from (ast.literal_eval(word) for word in mark.args)


def shown() -> set[str]:
    return {key for path in TESTS.rglob("*.py") for key in named(path)}


def test_every_key_has_a_test_of_what_it_does() -> None:
    known, found = set(rows()), shown()
    assert found - known == set(), "no such keys"
    assert known - found - WITHOUT == set()
    assert found & WITHOUT == set(), "these do something after all"


@pytest.mark.parametrize("key", sorted(WITHOUT))
def test_what_does_nothing_says_so(key: str) -> None:
    row = rows()[key]
    text = " ".join([row.doc, row.deprecated, row.later])
    assert row.later or any(words in text.lower() for words in ("not used", "no effect", "ignored")), text
