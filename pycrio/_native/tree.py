"""Trees of processes: killed as a whole, whatever sessions and groups their members have joined."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator


def children(pid: int) -> Iterator[int]:
    """Direct children (proc(5), /proc/<pid>/task/<tid>/children)."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", "rb") as f:
                yield from (int(word) for word in f.read().split())
        except OSError:
            continue


def tree(pid: int) -> list[int]:
    """A process and its descendants, parents first."""
    found, queue = [], [pid]
    while queue:
        one = queue.pop()
        found.append(one)
        queue.extend(children(one))
    return found


def kill_tree(*pids: int, others: Callable[[], Iterable[int]] = tuple) -> None:
    """SIGKILL to processes (0: none) and their descendants. All are stopped first, so that none forks out of the
    list. ``others`` is asked for more processes each time that this list is made."""
    roots = [pid for pid in pids if pid > 0]
    seen: set[int] = set()
    while fresh := {p for root in (*roots, *others()) for p in tree(root)} - seen:
        seen |= fresh
        _send(fresh, signal.SIGSTOP)
    _send(sorted(seen), signal.SIGKILL)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
