"""What annotations, handler and configuration make of a pod's request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from pycrio.errors import InvalidRequest
from pycrio.flows.ports import Options, Workload
from pycrio.model.node import Handler
from pycrio.model.pod import PodConfig
from pycrio.model.security import IdMapping, NamespaceMode
from pycrio.obs import log as obslog

log = obslog.get("pod")
DEFAULT_SHM = 64 << 20
# Annotations that act, by current and by legacy name. Those that are not allowed for a handler are taken out.
GATED: dict[str, str] = {
    "cgroup2-mount-hierarchy-rw.crio.io": "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw",
    "cpu-c-states.crio.io": "",
    "cpu-freq-governor.crio.io": "",
    "cpu-load-balancing.crio.io": "",
    "cpu-quota.crio.io": "",
    "cpu-shared.crio.io": "",
    "devices.crio.io": "io.kubernetes.cri-o.Devices",
    "disable-fips.crio.io": "io.kubernetes.cri-o.DisableFIPS",
    "irq-load-balancing.crio.io": "",
    "link-logs.crio.io": "io.kubernetes.cri-o.LinkLogs",
    "platform-runtime-path.crio.io": "io.kubernetes.cri-o.PlatformRuntimePath",
    "pod-linux-overhead.crio.io": "io.kubernetes.cri-o.PodLinuxOverhead",
    "pod-linux-resources.crio.io": "io.kubernetes.cri-o.PodLinuxResources",
    "seccomp-notifier-action.crio.io": "io.kubernetes.cri-o.seccompNotifierAction",
    "seccomp-profile.crio.io": "seccomp-profile.kubernetes.cri-o.io",
    "shm-size.crio.io": "io.kubernetes.cri-o.ShmSize",
    "try-skip-volume-selinux-label.crio.io": "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
    "umask.crio.io": "io.kubernetes.cri-o.umask",
    "unified-cgroup.crio.io": "io.kubernetes.cri-o.UnifiedCgroup",
    "userns-mode.crio.io": "io.kubernetes.cri-o.userns-mode",
    "io.containers.trace-syscall": "",
    "io.kubernetes.cri.rdt-class": "",
}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?\Z")
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_UNITS |= {f"{p}i": float(1 << (10 * i)) for i, p in enumerate("KMGTP", start=1)}


def workload_of(config: PodConfig, workloads: Iterable[Workload]) -> Workload | None:
    """The workload whose activation annotation the pod carries."""
    return next((w for w in workloads if w.activation_annotation in config.annotations), None)


def acts(key: str) -> bool:
    """True for annotations that change what is done, so that they need to be allowed."""
    return any(
        name and (key == name or key.startswith((f"{name}/", f"{name}."))) for pair in GATED.items() for name in pair
    )


def effective_config(config: PodConfig, handler: Handler) -> PodConfig:
    """The request as it is recorded: the handler's default annotations below its own, and the labels that tools select
    pods by. Annotations that may not act stay in the record (callers get theirs back unaltered); ``allowed`` filters
    where one would act."""
    m = config.metadata
    identity = {
        "io.kubernetes.pod.name": m.name,
        "io.kubernetes.pod.namespace": m.namespace,
        "io.kubernetes.pod.uid": m.uid,
    }
    return replace(
        config,
        annotations={**handler.default_annotations, **config.annotations},
        labels={**identity, **config.labels, "io.kubernetes.container.name": "POD"},
    )


def allowed(config: PodConfig, handler: Handler, options: Options) -> dict[str, str]:
    """The pod's annotations without those that would act but are not allowed for its handler or workload."""
    workload = workload_of(config, options.workloads)
    prefixes = (*handler.allowed_annotations, *(workload.allowed_annotations if workload else ()))
    permitted = {p for name in prefixes for p in (name, GATED.get(name, "")) if p}
    permitted |= {new for new, old in GATED.items() if old and old in permitted}
    return {k: v for k, v in config.annotations.items() if not acts(k) or any(k.startswith(p) for p in permitted)}


def value_of(annotations: dict[str, str], name: str, container: str = "") -> str | None:
    """An acting annotation's value: for the container (``name/container``, legacy ``name.container``), else the plain
    one; the current name wins over the legacy one."""
    for base in (name, GATED.get(name, "")):
        if not base:
            continue
        keys = ((f"{base}/{container}", f"{base}.{container}") if container else ()) + (base,)
        for key in keys:
            if key in annotations:
                return annotations[key]
    return None


def quantity(text: str) -> int:
    """A Kubernetes quantity as a whole number of bytes."""
    match = _QUANTITY.match(text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is not a quantity such as 128Mi")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def shm_size(config: PodConfig) -> int:
    """Bytes of the pod's /dev/shm."""
    text = value_of(config.annotations, "shm-size.crio.io")
    if text is None:
        return DEFAULT_SHM
    size = quantity(text)
    if size <= 0:
        raise InvalidRequest(f"shm size {text!r} must be positive")
    return size


class Ranges(Protocol):
    """The part of the Namespaces port that hands out id ranges."""

    def id_ranges(self, mode: str) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
        """Maps for a userns-mode annotation."""


def user_maps(config: PodConfig, ranges: Ranges) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
    """uid and gid maps of the pod's user namespace; both empty for none."""
    userns = config.security.namespaces.userns
    if userns is not None and userns.mode is not NamespaceMode.NODE:
        if userns.mode is not NamespaceMode.POD:
            raise InvalidRequest(f"user namespace mode {userns.mode.name} is not supported: use POD or NODE")
        if len(userns.uids) != len(userns.gids):
            raise InvalidRequest("a user namespace needs as many gid as uid mappings")
        if userns.uids:
            if any(m.length <= 0 for m in (*userns.uids, *userns.gids)):
                raise InvalidRequest("an id mapping of a user namespace has no length")
            return userns.uids, userns.gids
    mode = value_of(config.annotations, "userns-mode.crio.io")
    return ranges.id_ranges(mode) if mode else ((), ())


def pod_sysctls(config: PodConfig, options: Options, gids: tuple[IdMapping, ...]) -> dict[str, str]:
    """Sysctls that may be set in the pod's namespaces; the others are skipped with a warning, as CRI-O does."""
    modes = config.security.namespaces
    out: dict[str, str] = {}
    for key, value in {**options.default_sysctls, **config.sysctls}.items():
        name = key.replace("/", ".")
        ipc = name == "kernel.sem" or name.startswith(("kernel.shm", "kernel.msg", "fs.mqueue."))
        net = name.startswith("net.")
        if not (ipc or net):
            log.warning("Sysctl is not namespaced, skipped", sysctl=name)
        elif ipc and modes.ipc is NamespaceMode.NODE:
            log.warning("Sysctl skipped: the pod uses the host's ipc namespace", sysctl=name)
        elif net and modes.network is NamespaceMode.NODE:
            log.warning("Sysctl skipped: the pod uses the host's network namespace", sysctl=name)
        else:
            out[name] = value
    if gids and "net.ipv4.ping_group_range" in out:
        out["net.ipv4.ping_group_range"] = _clamp_range(out["net.ipv4.ping_group_range"], gids)
    return out


def _clamp_range(value: str, gids: tuple[IdMapping, ...]) -> str:
    """The kernel refuses group ids that the user namespace does not map."""
    parts = value.split()
    if len(parts) != 2 or not all(p.isdecimal() for p in parts):
        return value
    top = max(m.container_id + m.length - 1 for m in gids)
    return f"{min(int(parts[0]), top)} {min(int(parts[1]), top)}"
