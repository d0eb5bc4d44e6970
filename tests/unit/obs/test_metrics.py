"""Metrics under the names, labels and types that CRI-O's dashboards expect."""

from __future__ import annotations

import gc
import math
import os
import pathlib
import random
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio import errors
from pycrio.obs import exposition
from pycrio.obs.metrics import MAX_SERIES, PREFIX, SPECS, Metrics, error_label, size_label
from pycrio.obs.quantiles import Quantiles

# name, type, labels: as the outside world knows them
KNOWN = {
    "image_pulls_layer_size": ("histogram", ()),
    "containers_events_dropped_total": ("counter", ()),
    "containers_oom_total": ("counter", ()),
    "processes_defunct": ("gauge", ()),
    "operations_total": ("counter", ("operation",)),
    "operations_latency_seconds": ("gauge", ("operation",)),
    "operations_latency_seconds_total": ("summary", ("operation",)),
    "operations_errors_total": ("counter", ("operation",)),
    "image_pulls_bytes_total": ("counter", ("mediatype", "size")),
    "image_pulls_skipped_bytes_total": ("counter", ("size",)),
    "image_pulls_failure_total": ("counter", ("error",)),
    "image_pulls_success_total": ("counter", ()),
    "image_layer_reuse_total": ("counter", ("name",)),
    "containers_oom_count_total": ("counter", ("name",)),
    "containers_seccomp_notifier_count_total": ("counter", ("name", "syscall")),
    "resources_stalled_at_stage": ("counter", ("stage",)),
    "containers_stopped_monitor_count": ("counter", ("name",)),
    "default_runtime": ("gauge", ("runtime",)),
}


def samples(metrics: Metrics) -> dict[str, float]:
    text = exposition.Exposition(metrics).render().decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
    return {name.removeprefix(PREFIX): float(value) for name, _, value in pairs}


def test_names_types_and_labels() -> None:
    assert {name: (spec.kind, spec.labels) for name, spec in SPECS.items()} == KNOWN
    text = exposition.Exposition(Metrics()).render().decode()
    for name, (kind, _) in KNOWN.items():
        assert f"# TYPE container_runtime_crio_{name} {kind}\n" in text
        assert f"# HELP container_runtime_crio_{name} " in text
    for name in ("process_resident_memory_bytes", "process_open_fds", "go_goroutines", "promhttp_metric_handler"):
        assert name in text


