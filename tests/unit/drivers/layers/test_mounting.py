"""How overlays are mounted: the newer way only where the kernel has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay
from tests.unit.drivers.layers.support import FakeKernel, settings


class OldKernel(FakeKernel):
    """Before 6.7."""

    def __init__(self, probes: list[str]) -> None:
        super().__init__()
        self.probes = probes
        self.ways: list[bool] = []

    def probe(self, dir: str = "/", userns_fd: int = -1) -> dict[str, bool]:
        self.probes.append(dir)
        return {"lowerdir_plus": False}

    def overlay(self, lowers, upper, work, target, options=(), *, classic=False) -> None:
        self.ways.append(classic)


@pytest.mark.parametrize("times", [1, 3])
def test_an_old_kernel_is_asked_once(tmp_path: Path, times: int) -> None:
    """It logs every try of what it does not know as an error."""
    kernel = OldKernel([])
    where = settings(tmp_path)
    mounter = Mounter(where, Overlay(where), kernel)
    for _ in range(times):
        mounter.mount_image(["/a", "/b"], str(tmp_path / "target"), "")
    assert kernel.ways == [True] * times
    assert len(kernel.probes) == 1
