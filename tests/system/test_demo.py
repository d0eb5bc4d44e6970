"""The demonstration of the README works, and says so."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system
DEMO = pathlib.Path(__file__).with_name("demo.py")


def test_demonstration() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout  # colours are for terminals
    numbers = [int(n) for n in re.findall(r"^ ?(\d+)\. ", done.stdout, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 14
    for words in ("6 of 6 layers", "hello from a container", "exit code 3", "without a gap", "'goodbye', exit code 0"):
        assert words in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "Nothing is left" in last
    assert set(re.findall(r"\b(\d+) \w+[,.]", last.partition("left:")[2])) == {"0"}
