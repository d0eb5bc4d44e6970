"""Rows of ``[crio.stats]``: container statistics and CRI pod metrics."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row, Value

POD_METRICS = ("cpu", "disk", "diskIO", "hugetlb", "memory", "network", "oom", "process", "spec", "pressure")


def _pod_metrics(value: Value) -> str:
    assert isinstance(value, tuple)
    if "all" in value and len(value) > 1:
        return "'all' must stand alone"
    bad = [item for item in value if item not in (*POD_METRICS, "all")]
    return f"{', '.join(map(repr, bad))} not among all, {', '.join(POD_METRICS)}" if bad else ""


ROWS = (
    Row(
        "crio.stats.stats_collection_period",
        "int",
        0,
        "Seconds between two collections of container statistics, 0 on demand.",
        flags=("--stats-collection-period",),
        env=("CONTAINER_STATS_COLLECTION_PERIOD",),
        rules=(rules.at_least(0),),
        deprecated="use collection_period",
    ),
    Row(
        "crio.stats.collection_period",
        "int",
        0,
        "Seconds between two collections of statistics and pod metrics; between them the last ones are answered. 0: "
        "collect when asked.",
        flags=("--collection-period",),
        env=("COLLECTION_PERIOD",),
        rules=(rules.at_least(0),),
    ),
    Row(
        "crio.stats.included_pod_metrics",
        "strings",
        (),
        "Groups of CRI pod metrics that are collected: " + ", ".join(POD_METRICS) + "; or all, alone.",
        flags=("--included-pod-metrics",),
        env=("CONTAINER_INCLUDED_POD_METRICS", "CONTAINER_INCLUDED_POD_METRCIS"),
        rules=(_pod_metrics,),
    ),
)
