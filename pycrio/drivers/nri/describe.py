"""Pods, containers and limits as messages of the protocol, and limits back as OCI documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.nri import NriContainer
from pycrio.model.pod import PodRecord
from pycrio.model.resources import Resources
from pycrio.model.security import ContainerSecurity, ProfileType

# field of the message → key of the OCI document
MEMORY = {
    "limit": "limit",
    "reservation": "reservation",
    "swap": "swap",
    "kernel": "kernel",
    "kernel_tcp": "kernelTCP",
    "swappiness": "swappiness",
    "disable_oom_killer": "disableOOMKiller",
    "use_hierarchy": "useHierarchy",
}
CPU = {
    "shares": "shares",
    "quota": "quota",
    "period": "period",
    "realtime_runtime": "realtimeRuntime",
    "realtime_period": "realtimePeriod",
}
CPU_SETS = ("cpus", "mems")
STAGES = {
    "prestart": "prestart",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}
NAMESPACES = {"net": "network"}
_STATES = {
    ContainerState.CREATED: pb.CONTAINER_CREATED,
    ContainerState.RUNNING: pb.CONTAINER_RUNNING,
    ContainerState.EXITED: pb.CONTAINER_STOPPED,
    ContainerState.UNKNOWN: pb.CONTAINER_UNKNOWN,
}


def text(value: object) -> str:
    """Text that the protocol can carry: bytes that are not UTF-8 become replacement characters."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def texts(values: Mapping[str, str]) -> dict[str, str]:
    """Likewise for a mapping."""
    return {text(k): text(v) for k, v in values.items()}


# --- pods -----------------------------------------------------------------------------------------------------------


def pod(record: PodRecord) -> pb.PodSandbox:
    """A pod."""
    config = record.config
    linux = pb.LinuxPodSandbox(
        cgroup_parent=record.cgroup_parent,
        namespaces=[
            pb.LinuxNamespace(type=NAMESPACES.get(kind, kind), path=path) for kind, path in record.namespaces.items()
        ],
    )
    if config.overhead is not None:
        linux.pod_overhead.CopyFrom(limits(config.overhead))
    if config.resources is not None:
        linux.pod_resources.CopyFrom(limits(config.resources))
    return pb.PodSandbox(
        id=record.id,
        name=text(config.metadata.name),
        uid=text(config.metadata.uid),
        namespace=text(config.metadata.namespace),
        labels=texts(config.labels),
        annotations=texts(config.annotations),
        runtime_handler=record.requested_handler,
        linux=linux,
        pid=record.first_pid,
        ips=record.ips,
    )


def limits(wanted: Resources) -> pb.LinuxResources:
    """Limits as the CRI gives them; what is not given is absent."""
    out = pb.LinuxResources(unified=texts(wanted.unified))
    for part, name, value in (
        (out.cpu, "shares", wanted.cpu_shares),
        (out.cpu, "quota", wanted.cpu_quota),
        (out.cpu, "period", wanted.cpu_period),
        (out.memory, "limit", wanted.memory_limit),
        (out.memory, "swap", wanted.memory_swap_limit),
    ):
        if value:
            getattr(part, name).value = value
    out.cpu.cpus, out.cpu.mems = wanted.cpuset_cpus, wanted.cpuset_mems
    for page in wanted.hugepages:
        out.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    return out


# --- containers -------------------------------------------------------------------------------------------------------


def container(view: NriContainer) -> pb.Container:
    """A container, by its record and its OCI config."""
    record, document = view.record, view.document
    process = document.get("process") or {}
    out = pb.Container(
        id=record.id,
        pod_sandbox_id=record.pod_id,
        name=text(record.config.metadata.name),
        state=pb.CONTAINER_PAUSED if record.paused else _STATES[record.state],
        labels=texts(record.config.labels),
        annotations=texts(document.get("annotations") or {}),
        args=[text(a) for a in process.get("args") or ()],
        env=[text(e) for e in process.get("env") or ()],
        mounts=[mount(m) for m in document.get("mounts") or ()],
        hooks=hooks(document.get("hooks") or {}),
        linux=_linux(record, document),
        pid=record.pid,
        rlimits=[pb.POSIXRlimit(type=r["type"], hard=r["hard"], soft=r["soft"]) for r in process.get("rlimits") or ()],
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=max(record.exit_code, 0),
        status_reason=text(record.reason),
        status_message=text(record.message),
        CDI_devices=[pb.CDIDevice(name=text(n)) for n in record.config.cdi_devices],
        image=pb.Image(
            name=record.image_name, digest=record.image_ref.rpartition("@")[2], config_digest=record.image_id
        ),
    )
    user = process.get("user") or {}
    out.user.uid, out.user.gid = user.get("uid", 0), user.get("gid", 0)
    out.user.additional_gids.extend(user.get("additionalGids") or ())
    return out


