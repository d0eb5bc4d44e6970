"""Names of the shim protocol (containerd runtime v2)."""

from __future__ import annotations

NAMESPACE = "default"
"""Where CRI-O's containers are, for shims."""
EVENTS = "containerd.services.events.ttrpc.v1.Events"
OOM_TOPIC = "/tasks/oom"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
RUNC_OPTIONS = "containerd.runc.v1.Options"
CONFIG_OPTIONS = "runtimeoptions.v1.Options"
TASK_OOM = "containerd.events.TaskOOM"
METRICS = {"io.containerd.cgroups.v1.Metrics": 1, "io.containerd.cgroups.v2.Metrics": 2}


def task_service(version: int) -> str:
    """The service of a shim by the version of its start's answer; 2 and 3 differ in nothing but the name."""
    return f"containerd.task.v{3 if version >= 3 else 2}.Task"
