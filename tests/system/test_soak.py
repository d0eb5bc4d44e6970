"""A small soak: the same program as `make soak`, with kills, but with few pods."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.daemon import ROOT

pytestmark = pytest.mark.system


def test_soak() -> None:
    """Every kind of life once or more (the lot falls the same way each time), and two kills of the daemon."""
    command = [sys.executable, "-m", "tests.soak", "--pods", "18", "--workers", "4", "--kills", "2", "--seed", "11"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing has come to stay." in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.endswith("equal")]
    assert len(rows) == 12, done.stdout
    assert "3 kills" in done.stdout  # the two, and one before the quiet last phase
    deeds = ("attach", "exec stream", "exec sync", "fail to pull", "forward", "pull run remove", "write and rotate")
    for deed in deeds:
        assert f" {deed}" in done.stdout, deed