def test_everything_that_is_recorded_is_exported() -> None:
    metrics = Metrics()
    metrics.operation("RunPodSandbox", 0.25)
    metrics.operation("RunPodSandbox", 0.75, failed=True)
    metrics.latency("network_setup_pod", 0.5)
    metrics.pulled_bytes("application/x", 2_000_000, 700)
    metrics.pulled_bytes("application/x", 2_000_000, 300)
    for size in (10, 1000, 1001, 2 * 10**10):
        metrics.pulled_blob(size)
    metrics.pull_succeeded()
    metrics.pull_failed(errors.RegistryUnavailable("x"))
    metrics.layer_reused("sha256:1")
    metrics.event_dropped()
    metrics.container_oom("k8s_a")
    metrics.container_oom("k8s_b")
    metrics.container_removed("k8s_b")
    metrics.seccomp_notified("k8s_a", "mount")
    metrics.stalled("container creating")
    metrics.monitor_died('quote"d')
    metrics.default_runtime("runc")
    metrics.default_runtime("crun")
    found = samples(metrics)
    expected = {
        'operations_total{operation="RunPodSandbox"}': 2,
        'operations_errors_total{operation="RunPodSandbox"}': 1,
        'operations_latency_seconds{operation="RunPodSandbox"}': 0.75,
        'operations_latency_seconds{operation="network_setup_pod"}': 0.5,
        'operations_latency_seconds_total_sum{operation="RunPodSandbox"}': 1.0,
        'operations_latency_seconds_total_count{operation="RunPodSandbox"}': 2,
        'image_pulls_bytes_total{mediatype="application/x",size=">1 MiB"}': 1000,
        'image_pulls_layer_size_bucket{le="1000"}': 2,
        'image_pulls_layer_size_bucket{le="1e+06"}': 3,
        'image_pulls_layer_size_bucket{le="1e+10"}': 3,
        'image_pulls_layer_size_bucket{le="+Inf"}': 4,
        "image_pulls_layer_size_sum": 2 * 10**10 + 2011,
        "image_pulls_layer_size_count": 4,
        "image_pulls_success_total": 1,
        'image_pulls_failure_total{error="CONNECTION_REFUSED"}': 1,
        'image_layer_reuse_total{name="sha256:1"}': 1,
        "containers_events_dropped_total": 1,
        "containers_oom_total": 2,
        'containers_oom_count_total{name="k8s_a"}': 1,
        'containers_seccomp_notifier_count_total{name="k8s_a",syscall="mount"}': 1,
        'resources_stalled_at_stage{stage="container creating"}': 1,
        'containers_stopped_monitor_count{name="quote\\"d"}': 1,
        'default_runtime{runtime="crun"}': 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    for quantile in ("0.5", "0.9", "0.99"):
        assert f'operations_latency_seconds_total{{operation="RunPodSandbox",quantile="{quantile}"}}' in found
    assert 'default_runtime{runtime="runc"}' not in found
    assert 'containers_oom_count_total{name="k8s_b"}' not in found


def test_only_selected_metrics_are_kept() -> None:
    metrics = Metrics()
    metrics.select(["crio_operations_total", "container_runtime_crio_containers_oom_total"])
    metrics.operation("Version", 1.0, failed=True)
    metrics.layer_reused("x")
    metrics.pulled_blob(5)
    text = exposition.Exposition(metrics).render().decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE " + PREFIX)}
    assert names == {PREFIX + "operations_total", PREFIX + "containers_oom_total"}
    assert metrics.summaries == {}
    assert metrics.values["image_layer_reuse_total"] == {}
    with pytest.raises(ValueError, match="nonsense"):
        metrics.select(["nonsense"])


def test_series_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 10):
        metrics.layer_reused(str(number))
    series = metrics.values["image_layer_reuse_total"]
    assert len(series) == MAX_SERIES
    assert ("0",) not in series
    assert (str(MAX_SERIES + 9),) in series


@pytest.mark.parametrize(
    ("size", "label"),
    [
        *((0, ">0 B"), (1000, ">0 B"), (1001, ">1 KiB"), (10**6, ">1 KiB"), (10**6 + 1, ">1 MiB")),
        *((10**7 + 1, ">10 MiB"), (5 * 10**7 + 1, ">50 MiB"), (10**8 + 1, ">100 MiB"), (2 * 10**8 + 1, ">200 MiB")),
        *((3 * 10**8 + 1, ">300 MiB"), (4 * 10**8 + 1, ">400 MiB"), (5 * 10**8 + 1, ">500 MiB")),
        *((10**9, ">500 MiB"), (10**9 + 1, ">1 GiB"), (10**10 + 1, ">10 GiB")),
    ],
)
def test_size_labels(size: int, label: str) -> None:
    assert size_label(size) == label


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (errors.RegistryError("x", code="MANIFEST_UNKNOWN"), "MANIFEST_UNKNOWN"),
        (errors.RegistryError("x", code="made up", status=401), "UNAUTHORIZED"),
        (errors.RegistryError("x", status=418), "UNKNOWN"),
        (errors.RegistryError("x"), "UNKNOWN"),
        (errors.RegistryUnavailable("x"), "CONNECTION_REFUSED"),
        (errors.Timeout("x"), "CONNECTION_TIMEOUT"),
        (TimeoutError(), "CONNECTION_TIMEOUT"),
        (errors.NotFound("image", "x"), "NOT_FOUND"),
        (errors.BadImage("x"), "UNKNOWN"),
        (errors.Unavailable("x"), "CONNECTION_REFUSED"),
    ],
)
def test_error_labels(error: BaseException, label: str) -> None:
    assert error_label(error) == label


