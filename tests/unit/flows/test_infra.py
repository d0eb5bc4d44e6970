"""What the infra container is told of its pod."""

from __future__ import annotations

import dataclasses
import json

from pycrio.flows.pods.infra import sandbox_annotations
from pycrio.flows.ports import Options
from pycrio.model.node import Handler
from pycrio.model.pod import PodConfig, PodMetadata, PodRecord
from pycrio.model.resources import HugepageLimit, Resources

OPTIONS = Options(log_dir="/l", exits_dir="/e", pause_image="p", pause_command="")
CONFIG = PodConfig(
    PodMetadata("n", "u", "ns"),
    annotations={"io.katacontainers.config.hypervisor.default_vcpus": "2", "shm-size.crio.io": "1Mi"},
)


def told(config: PodConfig) -> dict[str, str]:
    pod = PodRecord("id1", "name", config, "kata", "kata", 1, "/run")
    return sandbox_annotations(pod, Handler("kata", "/s", "/r", "/m", type="vm"), OPTIONS)


def test_the_pod_s_own_annotations_and_its_identity() -> None:
    found = told(CONFIG)
    assert found["io.katacontainers.config.hypervisor.default_vcpus"] == "2"
    assert "shm-size.crio.io" not in found  # it may not act
    assert found["io.kubernetes.cri-o.ContainerType"] == "sandbox"
    assert found["io.kubernetes.cri-o.SandboxID"] == "id1"
    assert found["pod-linux-overhead.crio.io"] == found["io.kubernetes.cri-o.PodLinuxResources"] == "{}"


def test_what_the_machine_must_be_large_enough_for() -> None:
    overhead = Resources(cpu_quota=25_000, cpu_period=100_000, memory_limit=120 << 20)
    resources = Resources(cpu_shares=512, hugepages=(HugepageLimit("2MB", 4 << 20),))
    found = told(dataclasses.replace(CONFIG, overhead=overhead, resources=resources))
    assert json.loads(found["pod-linux-overhead.crio.io"]) == {
        "cpu_quota": 25_000,
        "cpu_period": 100_000,
        "memory_limit_in_bytes": 120 << 20,
    }
    assert json.loads(found["io.kubernetes.cri-o.PodLinuxResources"]) == {
        "cpu_shares": 512,
        "hugepage_limits": [{"page_size": "2MB", "limit": 4 << 20}],
    }
