"""Rows of ``[crio.tracing]``: OpenTelemetry."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

ROWS = (
    Row(
        "crio.tracing.enable_tracing",
        "bool",
        False,
        "Send OpenTelemetry spans of calls and their steps to a collector. Needs the extra pycrio[tracing].",
        flags=("--enable-tracing",),
        env=("CONTAINER_ENABLE_TRACING",),
    ),
    Row(
        "crio.tracing.tracing_endpoint",
        "string",
        "127.0.0.1:4317",
        "Host and port of the OTLP collector (gRPC without TLS).",
        flags=("--tracing-endpoint",),
        env=("CONTAINER_TRACING_ENDPOINT",),
    ),
    Row(
        "crio.tracing.tracing_sampling_rate_per_million",
        "int",
        0,
        "How many of a million calls that bring no trace of their own are traced: 0 none, 1000000 every one. A call "
        "that belongs to a trace already follows that one's decision.",
        flags=("--tracing-sampling-rate-per-million",),
        env=("CONTAINER_TRACING_SAMPLING_RATE_PER_MILLION",),
        rules=(rules.between(0, 1_000_000),),
    ),
)
