"""Spans, and their way to a collector."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from pycrio.obs import log, otlp, steps, trace
from pycrio.obs.otlp import TraceSettings, Tracing
from tests.collector import CLIENT, INTERNAL, SERVER, Collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traceparent(sampled: bool) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@contextlib.contextmanager
def tracing(endpoint: str, rate: int = 1_000_000) -> Iterator[None]:
    """Everything that ended inside has been sent afterwards, if there is somebody to take it."""
    exporting = Tracing(TraceSettings(endpoint, rate, "9.9"))
    stop = trace.start(exporting)
    try:
        yield
    finally:
        stop()
        exporting.close()


def test_off_there_is_nothing() -> None:
    with trace.server("/s/M", {}, traceparent(True)) as call, trace.span("part") as part:
        call.set("a", 1)
        part.set("a", 1)
        trace.failed("nobody hears it")
        assert trace.carrier() == {}


def test_spans_of_a_call(collector: Collector) -> None:
    with tracing(collector.endpoint):
        with trace.server("/s/M", {"rpc.method": "M"}, {}):
            with trace.span("outer", {"a": "b", "n": 5}) as outer:
                with trace.span("inner", kind=trace.CLIENT):
                    pass
                outer.set("late", True)
            with trace.span("sibling"):
                pass
        with trace.span("of nobody"):
            pass
    spans = {s.name: s for s in collector.spans}
    assert sorted(spans) == ["/s/M", "inner", "outer", "sibling"]
    call, outer_span, inner = spans["/s/M"], spans["outer"], spans["inner"]
    assert (call.kind, outer_span.kind, inner.kind) == (SERVER, INTERNAL, CLIENT)
    assert (call.parent, outer_span.parent, inner.parent) == ("", call.id, outer_span.id)
    assert spans["sibling"].parent == call.id
    assert {s.trace for s in spans.values()} == {call.trace}
    assert inner.within(outer_span)
    assert outer_span.within(call)
    assert spans["sibling"].start >= outer_span.end
    assert call.attributes == {"rpc.method": "M"}
    assert outer_span.attributes == {"a": "b", "n": 5, "late": True}
    assert not any(s.failed for s in spans.values())
    about = {
        "service.name": "crio",
        "service.version": "9.9",
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    assert about.items() <= call.resource.items()


def test_flows_and_steps_are_spans(collector: Collector) -> None:
    with tracing(collector.endpoint):
        with contextlib.suppress(ValueError), trace.server("/s/Run", {}, {}):
            with steps.flow("Run") as flow:
                flow.subject = "pod"
                with steps.step("network"):
                    pass
                with steps.step("storage"):
                    raise ValueError("no space")
    spans = {s.name: s for s in collector.spans}
    call, flow_span = spans["/s/Run"], spans["Run"]
    assert flow_span.parent == call.id
    assert flow_span.attributes == {"pycrio.subject": "pod"}
    assert spans["network"].parent == spans["storage"].parent == flow_span.id
    assert {s.name: s.said for s in spans.values() if s.failed} == dict.fromkeys(
        ("/s/Run", "Run", "storage"), "no space"
    )
    assert spans["network"].within(flow_span)
    assert spans["storage"].within(flow_span)
    assert spans["network"].end <= spans["storage"].start
    (kept,) = steps.recent()
    assert [s.name for s in kept.steps] == ["network", "storage"]
    assert not spans["network"].failed


@pytest.mark.parametrize("rate", [0, 1_000_000])
def test_a_sampled_parent_is_followed(collector: Collector, rate: int) -> None:
    with tracing(collector.endpoint, rate):
        with trace.server("/s/M", {}, {**traceparent(True), "tracestate": "x=y", "baggage": "user=me"}):
            with trace.span("part"):
                told = trace.carrier()
        with trace.server("/s/Not", {}, traceparent(False)):
            with trace.span("part of not"):
                assert trace.carrier()["traceparent"].startswith(f"00-{TRACE}-")
                assert trace.carrier()["traceparent"].endswith("-00")
    spans = {s.name: s for s in collector.spans}
    assert sorted(spans) == ["/s/M", "part"]
    assert (spans["/s/M"].trace, spans["/s/M"].parent) == (TRACE, PARENT)
    assert told == {
        "traceparent": f"00-{TRACE}-{spans['part'].id}-01",
        "tracestate": "x=y",
        "baggage": "user=me",
    }


@pytest.mark.parametrize(("rate", "least", "most"), [(0, 0, 0), (500_000, 300, 700), (1_000_000, 1000, 1000)])
def test_sampling_of_calls_without_a_trace(collector: Collector, rate: int, least: int, most: int) -> None:
    with tracing(collector.endpoint, rate):
        for _ in range(1000):
            with trace.server("/s/M", {}, {}), trace.span("part"):
                pass
    count = sum(s.name == "/s/M" for s in collector.spans)
    assert least <= count <= most  # of a fair coin 300 to 700: twelve standard deviations
    assert len(collector.spans) == 2 * count


@pytest.mark.parametrize("header", ["", "rubbish", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "ff-" + "é" * 50])
def test_a_bad_parent_is_none(collector: Collector, header: str) -> None:
    with tracing(collector.endpoint), trace.server("/s/M", {}, {"traceparent": header}):
        pass
    (span,) = collector.spans
    assert span.parent == ""


async def test_tasks_belong_to_the_span_that_started_them(collector: Collector) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def late() -> None:
        with steps.flow("Late"):
            begun.set()
            await go.wait()

    async def cut() -> None:
        with trace.span("cut"):
            await asyncio.Event().wait()

    with tracing(collector.endpoint):
        with trace.server("/s/M", {}, {}):
            task, doomed = asyncio.create_task(late()), asyncio.create_task(cut())
            await begun.wait()
        go.set()
        await task
        doomed.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await doomed
    spans = {s.name: s for s in collector.spans}
    assert spans["Late"].parent == spans["/s/M"].id
    assert spans["Late"].end >= spans["/s/M"].end
    assert (spans["cut"].failed, spans["cut"].said) == (True, "cancelled")


def test_log_lines_are_events(collector: Collector) -> None:
    log.setup("info", file=os.devnull)
    logger = log.get("x")
    with tracing(collector.endpoint):
        with trace.server("/s/M", {}, {}):
            logger.warning("Odd", pid=5, error=ValueError("no"))
            logger.debug("Below the level")
            trace.failed("first", {"code": 3})
            trace.failed("second")
        logger.info("Outside")
    (span,) = collector.spans
    assert span.events == (("Odd", {"log.severity": "warning", "pid": 5, "error": "no"}),)
    assert (span.failed, span.said, span.attributes) == (True, "first", {"code": 3})


def test_a_long_value_is_cut(collector: Collector) -> None:
    with tracing(collector.endpoint), trace.server("/s/M", {"v": "x" * 10_000}, {}):
        trace.failed("y" * 10_000)
    (span,) = collector.spans
    assert len(span.attributes["v"]) == len(span.said) == otlp.LONGEST_VALUE


# --- a collector that is away


@pytest.fixture
def lines() -> Iterator[list[tuple[int, str, dict[str, object]]]]:
    found: list[tuple[int, str, dict[str, object]]] = []
    log.setup("info", file=os.devnull)
    stop = log.observe(lambda level, event, fields: found.append((level, event, dict(fields))))
    yield found
    stop()


def test_nobody_waits_for_a_collector_that_hangs(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, lines: list[tuple[int, str, dict[str, object]]]
) -> None:
    """Far more spans than the queue holds, and the end is not held up: the collector answers only after it."""
    monkeypatch.setattr(otlp, "FLUSH_TIMEOUT", 0.2)
    collector.open.clear()
    with tracing(collector.endpoint):
        for _ in range(6000):
            with trace.server("/s/M", {}, {}):
                pass
    assert [event for _, event, _ in lines] == ["Collector of traces takes no spans, going on without"]
    collector.open.set()


def test_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, lines: list[tuple[int, str, dict[str, object]]], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "FLUSH_TIMEOUT", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with tracing(address), trace.server("/s/M", {}, {}):
            pass
    assert lines == [(log.WARNING, "Collector of traces takes no spans, going on without", {"endpoint": address})]
    assert not caplog.records  # the SDK's own words are detail
    assert logging.getLogger("opentelemetry").handlers == []


def test_going_away_and_coming_back_are_told_once_each(lines: list[tuple[int, str, dict[str, object]]]) -> None:
    answers = [SpanExportResult.SUCCESS, *[SpanExportResult.FAILURE] * 3, *[SpanExportResult.SUCCESS] * 2]

    class Scripted(SpanExporter):
        closed = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return answers.pop(0)

        def shutdown(self) -> None:
            self.closed += 1

    inner = Scripted()
    watched = otlp._Watched(inner, "c:1")
    span = ReadableSpan("x")
    while answers:
        watched.export([span, span])
    watched.shutdown()
    watched.shutdown()
    assert inner.closed == 1
    assert lines == [
        (log.WARNING, "Collector of traces takes no spans, going on without", {"endpoint": "c:1"}),
        (log.INFO, "Collector of traces takes spans again", {"endpoint": "c:1", "lost": 6}),
    ]
