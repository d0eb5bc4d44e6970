"""An adjustment of all plugins applied to an OCI config (runtime-spec 1.3), in place."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycrio.drivers.nri import describe
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.owners import bare
from pycrio.errors import InvalidRequest, PluginFailure
from pycrio.obs import log as obslog

log = obslog.get("nri")
RELABEL = "relabel"
_PROPAGATION = ("rprivate", "rshared", "rslave")


@dataclass(frozen=True, slots=True)
class Helpers:
    """What others know: ``permitted`` tells whether an annotation may be set, ``inject`` applies CDI devices,
    ``propagation`` is that of the mount which holds a host path (``shared``, ``slave`` or ``private``),
    ``block_io`` the OCI document of a block I/O class (None for an unknown one)."""

    permitted: Callable[[str], bool]
    inject: Callable[[dict[str, Any], Sequence[str]], None]
    propagation: Callable[[str], str]
    block_io: Callable[[str], Mapping[str, Any] | None] = lambda name: None


def apply(document: dict[str, Any], adjust: pb.ContainerAdjustment, helpers: Helpers) -> tuple[str, ...]:
    """Change the config; host paths of mounts that want the container's mount label. InvalidRequest for mounts whose
    propagation the host does not allow, NotFound for unknown CDI devices."""
    linux: dict[str, Any] = document.setdefault("linux", {})
    process: dict[str, Any] = document.setdefault("process", {})
    _annotations(document, adjust, helpers.permitted)
    _env(process, adjust)
    if adjust.args:
        process["args"] = list(adjust.args)
    _hooks(document, adjust.hooks)
    if adjust.CDI_devices:
        helpers.inject(document, [d.name for d in adjust.CDI_devices])
    _devices(linux, adjust.linux)
    _scalars(linux, process, adjust.linux)
    _namespaces(document, linux, adjust.linux)
    _keyed(linux, "sysctl", dict(adjust.linux.sysctl.items()))
    _keyed(linux, "netDevices", {k: {"name": v.name} if v.name else {} for k, v in adjust.linux.net_devices.items()})
    if adjust.linux.HasField("resources"):
        _resources(linux.setdefault("resources", {}), adjust.linux.resources)
        _classes(linux, adjust.linux.resources, helpers.block_io)
    if adjust.linux.HasField("rdt"):
        _rdt(linux, adjust.linux.rdt)
    for limit in adjust.rlimits:
        kept = [r for r in process.get("rlimits") or () if r["type"] != limit.type]
        process["rlimits"] = [*kept, {"type": limit.type, "hard": limit.hard, "soft": limit.soft}]
    return _mounts(document, linux, adjust, helpers.propagation)


def _annotations(document: dict[str, Any], adjust: pb.ContainerAdjustment, permitted: Callable[[str], bool]) -> None:
    wanted = {}
    for key, value in adjust.annotations.items():
        if permitted(bare(key)[0]):
            wanted[key] = value
        else:
            log.warning("Annotation of an NRI plugin is not allowed for the runtime handler, ignored", annotation=key)
    _keyed(document, "annotations", wanted)


def _keyed(parent: dict[str, Any], name: str, wanted: dict[str, Any]) -> None:
    """Take away keys with a leading "-", then set the others."""
    if not wanted:
        return
    entries = parent.setdefault(name, {})
    for key in wanted:
        if bare(key)[1]:
            entries.pop(bare(key)[0], None)
    entries.update((k, v) for k, v in wanted.items() if not bare(k)[1])
    if not entries:
        del parent[name]


def _env(process: dict[str, Any], adjust: pb.ContainerAdjustment) -> None:
    """Variables that exist keep their place."""
    wanted = {bare(e.key)[0]: None for e in adjust.env if bare(e.key)[1]} | {
        e.key: e.value for e in adjust.env if not bare(e.key)[1]
    }
    out = []
    for entry in process.get("env") or ():
        name = entry.partition("=")[0]
        if name not in wanted:
            out.append(entry)
        elif (value := wanted.pop(name)) is not None:
            out.append(f"{name}={value}")
    out += [f"{name}={value}" for name, value in wanted.items() if value is not None]
    if adjust.env:
        process["env"] = out


def _hooks(document: dict[str, Any], added: pb.Hooks) -> None:
    for name, stage in describe.STAGES.items():
        for hook in getattr(added, name):
            entry: dict[str, Any] = {"path": hook.path}
            if hook.args:
                entry["args"] = list(hook.args)
            if hook.env:
                entry["env"] = list(hook.env)
            if hook.HasField("timeout"):
                entry["timeout"] = hook.timeout.value
            document.setdefault("hooks", {}).setdefault(stage, []).append(entry)


def _devices(linux: dict[str, Any], adjust: pb.LinuxContainerAdjustment) -> None:
    """Nodes, and the rules that let them be used. A char device may not be made anew, as NRI has it."""
    for device in adjust.devices:
        path, gone = bare(device.path)
        known = linux.get("devices") or []
        rules = linux.setdefault("resources", {}).setdefault("devices", [])
        for old in [d for d in known if d["path"] == path]:
            known = [d for d in known if d is not old]
            if not any(_same(d, old) for d in known):
                rules[:] = [r for r in rules if not (r["allow"] and _same(r, old))]
        if not gone:
            entry: dict[str, Any] = {
                "path": path,
                "type": device.type,
                "major": device.major,
                "minor": device.minor,
                **describe.optional_values(device, {"file_mode": "fileMode", "uid": "uid", "gid": "gid"}),
            }
            known = [*known, entry]
            access = "rwm" if device.type == "b" else "rw"
            rules.append({"allow": True, **{k: entry[k] for k in ("type", "major", "minor")}, "access": access})
        linux["devices"] = known


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a.get(k) == b.get(k) for k in ("type", "major", "minor"))


def _scalars(linux: dict[str, Any], process: dict[str, Any], adjust: pb.LinuxContainerAdjustment) -> None:
    if adjust.cgroups_path:
        linux["cgroupsPath"] = adjust.cgroups_path
    if adjust.HasField("oom_score_adj"):
        process["oomScoreAdj"] = adjust.oom_score_adj.value
    if adjust.HasField("io_priority"):
        kind = getattr(adjust.io_priority, "class")
        process.pop("ioPriority", None)
        if kind != pb.IOPRIO_CLASS_NONE:
            process["ioPriority"] = {"class": _name(pb.IOPrioClass, kind), "priority": adjust.io_priority.priority}
    if adjust.HasField("scheduler"):
        process.pop("scheduler", None)
        if adjust.scheduler.policy != pb.SCHED_NONE:
            process["scheduler"] = _scheduler(adjust.scheduler)
    if adjust.HasField("memory_policy"):
        policy = adjust.memory_policy
        linux["memoryPolicy"] = {
            "mode": _name(pb.MpolMode, policy.mode),
            "nodes": policy.nodes,
            "flags": [_name(pb.MpolFlag, f) for f in policy.flags],
        }
    if adjust.HasField("seccomp_policy"):
        linux["seccomp"] = _seccomp(adjust.seccomp_policy)


def _name(kind: Any, number: int) -> str:
    """The name of an enumerated value, as the OCI config has it; PluginFailure for one that nobody knows."""
    try:
        return str(kind.Name(number))
    except ValueError as e:
        raise PluginFailure(f"an NRI plugin gave the unknown value {number} for {kind.DESCRIPTOR.name}") from e


def _scheduler(asked: pb.LinuxScheduler) -> dict[str, Any]:
    out: dict[str, Any] = {"policy": _name(pb.LinuxSchedulerPolicy, asked.policy)}
    for name in ("nice", "priority", "runtime", "deadline", "period"):
        if value := getattr(asked, name):
            out[name] = value
    if asked.flags:
        out["flags"] = [_name(pb.LinuxSchedulerFlag, f) for f in asked.flags]
    return out


def _seccomp(policy: pb.LinuxSeccomp) -> dict[str, Any]:
    out: dict[str, Any] = {
        "defaultAction": policy.default_action,
        **describe.optional_values(policy, {"default_errno": "defaultErrnoRet"}),
    }
    for key, value in (
        ("architectures", list(policy.architectures)),
        ("flags", list(policy.flags)),
        ("listenerPath", policy.listener_path),
        ("listenerMetadata", policy.listener_metadata),
    ):
        if value:
            out[key] = value
    rules = []
    for call in policy.syscalls:
        rule: dict[str, Any] = {"names": list(call.names), "action": call.action}
        rule |= describe.optional_values(call, {"errno_ret": "errnoRet"})
        if call.args:
            rule["args"] = [
                {"index": a.index, "value": a.value, "valueTwo": a.value_two, "op": a.op} for a in call.args
            ]
        rules.append(rule)
    if rules:
        out["syscalls"] = rules
    return out


def _namespaces(document: dict[str, Any], linux: dict[str, Any], adjust: pb.LinuxContainerAdjustment) -> None:
    entries = linux.get("namespaces") or []
    for asked in adjust.namespaces:
        kind, gone = bare(asked.type)
        fresh = {"type": kind, **({"path": asked.path} if asked.path else {})}
        entries = [e for e in entries if e["type"] != kind] + ([] if gone else [fresh])
    if adjust.namespaces:
        linux["namespaces"] = entries
        if not any(e["type"] == "uts" for e in entries):
            document.pop("hostname", None)  # in the host's namespace it would rename the node


def _resources(resources: dict[str, Any], asked: pb.LinuxResources) -> None:
    wanted = describe.resources_document(asked)
    for part in ("memory", "cpu", "unified"):
        if part in wanted:
            resources[part] = {**(resources.get(part) or {}), **wanted[part]}
    for page in wanted.get("hugepageLimits", ()):
        kept = [p for p in resources.get("hugepageLimits") or () if p["pageSize"] != page["pageSize"]]
        resources["hugepageLimits"] = [*kept, page]
    if "pids" in wanted:
        if wanted["pids"]["limit"] < 0:
            resources.pop("pids", None)
        else:
            resources["pids"] = wanted["pids"]
    if asked.devices:
        resources["devices"] = [*(resources.get("devices") or ()), *describe.device_rules(asked.devices)]


def _classes(
    linux: dict[str, Any], asked: pb.LinuxResources, block_io: Callable[[str], Mapping[str, Any] | None]
) -> None:
    if asked.HasField("rdt_class"):
        name = asked.rdt_class.value
        if name in ("", "/PodQos"):
            linux.pop("intelRdt", None)
        else:
            linux["intelRdt"] = {"closID": name}
    if asked.HasField("blockio_class"):
        resources, name = linux.setdefault("resources", {}), asked.blockio_class.value
        resources.pop("blockIO", None)
        found = block_io(name) if name else None
        if found:
            resources["blockIO"] = dict(found)
        elif name:
            log.warning("NRI plugin asks for a block I/O class that is not configured", name=name)


def _rdt(linux: dict[str, Any], asked: pb.LinuxRdt) -> None:
    if asked.remove:
        linux.pop("intelRdt", None)
    wanted = describe.optional_values(asked, {"clos_id": "closID", "enable_monitoring": "enableMonitoring"})
    if asked.HasField("schemata"):
        wanted["schemata"] = list(asked.schemata.value)
    if wanted:
        linux["intelRdt"] = {**(linux.get("intelRdt") or {}), **wanted}


def _mounts(
    document: dict[str, Any], linux: dict[str, Any], adjust: pb.ContainerAdjustment, propagation: Callable[[str], str]
) -> tuple[str, ...]:
    entries = document.get("mounts") or []
    relabel = []
    for asked in adjust.mounts:
        destination, gone = bare(asked.destination)
        clean = posixpath.normpath(destination)
        entries = [e for e in entries if posixpath.normpath(e["destination"]) != clean]
        if gone:
            continue
        options = [o for o in asked.options if o != RELABEL]
        if len(options) != len(asked.options):
            relabel.append(asked.source)
        _check_propagation(linux, asked.source, options, propagation)
        fresh: dict[str, Any] = {"destination": destination}
        fresh |= {k: v for k, v in (("type", asked.type), ("source", asked.source), ("options", options)) if v}
        entries.append(fresh)
    if adjust.mounts:
        # Parents before what is mounted inside them; otherwise the order stays.
        document["mounts"] = sorted(entries, key=lambda e: _depth(e["destination"]))
    return tuple(relabel)


def _depth(path: str) -> int:
    return len([part for part in posixpath.normpath(path).split("/") if part])


def _check_propagation(
    linux: dict[str, Any], source: str, options: Sequence[str], propagation: Callable[[str], str]
) -> None:
    """A mount that is to pass mounts on needs a source that does, and a root that lets them through."""
    kind = next((o for o in reversed(options) if o in _PROPAGATION), "")
    if kind not in ("rshared", "rslave"):
        return
    here = propagation(source)
    if here != "shared" and not (kind == "rslave" and here == "slave"):
        raise InvalidRequest(f"NRI mount of {source!r} with {kind}: the path is on a {here} mount")
    if kind == "rshared":
        linux["rootfsPropagation"] = "rshared"
    elif linux.get("rootfsPropagation") not in ("rshared", "rslave"):
        linux["rootfsPropagation"] = "rslave"
