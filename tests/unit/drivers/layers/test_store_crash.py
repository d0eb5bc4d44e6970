"""Kill -9 before every single step of an operation leaves the old or the new state, and no garbage after a start."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

from tests.unit.drivers.layers.crash import CASES


@pytest.mark.parametrize("operation", sorted(CASES))
def test_killed_at_every_step(operation: str) -> None:
    # In memory: hundreds of small stores are made and deleted.
    with tempfile.TemporaryDirectory(prefix="pycrio-crash-", dir="/dev/shm") as base:
        argv = [sys.executable, "-m", "tests.unit.drivers.layers.crash", base, operation]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
        assert int(done.stdout) >= 6  # it was killed that often
