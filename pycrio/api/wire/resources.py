"""Limits: LinuxContainerResources."""

from __future__ import annotations

from pycrio.api._pb import api_pb2 as pb
from pycrio.model.resources import HugepageLimit, Resources


def decode(message: pb.LinuxContainerResources) -> Resources:
    """Limits as asked for; whether they fit together is for the flows."""
    return Resources(
        cpu_period=message.cpu_period,
        cpu_quota=message.cpu_quota,
        cpu_shares=message.cpu_shares,
        memory_limit=message.memory_limit_in_bytes,
        oom_score_adj=message.oom_score_adj,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        hugepages=tuple(HugepageLimit(h.page_size, h.limit) for h in message.hugepage_limits),
        unified=dict(message.unified),
        memory_swap_limit=message.memory_swap_limit_in_bytes,
    )


def encode(resources: Resources) -> pb.LinuxContainerResources:
    """Limits in force."""
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period,
        cpu_quota=resources.cpu_quota,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit,
        oom_score_adj=resources.oom_score_adj,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        hugepage_limits=[pb.HugepageLimit(page_size=h.page_size, limit=h.limit) for h in resources.hugepages],
        unified=resources.unified,
        memory_swap_limit_in_bytes=resources.memory_swap_limit,
    )