def mount(entry: Mapping[str, Any]) -> pb.Mount:
    """One entry of ``mounts``."""
    return pb.Mount(
        destination=text(entry["destination"]),
        type=entry.get("type", ""),
        source=text(entry.get("source", "")),
        options=[text(o) for o in entry.get("options") or ()],
    )


def hooks(document: Mapping[str, Any]) -> pb.Hooks:
    """The OCI hooks."""
    out = pb.Hooks()
    for name, stage in STAGES.items():
        for entry in document.get(stage) or ():
            hook = getattr(out, name).add(path=text(entry["path"]))
            hook.args.extend(text(a) for a in entry.get("args") or ())
            hook.env.extend(text(e) for e in entry.get("env") or ())
            if entry.get("timeout") is not None:
                hook.timeout.value = entry["timeout"]
    return out


def _linux(record: ContainerRecord, document: Mapping[str, Any]) -> pb.LinuxContainer:
    linux, process = document.get("linux") or {}, document.get("process") or {}
    out = pb.LinuxContainer(
        namespaces=[pb.LinuxNamespace(type=n["type"], path=n.get("path", "")) for n in linux.get("namespaces") or ()],
        devices=[device(d) for d in linux.get("devices") or ()],
        resources=resources(linux.get("resources") or {}),
        cgroups_path=linux.get("cgroupsPath", ""),
        sysctl=texts(linux.get("sysctl") or {}),
        seccomp_profile=_profile(record.config.security),
    )
    if process.get("oomScoreAdj") is not None:
        out.oom_score_adj.value = process["oomScoreAdj"]
        out.oom_score_adj.SetInParent()
    priority = process.get("ioPriority")
    if priority:
        setattr(out.io_priority, "class", pb.IOPrioClass.Value(priority["class"]))
        out.io_priority.priority = priority.get("priority", 0)
    if linux.get("seccomp"):
        out.seccomp_policy.CopyFrom(seccomp(linux["seccomp"]))
    for name, target in (linux.get("netDevices") or {}).items():
        out.net_devices[name].name = (target or {}).get("name", "")
    if process.get("scheduler"):
        out.scheduler.CopyFrom(_scheduler(process["scheduler"]))
    if linux.get("intelRdt") is not None:
        rdt = linux["intelRdt"]
        out.rdt.clos_id.value = rdt.get("closID", "")
        out.rdt.schemata.value.extend(rdt.get("schemata") or ())
        out.rdt.enable_monitoring.value = bool(rdt.get("enableMonitoring"))
    return out


def _profile(security: ContainerSecurity) -> pb.SecurityProfile:
    """What the request asks for; a privileged container and one that asks for nothing are unconfined."""
    asked = security.seccomp
    if asked is None or security.privileged:
        return pb.SecurityProfile(profile_type=pb.SecurityProfile.UNCONFINED)
    kinds = {
        ProfileType.RUNTIME_DEFAULT: pb.SecurityProfile.RUNTIME_DEFAULT,
        ProfileType.UNCONFINED: pb.SecurityProfile.UNCONFINED,
        ProfileType.LOCALHOST: pb.SecurityProfile.LOCALHOST,
    }
    return pb.SecurityProfile(profile_type=kinds[asked.type], localhost_ref=text(asked.localhost_ref))


def device(entry: Mapping[str, Any]) -> pb.LinuxDevice:
    """One entry of ``linux.devices``."""
    out = pb.LinuxDevice(
        path=text(entry["path"]), type=entry["type"], major=entry.get("major", 0), minor=entry.get("minor", 0)
    )
    for name, key in (("file_mode", "fileMode"), ("uid", "uid"), ("gid", "gid")):
        if entry.get(key) is not None:
            _set_optional(getattr(out, name), entry[key])
    return out


