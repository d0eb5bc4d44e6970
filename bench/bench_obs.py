"""What observing costs per call: log lines, metrics, step timings (pytest-benchmark)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pycrio.obs import log, steps
from pycrio.obs.metrics import Metrics

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
