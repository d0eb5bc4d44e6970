"""What plugins are told about a pod."""

from __future__ import annotations

import pytest

from pycrio.drivers.network.arguments import capabilities, pod_arguments, rate
from pycrio.errors import InvalidRequest
from tests.unit.drivers.network.support import request


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("1k", 1000),
        ("10M", 10_000_000),
        (" 1.5G ", 1_500_000_000),
        ("1Mi", 1 << 20),
        ("1P", 10**15),
        ("1000", 1000),
        ("1e6", 10**6),
        ("2.5E3", 2500),
        (".5M", 500_000),
    ],
)
def test_rates(text: str, bits: int) -> None:
    assert rate(text) == bits


@pytest.mark.parametrize(
    "text",
    ["", "M", "1m", "999", "1.1P", "10MB", "-1M", "inf", "nan", "infinity", "1_000", "0x10k", "1e999", "٣M", "1e"],
)
def test_faulty_rates(text: str) -> None:
    with pytest.raises(InvalidRequest, match="bandwidth"):
        rate(text)


def test_capabilities() -> None:
    annotations = {"kubernetes.io/ingress-bandwidth": "10M", "a": "b"}
    assert capabilities(request(annotations=annotations, cgroup_path="/kubepods/x")) == {
        "io.kubernetes.cri.pod-annotations": annotations,
        "cgroupPath": "/kubepods/x",
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": (4 << 30) * 8 - 1},
    }
    assert capabilities(request()) == {"io.kubernetes.cri.pod-annotations": {}}


def test_arguments() -> None:
    assert pod_arguments(request("id")) == (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", "ns"),
        ("K8S_POD_NAME", "pod"),
        ("K8S_POD_INFRA_CONTAINER_ID", "id"),
        ("K8S_POD_UID", "uid-1"),
    )
    for value in ("a;K8S_POD_NAME=other", "a\0"):
        with pytest.raises(InvalidRequest, match="K8S_POD_UID"):
            pod_arguments(request(uid=value))
