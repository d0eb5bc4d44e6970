"""What observing costs per call: log lines, metrics, step timings, spans, samples (pytest-benchmark)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pycrio.obs import log, otlp, steps, trace
from pycrio.obs.metrics import Metrics
from pycrio.obs.profile import cpu

_log = log.get("bench")


@pytest.fixture(autouse=True)
def to_nowhere() -> Iterator[None]:
    log.setup(file="/dev/null")
    yield
    log.setup()
    steps.clear()


def test_log_line(benchmark: Any) -> None:
    """A line at info with three fields, formatted and written."""
    benchmark(lambda: _log.info("Started container", id="abc", name="k8s_a_b_c", pid=5))


def test_log_line_below_the_level(benchmark: Any) -> None:
    """A debug line while the level is info."""
    benchmark(lambda: _log.debug("Request", id="abc"))


def test_metrics_of_a_call(benchmark: Any) -> None:
    """Counter, gauge and summary of one CRI call."""
    metrics = Metrics()
    benchmark(lambda: metrics.operation("RunPodSandbox", 0.05))


def test_step_timings_of_a_flow(benchmark: Any) -> None:
    """A flow of eight steps."""

    def flow() -> None:
        with steps.flow("RunPodSandbox", "pod"):
            for _ in range(8):
                with steps.step("a step"):
                    pass

    benchmark(flow)


@pytest.fixture
def tracing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tracing off, on without sampling this call, or on; a collector takes what is sent."""
    if request.param == "off":
        yield
        return
    from tests.collector import Collector

    with Collector() as collector:
        exporting = otlp.Tracing(otlp.TraceSettings(collector.endpoint, 1_000_000 if request.param == "on" else 0, "1"))
        stop = trace.start(exporting)
        yield
        stop()
        exporting.close()


@pytest.mark.parametrize("tracing", ["off", "not sampled", "on"], indirect=True)
def test_spans_of_a_call(benchmark: Any, tracing: None) -> None:
    """What tracing adds to a call: its span, a flow of eight steps and two programs."""
    attributes = {"rpc.system": "grpc", "rpc.service": "runtime.v1.RuntimeService", "rpc.method": "RunPodSandbox"}

    def call() -> None:
        with trace.server("/runtime.v1.RuntimeService/RunPodSandbox", attributes, dict):
            with steps.flow("RunPodSandbox", "pod"):
                for _ in range(8):
                    with steps.step("a step"):
                        pass
            with trace.span("a program"), trace.span("another"):
                pass

    benchmark(call)


def test_a_span_that_nobody_wants(benchmark: Any) -> None:
    """``trace.span`` with tracing off: what each traced place of the code costs always."""

    def place() -> None:
        with trace.span("a program"):
            pass

    benchmark(place)


def test_a_sample_of_the_cpu_profile(benchmark: Any) -> None:
    """One interruption, thirty calls deep in a process with ten threads; there are 100 in a second of CPU time."""
    ended = threading.Event()
    others = [threading.Thread(target=ended.wait) for _ in range(9)]
    for other in others:
        other.start()
    profiler = cpu.CpuProfiler()

    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        else:
            frame = sys._getframe()
            benchmark(lambda: profiler.sample(frame))

    deep(30)
    ended.set()
    for other in others:
        other.join()