def seccomp(document: Mapping[str, Any]) -> pb.LinuxSeccomp:
    """The seccomp filter."""
    out = pb.LinuxSeccomp(
        default_action=document["defaultAction"],
        architectures=document.get("architectures") or (),
        flags=document.get("flags") or (),
        listener_path=document.get("listenerPath", ""),
        listener_metadata=text(document.get("listenerMetadata", "")),
    )
    if document.get("defaultErrnoRet") is not None:
        _set_optional(out.default_errno, document["defaultErrnoRet"])
    for rule in document.get("syscalls") or ():
        call = out.syscalls.add(names=rule["names"], action=rule["action"])
        if rule.get("errnoRet") is not None:
            _set_optional(call.errno_ret, rule["errnoRet"])
        for arg in rule.get("args") or ():
            call.args.add(index=arg["index"], value=arg["value"], value_two=arg.get("valueTwo", 0), op=arg["op"])
    return out


def _scheduler(document: Mapping[str, Any]) -> pb.LinuxScheduler:
    plain = {k: document[k] for k in ("nice", "priority", "runtime", "deadline", "period") if document.get(k)}
    return pb.LinuxScheduler(
        policy=document["policy"],
        flags=document.get("flags") or (),
        **plain,
    )


# --- limits -----------------------------------------------------------------------------------------------------------


def _set_optional(target: Any, value: Any) -> None:
    """Set an Optional… message, present also when the value is the type's default."""
    target.value = value
    target.SetInParent()


def resources(document: Mapping[str, Any]) -> pb.LinuxResources:
    """An OCI linux.resources document."""
    out = pb.LinuxResources(unified=texts(document.get("unified") or {}))
    for part, names, source in (
        (out.memory, MEMORY, document.get("memory") or {}),
        (out.cpu, CPU, document.get("cpu") or {}),
    ):
        part.SetInParent()
        for name, key in names.items():
            if source.get(key) is not None:
                _set_optional(getattr(part, name), source[key])
    cpu = document.get("cpu") or {}
    out.cpu.cpus, out.cpu.mems = cpu.get("cpus", ""), cpu.get("mems", "")
    for page in document.get("hugepageLimits") or ():
        out.hugepage_limits.add(page_size=page["pageSize"], limit=page["limit"])
    for rule in document.get("devices") or ():
        entry = out.devices.add(allow=rule["allow"], type=rule.get("type", ""), access=rule.get("access", ""))
        for name in ("major", "minor"):
            if rule.get(name) is not None:
                _set_optional(getattr(entry, name), rule[name])
    if (document.get("pids") or {}).get("limit") is not None:
        out.pids.limit = document["pids"]["limit"]
        out.pids.SetInParent()
    return out


def resources_document(message: pb.LinuxResources) -> dict[str, Any]:
    """Limits as an OCI linux.resources document that holds what is set; device rules and classes are left out.

    A memory limit without a swap limit takes the latter along, as everywhere: memory plus swap may not be below memory.
    """
    out: dict[str, Any] = {}
    memory = optional_values(message.memory, MEMORY)
    if "limit" in memory and not (memory.get("swap", 0) == -1 or memory.get("swap", 0) >= memory["limit"] > 0):
        memory["swap"] = memory["limit"]
    cpu = optional_values(message.cpu, CPU)
    for name in CPU_SETS:
        if getattr(message.cpu, name):
            cpu[name] = getattr(message.cpu, name)
    for key, value in (
        ("memory", memory),
        ("cpu", cpu),
        ("hugepageLimits", [{"pageSize": p.page_size, "limit": p.limit} for p in message.hugepage_limits]),
        ("unified", dict(message.unified)),
    ):
        if value:
            out[key] = value
    if message.HasField("pids"):
        out["pids"] = {"limit": message.pids.limit}
    return out


def optional_values(message: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """The Optional… fields that are set, under their names in the OCI document."""
    return {key: getattr(message, name).value for name, key in names.items() if message.HasField(name)}


def device_rules(rules: Iterable[pb.LinuxDeviceCgroup]) -> list[dict[str, Any]]:
    """Rules of the device cgroup."""
    out = []
    for rule in rules:
        entry: dict[str, Any] = {"allow": rule.allow, "access": rule.access}
        if rule.type:
            entry["type"] = rule.type
        for name in ("major", "minor"):
            if rule.HasField(name):
                entry[name] = getattr(rule, name).value
        out.append(entry)
    return out
