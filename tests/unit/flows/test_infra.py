"""What the infra container is told of its pod's size."""

from __future__ import annotations

import json

from pycrio.flows.pods.infra import size_annotations
from pycrio.model.pod import PodConfig, PodMetadata, PodRecord
from pycrio.model.resources import HugepageLimit, Resources


def told(**limits: Resources) -> dict[str, object]:
    config = PodConfig(PodMetadata("n", "u", "ns"), **limits)
    found = size_annotations(PodRecord("id1", "name", config, "kata", "kata", 1, "/run"))
    assert found["pod-linux-overhead.crio.io"] == found["io.kubernetes.cri-o.PodLinuxOverhead"]
    assert found["pod-linux-resources.crio.io"] == found["io.kubernetes.cri-o.PodLinuxResources"]
    return {key: json.loads(text) for key, text in found.items()}


def test_what_a_machine_must_be_large_enough_for() -> None:
    overhead = Resources(cpu_quota=25_000, cpu_period=100_000, memory_limit=120 << 20)
    resources = Resources(cpu_shares=512, hugepages=(HugepageLimit("2MB", 4 << 20),))
    found = told(overhead=overhead, resources=resources)
    assert found["pod-linux-overhead.crio.io"] == {
        "cpu_quota": 25_000,
        "cpu_period": 100_000,
        "memory_limit_in_bytes": 120 << 20,
    }
    assert found["pod-linux-resources.crio.io"] == {
        "cpu_shares": 512,
        "hugepage_limits": [{"page_size": "2MB", "limit": 4 << 20}],
    }


def test_a_request_that_does_not_tell() -> None:
    assert set(map(str, told().values())) == {"{}"}
