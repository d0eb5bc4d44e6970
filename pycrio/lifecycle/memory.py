"""Memory that a rush took goes back to the machine.

What is freed in the middle of the C library's heaps stays with the process: after 4000 connections a daemon of 54 MB
kept 109. ``malloc_trim`` gives it back. It takes a millisecond or less, in a thread: a daemon that has grown because it
has more to do can afford it every minute; one that is as small as ever does without.
"""

from __future__ import annotations

import asyncio
import os

from pycrio._native import pools
from pycrio._native.base import trim_malloc
from pycrio.obs import log as obslog

log = obslog.get("memory")
PERIOD = 60.0
GROWN = 8 << 20
"""Bytes of resident memory above the least that was seen from which on it is worth while."""


async def watch() -> None:
    """Look every minute; until cancelled."""
    least = resident()
    while True:
        await asyncio.sleep(PERIOD)
        now = resident()
        if now - least > GROWN:
            await pools.offload("proc", trim_malloc)
            left = resident()
            log.debug("Gave memory back", had=now, has=left)
            now = left
        least = min(least, now)


def resident() -> int:
    """Bytes of this process's memory that are in RAM (man 5 proc, statm)."""
    with open("/proc/self/statm", "rb") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
