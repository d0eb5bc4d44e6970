from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import FakeKernel, settings


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest_asyncio.fixture
async def store(tmp_path: Path, kernel: FakeKernel) -> AsyncIterator[Store]:
    store = Store(settings(tmp_path), kernel)
    await store.open()
    yield store
    await store.close()