def test_zombies_are_counted(tmp_path: pathlib.Path) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    before = exposition.defunct()
    os.waitpid(pid, 0)
    assert before >= 1
    for number, stat in enumerate((b"1 (a) Z 1", b"2 (b) ) Z 1", b"3 (Z) S 1", b"")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "stat").write_bytes(stat)
    (tmp_path / "9").mkdir()
    assert exposition.defunct(str(tmp_path)) == 2
    assert exposition.defunct(str(tmp_path / "absent")) == 0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_within_half_a_percent(values: list[float], quantile: float) -> None:
    collector = Quantiles()
    for value in values:
        collector.add(value)
    exact = sorted(values)[max(0, math.ceil(quantile * len(values)) - 1)]
    assert collector.at([quantile])[0] == pytest.approx(exact, rel=0.0051)
    assert collector.count == len(values)
    assert collector.total == pytest.approx(sum(values))


def test_quantiles_forget_what_is_older_than_the_window() -> None:
    clock = Clock()
    collector = Quantiles(600, clock)
    assert math.isnan(collector.at([0.5])[0])
    collector.add(100.0)
    clock.now += 300
    collector.add(1.0)
    assert collector.at([1.0])[0] == pytest.approx(100, rel=0.01)
    clock.now += 301
    assert collector.at([1.0])[0] == pytest.approx(1, rel=0.01)
    clock.now += 10_000
    assert math.isnan(collector.at([0.5])[0])
    assert (collector.count, collector.total) == (2, 101.0)
    collector.add(0.0)
    assert collector.at([0.5]) == [0.0]


def test_memory_of_quantiles_is_bounded() -> None:
    """Two windows of values of all sizes: parts that have ended are packed, the newest one is bounded."""
    rng = random.Random(1)
    clock = Clock()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        collector = Quantiles(600, clock)
        for second in range(1200):
            clock.now = second
            for _ in range(15):
                collector.add(rng.lognormvariate(-4, 3))
        assert collector.count == 18_000
        clock.now = 1201  # the newest part is empty
        collector.at([0.5])
        packed = tracemalloc.get_traced_memory()[0] - before
        for _ in range(20_000):
            collector.add(rng.lognormvariate(-4, 3))
        full = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert packed < 80_000
    assert full < packed + 200_000


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys; import pycrio.__main__, pycrio.config.load, pycrio.obs.metrics, pycrio.obs.steps, pycrio.obs.log\n"
        "from pycrio.config import load\nfrom pycrio.obs.metrics import metrics\n"
        "load.load({}, {'CONTAINER_CONFIG': '', 'CONTAINER_CONFIG_DIR': ''})\nmetrics.operation('Version', 0.1)\n"
        "heavy = {'prometheus_client', 'yaml', 'grpc', 'cryptography', 'aiohttp', 'asyncio', 'http.client', 'ssl', "
        "'difflib', 'opentelemetry', 'google'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_pauses_of_the_collector_are_counted_until_closed() -> None:
    text = exposition.Exposition(Metrics())
    text.render()  # hooks in
    gc.collect()
    lines = dict(line.rsplit(" ", 1) for line in text.render().decode().splitlines() if line[0] != "#")
    assert float(lines["go_gc_duration_seconds_count"]) >= 1
    assert (
        0 < float(lines['go_gc_duration_seconds{quantile="0.5"}']) <= 1.01 * float(lines["go_gc_duration_seconds_sum"])
    )
    assert float(lines["go_memstats_last_gc_time_seconds"]) > 0
    assert float(lines["go_memstats_sys_bytes"]) > float(lines["go_memstats_alloc_bytes"]) > 0
    hooks = len(gc.callbacks)
    text.close()
    text.close()
    assert len(gc.callbacks) == hooks - 1
