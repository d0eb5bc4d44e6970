"""What annotations, handler and configuration make of a pod's request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from pycrio.errors import InvalidRequest
from pycrio.flows.pods import idmaps
from pycrio.flows.ports import Options, Workload
from pycrio.model.node import Handler
from pycrio.model.pod import PodConfig
from pycrio.model.security import IdMapping, IdMaps, NamespaceMode
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


def shm_size(config: PodConfig, handler: Handler, options: Options) -> int:
    """Bytes of the pod's /dev/shm."""
    text = value_of(allowed(config, handler, options), "shm-size.crio.io")
    if text is None:
        return DEFAULT_SHM
    size = quantity(text)
    if size <= 0:
        raise InvalidRequest(f"shm size {text!r} must be positive")
    return size


class Ranges(Protocol):
    """The part of the Namespaces port that hands out id ranges."""

    def id_ranges(self, mode: str) -> IdMaps:
        """Maps for a userns-mode annotation."""

    def release_ids(self, uid_map: Sequence[IdMapping]) -> None:
        """Give ranges back."""


def user_maps(config: PodConfig, handler: Handler, options: Options, ranges: Ranges) -> IdMaps:
    """uid and gid maps of the pod's user namespace; both empty for none.

    What the request says comes first, then the annotation, then the maps that the configuration has for every pod.
    """
    userns = config.security.namespaces.userns
    if userns is not None and userns.mode is not NamespaceMode.NODE:
        if userns.mode is not NamespaceMode.POD:
            raise InvalidRequest(f"user namespace mode {userns.mode.name} is not supported: use POD or NODE")
        if len(userns.uids) != len(userns.gids):
            raise InvalidRequest("a user namespace needs as many gid as uid mappings")
        if userns.uids:
            idmaps.check("uid", userns.uids)
            idmaps.check("gid", userns.gids)
            return userns.uids, userns.gids
    elif userns is not None:
        return (), ()
    mode = value_of(allowed(config, handler, options), "userns-mode.crio.io")
    whole_node = (options.uid_map, options.gid_map)
    if not mode:
        return whole_node
    given = "uidmapping=" in mode or "gidmapping=" in mode
    if mode.startswith("private") and not given and options.uid_map:
        return whole_node
    if given:
        _may_map(config, options)
    maps = ranges.id_ranges(mode)
    try:
        for kind, lowest, chosen in (("uid", options.lowest_uid, maps[0]), ("gid", options.lowest_gid, maps[1])):
            for m in chosen:
                if m.host_id < lowest:
                    raise InvalidRequest(
                        f"userns-mode {mode!r} maps {kind} range {m.host_id}-{m.host_id + m.length - 1} of the host, "
                        f"but minimum_mappable_{kind} is {lowest}"
                    )
    except InvalidRequest:
        ranges.release_ids(maps[0])
        raise
    return maps


def _may_map(config: PodConfig, options: Options) -> None:
    """InvalidRequest unless the pod may name ids of the host: its user decides, so that it has to be known."""
    user = config.security.run_as_user
    if user is None:
        raise InvalidRequest(
            "userns-mode with uidmapping or gidmapping needs run_as_user in the pod's security context"
        )
    if user and options.lowest_uid < 0:
        raise InvalidRequest(
            f"a pod that runs as user {user} may not map ids of the host unless minimum_mappable_uid is configured"
        )
    if user and user < options.lowest_uid:
        raise InvalidRequest(
            f"a pod that runs as user {user} may not map ids of the host: minimum_mappable_uid is {options.lowest_uid}"
        )


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
