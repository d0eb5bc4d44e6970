"""What Prometheus is told, recorded in plain dictionaries; ``exposition`` turns them into text when somebody asks.

Names, labels and meaning are those of CRI-O, so that its dashboards and alerts work. Recording costs about a
microsecond, works before and without an exporter, and belongs into the event loop's thread.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pycrio import errors
from pycrio.obs.quantiles import Quantiles

PREFIX = "container_runtime_crio_"
QUANTILES = (0.5, 0.9, 0.99)
BUCKETS = (1e3, 1e6, 1e7, 5e7, 1e8, 2e8, 3e8, 4e8, 5e8, 1e9, 1e10)
MAX_SERIES = 4096  # per metric; images and containers can name many, the oldest series go then
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """Kind, label names and help of a metric."""

    kind: Literal["counter", "gauge", "histogram", "summary"]
    labels: Labels
    help: str


SPECS: dict[str, Spec] = {
    "image_pulls_layer_size": Spec("histogram", (), "Sizes of the layers and other blobs that were pulled, in bytes."),
    "containers_events_dropped_total": Spec("counter", (), "Container events lost because a listener was too slow."),
    "containers_oom_total": Spec("counter", (), "Containers that the kernel killed for lack of memory."),
    "processes_defunct": Spec("gauge", (), "Zombie processes on the node."),
    "operations_total": Spec("counter", ("operation",), "CRI calls."),
    "operations_latency_seconds": Spec("gauge", ("operation",), "Seconds that the latest call took."),
    "operations_latency_seconds_total": Spec("summary", ("operation",), "Seconds that calls took."),
    "operations_errors_total": Spec("counter", ("operation",), "CRI calls that failed."),
    "image_pulls_bytes_total": Spec("counter", ("mediatype", "size"), "Bytes pulled, by blob type and blob size."),
    "image_pulls_skipped_bytes_total": Spec("counter", ("size",), "Bytes that need not be pulled, by blob size."),
    "image_pulls_failure_total": Spec("counter", ("error",), "Failed image pulls by reason."),
    "image_pulls_success_total": Spec("counter", (), "Successful image pulls."),
    "image_layer_reuse_total": Spec("counter", ("name",), "Layers that were there already, by digest."),
    "containers_oom_count_total": Spec("counter", ("name",), "Kills for lack of memory by container."),
    "containers_seccomp_notifier_count_total": Spec("counter", ("name", "syscall"), "Forbidden system calls seen."),
    "resources_stalled_at_stage": Spec("counter", ("stage",), "Repeated requests that met one still at this stage."),
    "containers_stopped_monitor_count": Spec("counter", ("name",), "Containers whose monitor died."),
    "default_runtime": Spec("gauge", ("runtime",), "1 for the default runtime handler."),
}
_SIZES = (1_000, 10**6, 10**7, 5 * 10**7, 10**8, 2 * 10**8, 3 * 10**8, 4 * 10**8, 5 * 10**8, 10**9, 10**10)
_SIZE_NAMES = (
    *(">0 B", ">1 KiB", ">1 MiB", ">10 MiB", ">50 MiB", ">100 MiB", ">200 MiB", ">300 MiB", ">400 MiB", ">500 MiB"),
    *(">1 GiB", ">10 GiB"),
)
_REGISTRY_CODES = frozenset(
    {
        *("BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DENIED", "DIGEST_INVALID"),
        *("MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "MANIFEST_UNVERIFIED", "NAME_INVALID"),
        *("NAME_UNKNOWN", "SIZE_INVALID", "TAG_INVALID", "TOOMANYREQUESTS", "UNAUTHORIZED", "UNAVAILABLE"),
        *("UNKNOWN", "UNSUPPORTED", "CONNECTION_REFUSED", "CONNECTION_TIMEOUT", "NOT_FOUND"),
    }
)


def size_label(size: int) -> str:
    """The class of a blob's size: thresholds count in thousands although they are named in 1024s."""
    return _SIZE_NAMES[bisect.bisect_left(_SIZES, size)]


def error_label(error: BaseException) -> str:
    """The reason of a failed pull: a registry's error code, else one of the connection, else UNKNOWN."""
    if isinstance(error, errors.RegistryError) and error.code in _REGISTRY_CODES:
        return error.code
    if isinstance(error, errors.RegistryError) and error.status:
        by_status = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NOT_FOUND", 429: "TOOMANYREQUESTS", 503: "UNAVAILABLE"}
        return by_status.get(error.status, "UNKNOWN")
    if isinstance(error, errors.Timeout | TimeoutError):
        return "CONNECTION_TIMEOUT"
    if isinstance(error, errors.Unavailable | ConnectionRefusedError):
        return "CONNECTION_REFUSED"
    return "NOT_FOUND" if isinstance(error, errors.NotFound) else "UNKNOWN"


