"""Spans sent to an OpenTelemetry collector by OTLP over gRPC (opentelemetry.io, OTLP specification 1.x).

Needs the extra ``pycrio[tracing]``; imported only when tracing is switched on. A thread of the SDK sends what has ended
in batches. Its queue is bounded: while the collector is away spans are lost, nothing waits and nothing grows. The
environment variables of the SDK for batches, limits, headers and time-out (``OTEL_BSP_*``, ``OTEL_SPAN_*``,
``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_EXPORTER_OTLP_TIMEOUT``) hold.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pycrio.obs import log as obslog
from pycrio.obs import trace

log = obslog.get("trace")

SERVICE = "crio"
"""``service.name``, by which dashboards made for CRI-O find the spans."""
EXPORT_TIMEOUT = 5.0
"""Seconds for a batch, with all attempts."""
FLUSH_TIMEOUT = 3.0
LONGEST_VALUE = 4096
"""Characters of an attribute."""
_KINDS = {trace.INTERNAL: SpanKind.INTERNAL, trace.SERVER: SpanKind.SERVER, trace.CLIENT: SpanKind.CLIENT}
_PROPAGATOR = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """``endpoint``: host and port of the collector, which is spoken to without TLS. ``rate``: how many of a million
    calls that bring no trace of their own are traced. ``version``: ours, as ``service.version``."""

    endpoint: str
    rate: int
    version: str


class _Span:
    """See ``trace.Span``. The context carries the caller's baggage beside the span."""

    __slots__ = ("_context", "_failed", "_span", "_tracing", "recording")

    def __init__(self, tracing: Tracing, span: SdkSpan, context: Context) -> None:
        self._tracing = tracing
        self._span = span
        self._context = set_span_in_context(span, context)
        self._failed = False
        self.recording = span.is_recording()

    def child(self, name: str, kind: int, attributes: trace.Attributes) -> _Span:
        return self._tracing.begin(name, kind, attributes, self._context)

    def set(self, key: str, value: trace.Value) -> None:
        self._span.set_attribute(key, value)

    def event(self, name: str, attributes: trace.Attributes) -> None:
        self._span.add_event(name, attributes)

    def fail(self, text: str) -> None:
        if not self._failed:
            self._failed = True
            self._span.set_status(Status(StatusCode.ERROR, text[:LONGEST_VALUE]))

    def carrier(self) -> trace.Carrier:
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, self._context)
        return headers

    def end(self) -> None:
        self._span.end()


class _Watched(SpanExporter):
    """An exporter that tells when the collector goes away and when it is back: once each, not for every batch."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._lost = 0
        self._closing = threading.Lock()
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                log.info("Collector of traces takes spans again", endpoint=self._endpoint, lost=self._lost)
            self._lost = 0
            return result
        if not self._lost:
            log.warning("Collector of traces takes no spans, going on without", endpoint=self._endpoint)
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Quiet(logging.Handler):
    """The SDK's own log: a line for each batch that fails and each span that is lost. Detail, for us."""

    def emit(self, record: logging.LogRecord) -> None:
        log.debug("Export of traces: " + record.getMessage(), logger=record.name)


class Tracing:
    """A ``trace.Tracer`` that exports. Blocking: make it and ``close`` it in a pool."""

    def __init__(self, settings: TraceSettings) -> None:
        self._logger = logging.getLogger("opentelemetry")
        self._quiet = _Quiet()
        self._logger.addHandler(self._quiet)
        self._logger.propagate = False
        timeout = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else EXPORT_TIMEOUT
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, insecure=True, timeout=timeout)
        self._exporter = _Watched(exporter, settings.endpoint)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.rate / 1_000_000) if settings.rate else ALWAYS_OFF),
            resource=Resource.create(
                {
                    "service.name": SERVICE,
                    "service.version": settings.version,
                    "host.name": socket.gethostname(),
                    "process.pid": os.getpid(),
                }
            ),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=LONGEST_VALUE),
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("pycrio", settings.version)

    def server(self, name: str, attributes: trace.Attributes, carrier: trace.Carrier) -> _Span:
        """See ``trace.Tracer``."""
        # From an empty context, not from the SDK's current one: nobody here sets that.
        context = _PROPAGATOR.extract(carrier, Context()) if carrier else Context()
        return self.begin(name, trace.SERVER, attributes, context)

    def begin(self, name: str, kind: int, attributes: trace.Attributes, context: Context) -> _Span:
        """A span in the trace of ``context``."""
        span = self._tracer.start_span(name, context, _KINDS[kind], attributes)
        return _Span(self, span, context)

    def close(self) -> None:
        """Send what is left, ``FLUSH_TIMEOUT`` seconds at most, and end."""
        began = time.monotonic()
        # Ending the exporter cuts a transfer that is under way; the SDK itself would wait for half a minute.
        cut = threading.Timer(FLUSH_TIMEOUT, self._exporter.shutdown)
        cut.start()
        self._provider.shutdown()
        cut.cancel()
        cut.join()
        self._logger.removeHandler(self._quiet)
        self._logger.propagate = True
        log.debug("Tracing has ended", seconds=round(time.monotonic() - began, 3))
