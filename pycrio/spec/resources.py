"""The resources part: limits of the request as an OCI linux.resources object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from pycrio.errors import InvalidRequest
from pycrio.model.mount import DeviceNode
from pycrio.model.resources import HugepageLimit, Resources


def limits(wanted: Resources, controllers: frozenset[str], pids_limit: int = 0) -> dict[str, Any]:
    """cpu, memory, pids (-1: said to be unlimited, 0: not said), huge pages and unified values. Limits of absent
    controllers that the kubelet always sends (hugetlb) are dropped, as is that of swap where the kernel has no account
    of it; a swap limit below the memory limit is InvalidRequest."""
    out: dict[str, Any] = {}
    cpu: dict[str, Any] = {}
    for key, value in (("shares", wanted.cpu_shares), ("quota", wanted.cpu_quota), ("period", wanted.cpu_period)):
        if value:
            cpu[key] = value
    if wanted.cpuset_cpus:
        cpu["cpus"] = wanted.cpuset_cpus
    if wanted.cpuset_mems:
        cpu["mems"] = wanted.cpuset_mems
    if cpu:
        out["cpu"] = cpu
    memory = memory_limits(wanted)
    if "swap" not in controllers:
        memory.pop("swap", None)
    if memory:
        out["memory"] = memory
    if pids_limit and "pids" in controllers:
        out["pids"] = {"limit": pids_limit}
    if "hugetlb" in controllers and wanted.hugepages:
        out["hugepageLimits"] = [{"pageSize": h.page_size, "limit": h.limit} for h in wanted.hugepages]
    if wanted.unified:
        out["unified"] = dict(wanted.unified)
    return out


def memory_limits(wanted: Resources) -> dict[str, int]:
    """The memory object; ``swap`` is memory plus swap, as the CRI and the OCI both mean it."""
    if wanted.memory_limit < 0:
        raise InvalidRequest(f"memory limit {wanted.memory_limit} is negative")
    out: dict[str, int] = {}
    if wanted.memory_limit:
        out["limit"] = wanted.memory_limit
        out["swap"] = wanted.memory_swap_limit or wanted.memory_limit
        if 0 < wanted.memory_swap_limit < wanted.memory_limit:
            raise InvalidRequest(
                f"memory+swap limit {wanted.memory_swap_limit} is below the memory limit {wanted.memory_limit}"
            )
    elif wanted.memory_swap_limit:
        out["swap"] = wanted.memory_swap_limit
    return out


def wanted_of(document: Mapping[str, Any]) -> Resources:
    """The way back: what a linux.resources object limits, as a request would have said it."""
    cpu, memory = document.get("cpu") or {}, document.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    return Resources(
        cpu_period=cpu.get("period") or 0,
        cpu_quota=cpu.get("quota") or 0,
        cpu_shares=cpu.get("shares") or 0,
        memory_limit=limit,
        cpuset_cpus=cpu.get("cpus") or "",
        cpuset_mems=cpu.get("mems") or "",
        hugepages=tuple(HugepageLimit(p["pageSize"], p["limit"]) for p in document.get("hugepageLimits") or ()),
        unified=dict(document.get("unified") or {}),
        memory_swap_limit=0 if swap == limit else swap,
    )


def merge(old: Resources, new: Resources) -> Resources:
    """New values above old ones; 0 and "" leave the old."""
    changed = {f.name: getattr(new, f.name) for f in fields(Resources) if getattr(new, f.name)}
    changed.pop("oom_score_adj", None)  # fixed at the start of the process
    if "unified" in changed:
        changed["unified"] = {**old.unified, **new.unified}
    return replace(old, **changed)


def device_rules(nodes: Iterable[DeviceNode], everything: bool) -> list[dict[str, Any]]:
    """The device cgroup: all, or only the given nodes (the runtime adds the default ones itself)."""
    if everything:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for n in nodes:
        rules.append({"allow": True, "type": n.type, "major": n.major, "minor": n.minor, "access": n.access})
    return rules


def device_documents(nodes: Iterable[DeviceNode]) -> list[dict[str, Any]]:
    """linux.devices."""
    return [
        {
            "path": n.path,
            "type": n.type,
            "major": n.major,
            "minor": n.minor,
            "fileMode": n.mode,
            "uid": n.uid,
            "gid": n.gid,
        }
        for n in nodes
    ]
