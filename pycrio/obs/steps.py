"""Where the time of a call went: named steps of the last flows, always recorded, shown by ``pycrio status timeline``.

    with steps.flow("RunPodSandbox", subject=pod_id):
        with steps.step("network"):
            ...

A step outside a flow records nothing. Tasks started inside a flow record into it as well. Times are nanoseconds.
Of a call that is traced, flows and steps are spans too.
"""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple

from pycrio.obs import trace

KEPT = 32  # finished flows per kind
MAX_STEPS = 512  # per flow: an image may have hundreds of layers
_clock = time.perf_counter_ns


class Step(NamedTuple):
    """``start`` counts from the flow's start. (A tuple, because thousands are kept and made on hot paths.)"""

    name: str
    start: int
    duration: int
    failed: bool


class Flow:
    """One flow; ``subject`` (an id or image name) may be set while it runs. ``duration`` is -1 until it has ended."""

    __slots__ = (
        "_span",
        "_token",
        "at",
        "duration",
        "failed",
        "kind",
        "left_out",
        "origin",
        "stage",
        "steps",
        "subject",
    )

    def __init__(self, kind: str, subject: str = "") -> None:
        self.kind = kind
        self.subject = subject
        self.at = 0
        self.origin = 0
        self.duration = -1
        self.failed = False
        self.steps: list[Step] = []
        self.left_out = 0
        self.stage = ""
        self._span: trace.Opened | None = None

    def __enter__(self) -> Flow:
        if trace.tracer is not None:
            self._span = trace.span(self.kind)
            self._span.__enter__()
        self._token = _current.set(self)
        self.at = time.time_ns()
        self.origin = _clock()
        _running[id(self)] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.duration = _clock() - self.origin
        self.failed = kind is not None
        _current.reset(self._token)
        del _running[id(self)]
        ring = _finished.get(self.kind)
        if ring is None:
            ring = _finished[self.kind] = deque(maxlen=KEPT)
        ring.append(self)
        if self._span is not None:
            self._span.set("pycrio.subject", self.subject)
            self._span.__exit__(kind, failure, traceback)
            self._span = None


class step:
    """Context manager around one step of the flow that runs."""

    __slots__ = ("_flow", "_name", "_outer", "_span", "_start")

    def __init__(self, name: str) -> None:
        self._name = name
        self._flow = _current.get()
        self._span: trace.Opened | None = None

    def __enter__(self) -> None:
        if trace.tracer is not None:
            self._span = trace.span(self._name)
            self._span.__enter__()
        if self._flow is not None:
            self._outer, self._flow.stage = self._flow.stage, self._name
        self._start = _clock()

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        flow = self._flow
        if flow is not None:
            flow.stage = self._outer
        if flow is not None and len(flow.steps) < MAX_STEPS:
            start = self._start
            flow.steps.append(Step(self._name, start - flow.origin, _clock() - start, kind is not None))
        elif flow is not None:
            flow.left_out += 1
        if self._span is not None:
            self._span.__exit__(kind, failure, traceback)


_current: contextvars.ContextVar[Flow | None] = contextvars.ContextVar("pycrio.flow", default=None)
_running: dict[int, Flow] = {}
_finished: dict[str, deque[Flow]] = {}


def flow(kind: str, subject: str = "") -> Flow:
    """Context manager around a whole flow; ``kind`` is the CRI call's name."""
    return Flow(kind, subject)


def current() -> Flow | None:
    """The flow of the running task."""
    return _current.get()


def stage(kind: str, subject: str, first: str) -> str:
    """The step that the running flow of this kind and subject is at; ``first`` before and between its steps."""
    running = next((f for f in _running.values() if f.kind == kind and f.subject == subject), None)
    return first if running is None else running.stage or first


def recent(kinds: Iterable[str] = ()) -> Iterator[Flow]:
    """Flows that run or have ended, in the order of their start; ``kinds`` empty: all."""
    wanted = set(kinds)
    found = [*_running.values(), *(entry for ring in _finished.values() for entry in ring)]
    return iter(sorted((f for f in found if not wanted or f.kind in wanted), key=lambda f: f.at))


def dump(kinds: Iterable[str] = ()) -> list[dict[str, object]]:
    """``recent`` as plain data for JSON: what the HTTP page ``/debug/timeline`` answers."""
    return [
        {
            "kind": entry.kind,
            "subject": entry.subject,
            "started": entry.at,
            "duration": entry.duration if entry.duration >= 0 else _clock() - entry.origin,
            "running": entry.duration < 0,
            "failed": entry.failed,
            "left_out": entry.left_out,
            "steps": [
                {"name": s.name, "start": s.start, "duration": s.duration, "failed": s.failed} for s in entry.steps
            ],
        }
        for entry in recent(kinds)
    ]


def clear() -> None:
    """Forget finished flows."""
    _finished.clear()
