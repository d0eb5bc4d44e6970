"""A mark on everything that an exec starts, by which it is found when it has to end.

A process that forks twice and opens a session of its own is nobody's descendant any more: in a pid namespace it
becomes a child of the container's init like any other. What such a process does not shed by the way is its limits
(prlimit(2): inherited by fork and exec). That of CPU time in real-time scheduling is one that nobody else looks at:
73 000 years and more are as good as none, and leave room for numbers to tell execs by.
"""

from __future__ import annotations

import os
import resource
import secrets
from collections.abc import Mapping
from typing import Any

_LIMIT = "RLIMIT_RTTIME"
_LEAST = 1 << 61  # microseconds
_UNLIMITED = (1 << 64) - 1
_LINE = b"Max realtime timeout"


def put(process: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The process object with a mark, and the mark; 0 where the container has a limit of that kind itself."""
    limits = list(process.get("rlimits") or ())
    if any(limit["type"] == _LIMIT for limit in limits) or _hard() != resource.RLIM_INFINITY:
        return dict(process), 0
    mark = _LEAST + secrets.randbelow(_LEAST)
    return {**process, "rlimits": [*limits, {"type": _LIMIT, "soft": mark, "hard": _UNLIMITED}]}, mark


def of(process: Mapping[str, Any]) -> int:
    """The mark in a process object; 0 for none."""
    soft = next((limit["soft"] for limit in process.get("rlimits") or () if limit["type"] == _LIMIT), 0)
    return int(soft) if _LEAST <= soft < 2 * _LEAST else 0


def bearers(*marks: int) -> list[int]:
    """Processes with one of the marks (0: none). proc(5), ``/proc/<pid>/limits``: readable without privileges."""
    wanted = {b"%d" % mark for mark in marks if mark}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc") if wanted else ()):
        try:
            with open(f"/proc/{pid}/limits", "rb") as f:
                text = f.read()
        except OSError:
            continue  # it has ended
        if _soft(text) in wanted:
            found.append(int(pid))
    return found


def _hard() -> int:
    """What runtimes inherit of us, and may not raise everywhere."""
    return resource.getrlimit(resource.RLIMIT_RTTIME)[1]


def _soft(limits: bytes) -> bytes:
    """The limit that carries marks, as the kernel prints it."""
    words = limits.partition(_LINE)[2].split(maxsplit=1)
    return words[0] if words else b""