class Metrics:
    """All metrics of the daemon. ``select`` chooses those that are kept; at first all are."""

    def __init__(self) -> None:
        self.selected: frozenset[str] = frozenset(SPECS)
        self.values: dict[str, dict[Labels, float]] = {
            name: {} if spec.labels else {(): 0.0}
            for name, spec in SPECS.items()
            if spec.kind in {"counter", "gauge"} and name != "processes_defunct"
        }
        self.summaries: dict[Labels, Quantiles] = {}
        self.layer_buckets = [0] * (len(BUCKETS) + 1)
        self.layer_bytes = 0.0

    def select(self, names: Iterable[str]) -> None:
        """Keep only these (names with or without CRI-O's prefixes). ValueError for an unknown one."""
        chosen = {name.removeprefix("container_runtime_").removeprefix("crio_") for name in names}
        if unknown := chosen - SPECS.keys():
            raise ValueError(f"{', '.join(sorted(unknown))}: no such metric")
        self.selected = frozenset(chosen)

    def operation(self, name: str, seconds: float, failed: bool = False) -> None:
        """A unary CRI call (``RunPodSandbox``) has ended."""
        labels = (name,)
        self._add("operations_total", labels)
        if failed:
            self._add("operations_errors_total", labels)
        self.latency(name, seconds)
        if "operations_latency_seconds_total" in self.selected:
            summary = self.summaries.get(labels)
            if summary is None:
                summary = self.summaries[labels] = Quantiles()
            summary.add(seconds)

    def latency(self, name: str, seconds: float) -> None:
        """How long something just took that is no call: ``network_setup_pod``, ``network_setup_overall``."""
        self._set("operations_latency_seconds", (name,), seconds)

    def pulled_bytes(self, mediatype: str, blob_size: int, count: int) -> None:
        """``count`` more bytes of a blob of ``blob_size`` bytes have arrived."""
        self._add("image_pulls_bytes_total", (mediatype, size_label(blob_size)), count)

    def pulled_blob(self, size: int) -> None:
        """A blob is complete."""
        if "image_pulls_layer_size" in self.selected:
            self.layer_buckets[bisect.bisect_left(BUCKETS, size)] += 1
            self.layer_bytes += size

    def pull_succeeded(self) -> None:
        """An image is complete."""
        self._add("image_pulls_success_total", ())

    def pull_failed(self, error: BaseException) -> None:
        """An image pull was given up."""
        self._add("image_pulls_failure_total", (error_label(error),))

    def layer_reused(self, digest: str) -> None:
        """A pull found this layer in the store."""
        self._add("image_layer_reuse_total", (digest,))

    def event_dropped(self) -> None:
        """A container event was lost."""
        self._add("containers_events_dropped_total", ())

    def container_oom(self, name: str) -> None:
        """The container with this full name (``k8s_…``) was killed for lack of memory."""
        self._add("containers_oom_total", ())
        self._add("containers_oom_count_total", (name,))

    def container_removed(self, name: str) -> None:
        """Forget the series of a container."""
        self.values["containers_oom_count_total"].pop((name,), None)

    def seccomp_notified(self, name: str, syscall: str) -> None:
        """A container tried a forbidden system call."""
        self._add("containers_seccomp_notifier_count_total", (name, syscall))

    def stalled(self, stage: str) -> None:
        """A repeated request found the first one still at this stage."""
        self._add("resources_stalled_at_stage", (stage,))

    def monitor_died(self, name: str) -> None:
        """The monitor of the container with this full name is gone."""
        self._add("containers_stopped_monitor_count", (name,))

    def default_runtime(self, name: str) -> None:
        """The default handler is now this one."""
        self.values["default_runtime"].clear()
        self._set("default_runtime", (name,), 1.0)

    def _add(self, metric: str, labels: Labels, count: float = 1.0) -> None:
        if metric in self.selected:
            series = self.values[metric]
            series[labels] = series.get(labels, 0.0) + count
            if len(series) > MAX_SERIES:
                del series[next(iter(series))]

    def _set(self, metric: str, labels: Labels, value: float) -> None:
        if metric in self.selected:
            self.values[metric][labels] = value


metrics = Metrics()
