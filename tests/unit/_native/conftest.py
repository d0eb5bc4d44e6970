"""Every test of the native layer leaves no descriptor, no child and no native handle behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from pycrio._native import pools
from pycrio._native.base import live_handles


def open_descriptors() -> dict[str, str]:
    out = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            out[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the directory handle of the listing itself
    return out


def children() -> set[str]:
    found: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found |= set(file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that ended just now; its children went to another one
    return found


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Compares descriptors, children and handles before and after; use it first, so that it looks last."""
    gc.collect()
    before = open_descriptors(), children(), live_handles()
    yield
    pools.shutdown()
    gc.collect()
    assert open_descriptors().items() <= before[0].items()  # fewer: grpc of an earlier test may close its own late
    assert (children(), live_handles()) == before[1:]
