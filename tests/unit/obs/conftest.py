"""Tests see the log, metrics and flows of the process as if nobody had used them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from pycrio.obs import log, steps


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, last = list(root.handlers), root.level, logging.lastResort
    steps.clear()
    yield
    log.setup()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.lastResort = last
    steps.clear()
