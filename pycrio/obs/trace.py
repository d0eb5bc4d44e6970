"""Spans of calls and their steps, for OpenTelemetry: who called, what was done for it, and what took the time.

    with trace.server("/runtime.v1.RuntimeService/RunPodSandbox", attributes, carrier):
        with trace.span("runc create"):
            ...

Off (``tracer`` is None) nothing is recorded and nothing is imported; ``obs/otlp.py`` holds what needs the OpenTelemetry
SDK. A span begins only inside another one: ``server`` alone begins traces, so what the daemon does by itself has none.
Tasks that are started inside a span belong to it, also when they outlive it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from pycrio.obs import log as obslog

Value = str | bool | int | float
Attributes = Mapping[str, Value]
Carrier = Mapping[str, str]
"""Headers of W3C Trace Context and Baggage: ``traceparent``, ``tracestate``, ``baggage``."""

INTERNAL, SERVER, CLIENT = range(3)
HEADERS = ("traceparent", "tracestate", "baggage")
NO_CARRIER: Carrier = {}
_NONE: Attributes = {}


class Span(Protocol):
    """An open span. ``recording`` is False for one that is not sampled: its trace context alone counts."""

    recording: bool

    def child(self, name: str, kind: int, attributes: Attributes) -> Span:
        """Begin a span below this one."""

    def set(self, key: str, value: Value) -> None:
        """Give it an attribute."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Note something that happened just now."""

    def fail(self, text: str) -> None:
        """Mark it as failed; the first text counts."""

    def carrier(self) -> Carrier:
        """What somebody must be told to go on with this trace."""

    def end(self) -> None:
        """It has ended now."""


class Tracer(Protocol):
    """Where traces begin."""

    def server(self, name: str, attributes: Attributes, carrier: Carrier) -> Span:
        """Begin a span for a caller, in the trace of ``carrier`` if that has one."""


tracer: Tracer | None = None
_current: contextvars.ContextVar[Span | None] = contextvars.ContextVar("pycrio.span", default=None)


class Opened:
    """Context manager around a span, or around nothing."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def __enter__(self) -> Opened:
        if self._span is not None:
            self._token = _current.set(self._span)
        return self

    def set(self, key: str, value: Value) -> None:
        """Give it an attribute."""
        if self._span is not None:
            self._span.set(key, value)

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span = self._span
        if span is None:
            return
        _current.reset(self._token)
        if failure is not None:
            span.fail(_why(failure))
        span.end()


_NOTHING = Opened(None)


def _why(failure: BaseException) -> str:
    if not isinstance(failure, Exception):
        return "cancelled"
    return str(failure) or type(failure).__name__


def server(name: str, attributes: Attributes, carrier: Carrier | Callable[[], Carrier]) -> Opened:
    """Context manager around all that is done for a caller. ``carrier`` may be a function, asked only when needed."""
    if tracer is None:
        return _NOTHING
    return Opened(tracer.server(name, attributes, carrier() if callable(carrier) else carrier))


def span(name: str, attributes: Attributes = _NONE, kind: int = INTERNAL) -> Opened:
    """Context manager around a part of what is done for a caller; around nothing when nobody traces it."""
    if tracer is None:
        return _NOTHING
    parent = _current.get()
    return Opened(parent.child(name, kind, attributes)) if parent is not None and parent.recording else _NOTHING


def failed(text: str, attributes: Attributes = _NONE) -> None:
    """Mark the current span as failed."""
    current = _current.get()
    if current is not None:
        for key, value in attributes.items():
            current.set(key, value)
        current.fail(text)


def carrier() -> Carrier:
    """What somebody whom we call must be told to go on with the running trace; empty without one."""
    current = _current.get()
    return NO_CARRIER if current is None else current.carrier()


def start(begin: Tracer) -> Callable[[], None]:
    """Trace from now on, with log lines as events of the spans in which they are written; the result ends that."""
    global tracer  # noqa: PLW0603 (a name of the module is the cheapest thing to look at when tracing is off)
    tracer = begin
    unobserve = obslog.observe(_logged)

    def stop() -> None:
        global tracer  # noqa: PLW0603
        tracer = None
        unobserve()

    return stop


def _logged(level: int, event: str, fields: Mapping[str, object]) -> None:
    current = _current.get()
    if current is not None and current.recording:
        plain: dict[str, Value] = {"log.severity": obslog.NAMES[level]}
        plain |= {key: value if isinstance(value, Value) else str(value) for key, value in fields.items()}
        current.event(event, plain)
