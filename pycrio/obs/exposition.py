"""The recorded metrics as Prometheus text. prometheus_client is loaded by the first call, not before."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pycrio.obs.metrics import BUCKETS, PREFIX, QUANTILES, SPECS, Metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from pycrio.obs.gostats import GoStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"


class Exposition:
    """Renders metrics. ``tasks`` tells the number of the loop's tasks, for want of goroutines."""

    def __init__(self, metrics: Metrics, tasks: Callable[[], int] = lambda: 0) -> None:
        self._metrics = metrics
        self._tasks = tasks
        self._registry: CollectorRegistry | None = None
        self._runtime: GoStats | None = None
        self._lock = threading.Lock()
        self.in_flight = 0
        self.answered = {"200": 0, "500": 0, "503": 0}

    def close(self) -> None:
        """Let go of the interpreter's hooks."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = self._registry = None

    def render(self) -> bytes:
        """Text exposition (format 0.0.4) of the selected metrics and those of the process. Blocks: reads /proc."""
        from prometheus_client import generate_latest

        with self._lock:
            if self._registry is None:
                self._registry = self._make()
        text = generate_latest(self._registry)
        for name, spec in SPECS.items():
            if spec.kind == "counter" and not name.endswith("_total"):
                # The library adds the suffix to the names in comments, CRI-O's counter has none.
                text = text.replace(f" {PREFIX}{name}_total ".encode(), f" {PREFIX}{name} ".encode())
        return text

    def _make(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

        from pycrio.obs.gostats import GoStats

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        self._runtime = GoStats(self._tasks)
        registry.register(self._runtime)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks of a collector."""
        for name in SPECS:
            if name in self._metrics.selected:
                yield self._metric(name)
        yield from self._stand_ins()

    def _metric(self, name: str) -> Metric:
        from prometheus_client.core import Metric

        spec, full = SPECS[name], PREFIX + name
        # The library wants the family of a counter without the suffix of its sample.
        metric = Metric(full.removesuffix("_total") if spec.kind == "counter" else full, spec.help, spec.kind)
        if spec.kind == "histogram":
            counts = list(itertools.accumulate(self._metrics.layer_buckets))
            for border, count in zip((*BUCKETS, float("inf")), counts, strict=True):
                metric.add_sample(full + "_bucket", {"le": _border(border)}, count)
            metric.add_sample(full + "_sum", {}, self._metrics.layer_bytes)
            metric.add_sample(full + "_count", {}, counts[-1])
        elif spec.kind == "summary":
            for values, summary in sorted(self._metrics.summaries.copy().items()):
                labels = dict(zip(spec.labels, values, strict=True))
                for quantile, value in zip(QUANTILES, summary.at(QUANTILES), strict=True):
                    metric.add_sample(full, {**labels, "quantile": str(quantile)}, value)
                metric.add_sample(full + "_sum", labels, summary.total)
                metric.add_sample(full + "_count", labels, summary.count)
        elif name == "processes_defunct":
            metric.add_sample(full, {}, defunct())
        else:
            for values, value in sorted(self._metrics.values[name].copy().items()):
                metric.add_sample(full, dict(zip(spec.labels, values, strict=True)), value)
        return metric

    def _stand_ins(self) -> Iterator[Metric]:
        """Metrics of Go's HTTP handler that dashboards name, with what comes nearest here."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield GaugeMetricFamily(
            "promhttp_metric_handler_requests_in_flight", "Scrapes under way.", value=self.in_flight
        )
        requests = CounterMetricFamily(
            "promhttp_metric_handler_requests_total", "Scrapes by HTTP status.", labels=["code"]
        )
        for code, count in self.answered.items():
            requests.add_metric([code], count)
        yield requests


def _border(value: float) -> str:
    return "+Inf" if value == float("inf") else f"{value:g}"


def defunct(proc: str = "/proc") -> int:
    """Zombie processes; 0 when ``proc`` cannot be read."""
    try:
        names = os.listdir(proc)
    except OSError:
        return 0
    count = 0
    for name in names:
        if name.isdecimal():
            try:
                with open(f"{proc}/{name}/stat", "rb") as file:
                    # The state follows the program's name, which may hold blanks and parentheses itself.
                    count += file.read(512).rpartition(b") ")[2][:1] == b"Z"
            except OSError:
                continue  # ended meanwhile
    return count
