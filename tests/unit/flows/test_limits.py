"""Limits of containers that depend on who makes the cgroups."""

from __future__ import annotations

import pathlib

import pytest

from pycrio.flows.containers.inputs import pids_limit
from tests.fakes.node import fake_node


@pytest.mark.parametrize(
    ("configured", "driver", "unified", "expected"),
    [
        (-1, "systemd", True, -1),  # else DefaultTasksMax would hold
        (-1, "systemd", False, 0),
        (-1, "cgroupfs", True, 0),
        (-1, "cgroupfs", False, 0),
        (100, "systemd", True, 100),
        (100, "cgroupfs", False, 100),
    ],
)
async def test_pids(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    configured: int,
    driver: str,
    unified: bool,
    expected: int,
) -> None:
    async with fake_node(str(tmp_path), pids_limit=configured) as (node, fake):
        monkeypatch.setattr(fake.cgroups, "driver", lambda: driver)
        monkeypatch.setattr(fake.cgroups, "unified", lambda: unified)
        assert pids_limit(node) == expected
