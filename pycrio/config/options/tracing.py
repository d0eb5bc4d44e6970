"""Rows of ``[crio.tracing]``: OpenTelemetry."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

_LATER = "export of OpenTelemetry traces"

ROWS = (
    Row(
        "crio.tracing.enable_tracing",
        "bool",
        False,
        "Send OpenTelemetry spans of every call. Needs the extra pycrio[tracing].",
        flags=("--enable-tracing",),
        env=("CONTAINER_ENABLE_TRACING",),
        later=_LATER,
    ),
    Row(
        "crio.tracing.tracing_endpoint",
        "string",
        "127.0.0.1:4317",
        "Address of the OTLP collector (gRPC without TLS).",
        flags=("--tracing-endpoint",),
        env=("CONTAINER_TRACING_ENDPOINT",),
        later=_LATER,
    ),
    Row(
        "crio.tracing.tracing_sampling_rate_per_million",
        "int",
        0,
        "How many of a million calls that bring no trace of their own are traced; 1000000 is every one.",
        flags=("--tracing-sampling-rate-per-million",),
        env=("CONTAINER_TRACING_SAMPLING_RATE_PER_MILLION",),
        rules=(rules.between(0, 1_000_000),),
        later=_LATER,
    ),
)
