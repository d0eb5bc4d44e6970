"""What a plugin is told about a pod: CNI_ARGS and capability arguments (CNI conventions)."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from pycrio.errors import InvalidRequest
from pycrio.model.requests import NetworkRequest

OWNER_KEY = "K8S_POD_INFRA_CONTAINER_ID"
_BURST = (4 << 30) * 8 - 1
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3}|[kMGTP]|[KMGTP]i|)")


def pod_arguments(request: NetworkRequest) -> tuple[tuple[str, str], ...]:
    """CNI_ARGS of a pod. InvalidRequest when a value would end its argument early."""
    args = (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", request.namespace),
        ("K8S_POD_NAME", request.name),
        (OWNER_KEY, request.pod_id),
        ("K8S_POD_UID", request.uid),
    )
    for key, value in args:
        if ";" in value or "\0" in value:
            raise InvalidRequest(f"{value!r} cannot be handed to CNI plugins as {key}: it must have no semicolon")
    return args


def capabilities(request: NetworkRequest) -> dict[str, Any]:
    """Capability arguments: bandwidth, cgroup path, pod annotations. InvalidRequest for a faulty bandwidth."""
    out: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": dict(request.annotations)}
    if request.cgroup_path:
        out["cgroupPath"] = request.cgroup_path
    bandwidth: dict[str, int] = {}
    for direction in ("ingress", "egress"):
        text = request.annotations.get(f"kubernetes.io/{direction}-bandwidth")
        if text:
            bandwidth[f"{direction}Rate"] = rate(text)
            bandwidth[f"{direction}Burst"] = _BURST
    if bandwidth:
        out["bandwidth"] = bandwidth
    return out


def rate(text: str) -> int:
    """Bits per second of a bandwidth annotation, a Kubernetes quantity between 1k and 1P."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"bandwidth {text!r} is not a quantity such as 10M")
    digits, unit = match.groups()
    value = Decimal(digits + unit) if unit[:1] in ("e", "E") else Decimal(digits) * _UNITS[unit]
    if not 10**3 <= value <= 10**15:
        raise InvalidRequest(f"bandwidth {text!r} is not between 1k and 1P")
    return int(value)
