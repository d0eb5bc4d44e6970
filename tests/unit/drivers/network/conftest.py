"""A network of scripts, and the driver on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from pycrio.drivers.network.cni import Network
from tests.unit.drivers.network.support import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest_asyncio.fixture
async def chain(rig: Rig) -> AsyncIterator[Network]:
    """Plugins 1, 2 and 3 in a row."""
    rig.network("1", "2", "3")
    network = rig.driver()
    await network.open()
    yield network
    await network.close()
