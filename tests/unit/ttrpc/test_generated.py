"""The generated modules are those of protos/."""

from __future__ import annotations

import pathlib
import runpy

import pytest

SCRIPT = runpy.run_path(str(pathlib.Path(__file__).resolve().parents[3] / "protos" / "generate.py"))


@pytest.mark.parametrize(
    ("place", "proto"), [(place, proto) for place, protos in SCRIPT["OTHERS"].items() for proto in protos]
)
def test_they_are_in_step(tmp_path: pathlib.Path, place: pathlib.Path, proto: str) -> None:
    """``make proto`` would change nothing (the compiler's own version may differ)."""
    SCRIPT["generate"](tmp_path, proto)
    name = pathlib.Path(proto).stem
    fresh, kept = (
        [line for line in (d / f"{name}_pb2.py").read_bytes().splitlines() if line.startswith(b"DESCRIPTOR = ")]
        for d in (tmp_path, place)
    )
    assert fresh == kept != []
    assert (tmp_path / f"{name}_pb2.pyi").read_text() == (place / f"{name}_pb2.pyi").read_text()
