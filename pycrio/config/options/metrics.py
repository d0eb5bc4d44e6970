"""Rows of ``[crio.metrics]``: the Prometheus endpoint."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

# Names as pycrio.obs.metrics records them (a test compares the two).
COLLECTORS = (
    "image_pulls_layer_size",
    "containers_events_dropped_total",
    "containers_oom_total",
    "processes_defunct",
    "operations_total",
    "operations_latency_seconds",
    "operations_latency_seconds_total",
    "operations_errors_total",
    "image_pulls_bytes_total",
    "image_pulls_skipped_bytes_total",
    "image_pulls_failure_total",
    "image_pulls_success_total",
    "image_layer_reuse_total",
    "containers_oom_count_total",
    "containers_seccomp_notifier_count_total",
    "resources_stalled_at_stage",
    "containers_stopped_monitor_count",
    "default_runtime",
)


def bare(name: str) -> str:
    """A collector's name without the prefixes that CRI-O accepts before it."""
    return name.removeprefix("container_runtime_").removeprefix("crio_")


def _collector(item: str) -> str:
    return "" if bare(item) in COLLECTORS else f"{item!r} is not a metrics collector"


ROWS = (
    Row(
        "crio.metrics.enable_metrics",
        "bool",
        False,
        "Serve Prometheus metrics over HTTP.",
        flags=("--enable-metrics",),
        env=("CONTAINER_ENABLE_METRICS",),
    ),
    Row(
        "crio.metrics.metrics_collectors",
        "strings",
        COLLECTORS,
        "Which metrics are kept and served; crio_ and container_runtime_crio_ before a name are accepted.",
        flags=("--metrics-collectors",),
        env=("CONTAINER_METRICS_COLLECTORS",),
        rules=(rules.each(_collector),),
    ),
    Row(
        "crio.metrics.metrics_host",
        "string",
        "127.0.0.1",
        "Address or host name on which metrics are served.",
        flags=("--metrics-host",),
        env=("CONTAINER_METRICS_HOST",),
    ),
    Row(
        "crio.metrics.metrics_port",
        "int",
        9090,
        "Port on which metrics are served.",
        flags=("--metrics-port",),
        env=("CONTAINER_METRICS_PORT",),
        rules=(rules.between(0, 65535),),
    ),
    Row(
        "crio.metrics.metrics_socket",
        "string",
        "",
        "Unix socket on which metrics are served besides. Empty: none.",
        flags=("--metrics-socket",),
        env=("CONTAINER_METRICS_SOCKET",),
        rules=(rules.absolute_or_empty,),
    ),
    Row(
        "crio.metrics.metrics_cert",
        "string",
        "",
        "Certificate file (PEM). With metrics_key it makes the endpoint HTTPS; missing files are made, self-signed. A "
        "changed file is taken over without a restart.",
        flags=("--metrics-cert",),
        env=("CONTAINER_METRICS_CERT",),
        reload="watch",
        rules=(rules.absolute_or_empty,),
    ),
    Row(
        "crio.metrics.metrics_key",
        "string",
        "",
        "Private key file (PEM) of metrics_cert. A changed file is taken over without a restart.",
        flags=("--metrics-key",),
        env=("CONTAINER_METRICS_KEY",),
        reload="watch",
        rules=(rules.absolute_or_empty,),
    ),
)
