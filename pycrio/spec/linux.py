"""The rest of the linux part: namespaces, masked and read-only paths."""

from __future__ import annotations

from collections.abc import Mapping

from pycrio.model.security import ContainerSecurity, NamespaceMode

DEFAULT_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)


def masked_paths(security: ContainerSecurity, extra: tuple[str, ...]) -> list[str]:
    """The request's list and, if it is not empty, the defaults and the host's ``extra`` ones; none when privileged."""
    if security.privileged or not security.masked_paths:
        return []
    return list(dict.fromkeys((*security.masked_paths, *DEFAULT_MASKED, *extra)))


def readonly_paths(security: ContainerSecurity) -> list[str]:
    """The request's list; nothing for a privileged container."""
    return [] if security.privileged else list(security.readonly_paths)


def namespaces(
    pins: Mapping[str, str], pid_mode: NamespaceMode, pid_path: str, private_cgroup: bool
) -> list[dict[str, str]]:
    """linux.namespaces. ``pins`` holds the pod's own namespaces by kind; a kind that it lacks is the host's.
    ``pid_path`` is the namespace to join for pid modes POD and TARGET."""
    out: list[dict[str, str]] = [{"type": "mount"}]
    for kind, name in (("net", "network"), ("ipc", "ipc"), ("uts", "uts"), ("user", "user")):
        if kind in pins:
            out.append({"type": name, "path": pins[kind]})
    if pid_mode is NamespaceMode.CONTAINER:
        out.append({"type": "pid"})
    elif pid_path:
        out.append({"type": "pid", "path": pid_path})
    if private_cgroup:
        out.append({"type": "cgroup"})
    return out
