"""An OTLP collector stand-in: opentelemetry-proto's TraceService on loopback, which keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.trace.v1 import trace_pb2

SERVER, CLIENT, INTERNAL = (trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{k}") for k in ("SERVER", "CLIENT", "INTERNAL"))
ERROR = trace_pb2.Status.StatusCode.Value("STATUS_CODE_ERROR")


def plain(attributes: Iterable[Any]) -> dict[str, Any]:
    """Attributes as a dict."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@dataclass(frozen=True)
class Span:
    """A span as it arrived, with ids in hexadecimal and times in nanoseconds."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    failed: bool
    said: str
    events: tuple[tuple[str, dict[str, Any]], ...]
    resource: dict[str, Any]

    def within(self, other: Span) -> bool:
        """Whether it took place during another one."""
        return other.start <= self.start <= self.end <= other.end


class Collector(services.TraceServiceServicer):
    """``with Collector() as collector``. ``open`` cleared: what arrives is not answered until it is set."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.open = threading.Event()
        self.open.set()
        self._changed = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(2))
        services.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request: Any, context: Any) -> Any:
        """See the TraceService."""
        self.open.wait()
        found = [
            Span(
                name=s.name,
                trace=s.trace_id.hex(),
                id=s.span_id.hex(),
                parent=s.parent_span_id.hex(),
                kind=s.kind,
                start=s.start_time_unix_nano,
                end=s.end_time_unix_nano,
                attributes=plain(s.attributes),
                failed=s.status.code == ERROR,
                said=s.status.message,
                events=tuple((e.name, plain(e.attributes)) for e in s.events),
                resource=plain(r.resource.attributes),
            )
            for r in request.resource_spans
            for scope in r.scope_spans
            for s in scope.spans
        ]
        with self._changed:
            self.spans += found
            self._changed.notify_all()
        return messages.ExportTraceServiceResponse()

    def wait(self, enough: Callable[[list[Span]], Any], seconds: float = 60.0) -> Any:
        """The first true answer of ``enough`` about what has arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: enough(self.spans), seconds), [s.name for s in self.spans]
            return enough(self.spans)

    def named(self, name: str, **attributes: Any) -> Span:
        """The span of that name with these attributes (dots written as two underscores), once it has arrived."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}

        def look(spans: list[Span]) -> Span | None:
            return next((s for s in spans if s.name == name and wanted.items() <= s.attributes.items()), None)

        found = self.wait(look)
        assert isinstance(found, Span)
        return found

    def below(self, span: Span) -> dict[str, Span]:
        """Children that have arrived, by name."""
        with self._changed:
            return {s.name: s for s in self.spans if s.trace == span.trace and s.parent == span.id}

    def __enter__(self) -> Collector:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.open.set()
        self._server.stop(None).wait()
