"""What the OCI config of a new container is made of, asked together from the host, the pod and the configuration."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pycrio.errors import InvalidRequest, NotFound, Unsupported, WrongState
from pycrio.flows.containers import artifacts, tuning
from pycrio.flows.containers.labels import labels_of
from pycrio.flows.containers.volumes import MountPlan
from pycrio.flows.images.find import image_ref, repo_digests
from pycrio.flows.node_state import Node
from pycrio.flows.pods.options import value_of, workload_of
from pycrio.flows.ports import Labels, Workload
from pycrio.model.container import ContainerConfig, ContainerState
from pycrio.model.mount import DeviceNode, Mount
from pycrio.model.node import Handler
from pycrio.model.pod import PodRecord
from pycrio.model.resources import Resources
from pycrio.model.security import NamespaceMode
from pycrio.spec import capabilities, linux, process
from pycrio.spec.build import Parts
from pycrio.spec.resources import limits
from pycrio.spec.users import ResolvedUser

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making

_UMASK = re.compile(r"[0-7]{1,4}\Z")
_DEVICE = re.compile(r"[rwm]{1,3}\Z")
CDI_PREFIX = "cdi.k8s.io/"


async def collect(node: Node, making: Making, who: ResolvedUser, plan: MountPlan) -> Parts:
    """Every part of the config, resolved."""
    host, config, pod, handler = node.host, making.config, making.pod, making.handler
    security = config.security
    wanted = resources(node, making)
    check_memory_floor(wanted, handler.container_min_memory)
    labels = labels_of(node, making)
    mode, pid_path = pid_namespace(node, pod, config)
    everything = security.privileged and (
        not handler.privileged_without_host_devices or handler.privileged_without_host_devices_all_devices_allowed
    )
    first = _process(node, making, who, labels)
    first = replace(
        first,
        env=(*first.env, *tuning.environment(making.tuning, making)),
        exec_cpu_affinity=tuning.exec_cpu(making.tuning, making, wanted),
    )
    return Parts(
        process=first,
        rootfs=making.rootfs,
        readonly_rootfs=security.readonly_rootfs or (host.options.read_only and not security.privileged),
        hostname=pod.hostname,
        mounts=plan.mounts,
        namespaces=linux.namespaces(pod.namespaces, mode, pid_path, host.cgroups.unified() and not security.privileged),
        cgroup_path=host.cgroups.container_path(pod.cgroup_parent, making.ident),
        resources=limits(tuning.cpuset(making.tuning, wanted), host.cgroups.controllers(), pids_limit(node)),
        devices=_devices(node, making),
        all_devices=everything,
        annotations=oci_annotations(making),
        masked_paths=linux.masked_paths(security, host.options.masked_paths),
        readonly_paths=linux.readonly_paths(security),
        seccomp=await artifacts.seccomp(node, making, first.capabilities.get("bounding", ())),
        mount_label=labels.mount,
        rootfs_propagation=plan.rootfs_propagation,
        uid_map=pod.uid_map if handler.wants_joined_maps else (),
        gid_map=pod.gid_map if handler.wants_joined_maps else (),
    )


def resources(node: Node, making: Making) -> Resources:
    """The request's limits, as workload and annotations change them."""
    config, pod = making.config, making.pod
    found = with_workload(config, pod, workload_of(pod.config, node.host.options.workloads))
    return with_unified(found, making.annotations, config.metadata.name)


def _process(node: Node, making: Making, who: ResolvedUser, labels: Labels) -> process.ProcessParts:
    host, config, security = node.host, making.config, making.config.security
    known = host.security.known_capabilities()
    if security.privileged:
        names = [n for n in capabilities.ALL if n in known]
    else:
        names = capabilities.effective_set(security.capabilities, host.options.default_capabilities, known)
    umask = value_of(making.annotations, "umask.crio.io", config.metadata.name)
    if umask is not None and not _UMASK.match(umask):
        raise InvalidRequest(f"umask annotation {umask!r} must be up to four octal digits")
    env = process.environment(config, making.image.config, making.pod.hostname, host.options.default_env)
    return process.ProcessParts(
        args=process.arguments(config, making.image.config),
        env=with_gomaxprocs(node, making, env),
        cwd=process.working_dir(config, making.image.config),
        user=who.user,
        tty=config.tty,
        capabilities=capabilities.sets(security.capabilities, names, host.options.add_inheritable_capabilities),
        rlimits=process.clamp_rlimits(
            host.options.default_ulimits, host.processes.ulimits(), host.processes.may_raise_limits()
        ),
        no_new_privileges=security.no_new_privs,
        oom_score_adj=oom_score_adj(node, config.resources.oom_score_adj),
        apparmor=host.security.apparmor(security.apparmor, security.privileged),
        selinux=labels.process,
        umask=int(umask, 8) if umask is not None else None,
    )


def pids_limit(node: Node) -> int:
    """The configured limit; -1 is left out where nothing else would set one. systemd gives every scope that says
    nothing its DefaultTasksMax, 15 % of what the host can; on v1 crun refuses -1."""
    limit, cgroups = node.host.options.pids_limit, node.host.cgroups
    return limit if limit > 0 or (cgroups.driver() == "systemd" and cgroups.unified()) else 0


def oom_score_adj(node: Node, wanted: int) -> int:
    """The wanted value, raised to the daemon's own where it may not go lower (no CAP_SYS_RESOURCE)."""
    processes = node.host.processes
    return wanted if processes.may_raise_limits() else max(wanted, processes.oom_score_adj())


def inherited_oom_score(node: Node, score: int) -> int | None:
    """What the runtime of a new container is to start with. crun takes a 0 in the config for nothing said and leaves
    what its processes inherit, the daemon's own score: -999 under our unit. With any other score the runtime keeps the
    daemon's, which guards it while the node is short of memory."""
    return oom_score_adj(node, 0) if score == 0 else None


def with_gomaxprocs(node: Node, making: Making, env: tuple[str, ...]) -> tuple[str, ...]:
    """Go programs without a CPU quota size themselves by the node; ``min_injected_gomaxprocs`` bounds that."""
    floor, resources = node.host.options.min_injected_gomaxprocs, making.config.resources
    parent = making.pod.cgroup_parent
    if floor <= 0 or resources.cpu_quota > 0 or not ("burstable" in parent or "besteffort" in parent):
        return env
    if making.pod.config.annotations.get("skip-gomaxprocs.crio.io") == "true":
        return env
    if any(e.startswith("GOMAXPROCS=") for e in env):
        return env
    return (*env, f"GOMAXPROCS={max(-(-resources.cpu_shares * 2 // 1024), 1, floor)}")


def pid_namespace(node: Node, pod: PodRecord, config: ContainerConfig) -> tuple[NamespaceMode, str]:
    """The pid mode, and the namespace to join for modes POD and TARGET."""
    options = config.security.namespaces or pod.config.security.namespaces
    if options.pid is NamespaceMode.POD:
        if not pod.infra_pid:
            raise WrongState(f"pod sandbox {pod.id} has no init whose pid namespace could be shared")
        return options.pid, f"/proc/{pod.first_pid}/ns/pid"
    if options.pid is NamespaceMode.TARGET:
        target = node.containers.resolve(options.target_id)
        if target is None or target.pod_id != pod.id:
            raise NotFound("target container", options.target_id, "it is not in the same pod sandbox")
        if target.state is not ContainerState.RUNNING:
            raise WrongState(f"target container {target.id} is not running")
        return options.pid, f"/proc/{target.first_pid}/ns/pid"
    return options.pid, ""


def with_workload(config: ContainerConfig, pod: PodRecord, workload: Workload | None) -> Resources:
    """CPU values of the pod's workload class, with the container's override annotation above its defaults."""
    if workload is None:
        return config.resources
    values: dict[str, Any] = {
        "cpushares": workload.cpu_shares,
        "cpuquota": workload.cpu_quota,
        "cpuperiod": workload.cpu_period,
        "cpuset": workload.cpuset,
        "cpulimit": 0,
    }
    text = pod.config.annotations.get(f"{workload.annotation_prefix}/{config.metadata.name}")
    if text is not None:
        try:
            override = json.loads(text)
        except ValueError as e:
            raise InvalidRequest(f"workload annotation of container {config.metadata.name} is not JSON: {e}") from e
        if override is None:
            return config.resources
        if not isinstance(override, dict):
            raise InvalidRequest(f"workload annotation of container {config.metadata.name} is not a JSON object")
        values["cpulimit"] = workload.cpu_limit
        values |= {k.lower(): v for k, v in override.items() if v and k.lower() in values}
    if values["cpulimit"]:
        period = int(values["cpuperiod"]) or 100_000
        values["cpuperiod"] = period
        values["cpuquota"] = max(1000, int(values["cpulimit"]) * period // 1000)
    return replace(
        config.resources,
        cpu_shares=int(values["cpushares"]) or config.resources.cpu_shares,
        cpu_quota=int(values["cpuquota"]) or config.resources.cpu_quota,
        cpu_period=int(values["cpuperiod"]) or config.resources.cpu_period,
        cpuset_cpus=str(values["cpuset"]) or config.resources.cpuset_cpus,
    )


def with_unified(resources: Resources, allowed: Mapping[str, str], container: str) -> Resources:
    """Values of the unified-cgroup annotation: ``key=value;key=value``, each value perhaps base64."""
    text = value_of(dict(allowed), "unified-cgroup.crio.io", container)
    if not text:
        return resources
    values = dict(resources.unified)
    for item in filter(None, text.split(";")):
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise InvalidRequest(f"unified-cgroup annotation has {item!r} where key=value is expected")
        with contextlib.suppress(ValueError):  # no base64 of a text: the value as it stands
            value = base64.b64decode(value, validate=True).decode()
        values[key] = value
    return replace(resources, unified=values)


def check_memory_floor(resources: Resources, floor: int) -> None:
    """InvalidRequest for a memory limit with which no process of the runtime could start."""
    if 0 < resources.memory_limit < floor:
        raise InvalidRequest(f"set memory limit {resources.memory_limit} too low; should be at least {floor} bytes")


def parse_device(text: str) -> tuple[str, str, str]:
    """``host[:container][:rwm]`` as host path, container path and access."""
    parts = text.split(":")
    host, container, access = parts[0], "", "rwm"
    if len(parts) > 3 or not host.startswith("/dev/"):
        raise InvalidRequest(f"device {text!r} is not of the form /dev/x[:/dev/y][:rwm]")
    for part in parts[1:]:
        if part.startswith("/"):
            container = part
        elif _DEVICE.match(part):
            access = part
        else:
            raise InvalidRequest(f"device {text!r} has {part!r} where a path or access letters are expected")
    return host, container or host, access


def _devices(node: Node, making: Making) -> list[DeviceNode]:
    """Configured, annotated and requested devices; those of the host for a privileged container."""
    host, config, options = node.host, making.config, node.host.options
    found: dict[str, DeviceNode] = {}

    def add(host_path: str, container_path: str, access: str) -> None:
        found.update((n.path, n) for n in host.devices.nodes(host_path, container_path or host_path, access))

    security = config.security
    if security.privileged and not making.handler.privileged_without_host_devices:
        found |= {n.path: n for n in host.devices.host_nodes()}
    of_host = frozenset(found)
    for text in options.additional_devices:
        add(*parse_device(text))
    annotated = value_of(making.annotations, "devices.crio.io", config.metadata.name)
    for text in filter(None, (annotated or "").split(",")):
        path, inside, access = parse_device(text.strip())
        if not any(path == a or path.startswith(a.rstrip("/") + "/") for a in options.allowed_devices):
            raise InvalidRequest(f"device {path} is specified but is not in allowed_devices")
        add(path, inside, access)
    for device in config.devices:
        access = device.permissions or "rwm"
        if not _DEVICE.match(access):
            raise InvalidRequest(f"device {device.host_path} has access {access!r} where letters of rwm are expected")
        if device.container_path in of_host and device.container_path != device.host_path:
            raise InvalidRequest(
                f"privileged container was configured with device {device.host_path} at {device.container_path}, which "
                "already exists on the host: give it a path of its own"
            )
        for n in host.devices.nodes(device.host_path, device.container_path or device.host_path, access):
            if options.device_ownership_from_security_context:
                n = replace(n, uid=security.run_as_user or n.uid, gid=security.run_as_group or n.gid)
            found[n.path] = n
    return list(found.values())


def cdi_names(config: ContainerConfig) -> list[str]:
    """Qualified names of CDI devices, from the field and from annotations, without duplicates."""
    names = list(config.cdi_devices)
    for key, value in config.annotations.items():
        if key.startswith(CDI_PREFIX):
            names += [n.strip() for n in value.split(",")]
    return list(dict.fromkeys(n for n in names if n))


def oci_annotations(making: Making) -> dict[str, str]:
    """Annotations of the OCI config: the pod's and container's own, and those that tools of CRI-O read."""
    pod, config = making.pod, making.config
    prefix = "io.kubernetes.cri-o."
    metadata = {"name": config.metadata.name, "attempt": config.metadata.attempt}
    own = {
        "ContainerType": "container",
        "ContainerID": making.ident,
        "ContainerName": making.name,
        "Name": making.name,
        "KubeName": config.metadata.name,
        "SandboxID": pod.id,
        "SandboxName": pod.name,
        "Image": making.image.id,
        "ImageName": making.image.names[0] if making.image.names else "",
        "ImageRef": image_ref(making.image),
        "SomeNameOfTheImage": (repo_digests(making.image) or ("",))[0],
        "UserRequestedImage": config.image.user_specified_image or config.image.image,
        "CgroupParent": pod.cgroup_parent,
        "HostName": pod.hostname,
        "MountPoint": making.rootfs,
        "ResolvPath": f"{pod.run_dir}/resolv.conf",
        "ShmPath": pod.shm_path,
        "TTY": str(config.tty).lower(),
        "Stdin": str(config.stdin).lower(),
        "StdinOnce": str(config.stdin_once).lower(),
        "LogPath": posixpath.join(pod.log_directory, config.log_path or f"{making.ident}.log"),
        "Namespace": pod.config.metadata.namespace,
        "HostNetwork": str(pod.config.security.namespaces.network is NamespaceMode.NODE).lower(),
        "Created": datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z"),
        "Volumes": json.dumps([_volume(m) for m in config.mounts]),
        "PrivilegedRuntime": str(config.security.privileged).lower(),
        "RuntimeHandler": pod.requested_handler,
        "Labels": json.dumps(config.labels),
        "Annotations": json.dumps(config.annotations),
        "Metadata": json.dumps(metadata),
        **{f"IP.{i}": ip for i, ip in enumerate(pod.ips)},
    }
    stop_signal = config.stop_signal or making.image.config.stop_signal
    return {
        **making.annotations,
        **config.labels,
        **config.annotations,
        "io.container.manager": "cri-o",
        **({"org.opencontainers.image.stopSignal": stop_signal} if stop_signal else {}),
        **{prefix + k: v for k, v in own.items()},
    }


def _volume(mount: Mount) -> dict[str, object]:
    return {
        "container_path": mount.container_path,
        "host_path": mount.host_path,
        "readonly": mount.readonly,
        "recursive_read_only": mount.recursive_read_only,
        "propagation": mount.propagation.value,
    }


def refuse_what_is_beyond(handler: Handler, document: dict[str, Any]) -> None:
    """Unsupported for what an older runtime would leave out without a word. No shim tells what it can do."""
    interfaces = document["linux"].get("netDevices")
    if interfaces and not handler.net_devices and handler.type != "vm":
        raise Unsupported(
            f"network interface {', '.join(interfaces)} of a CDI device cannot be moved into the container: the "
            f"runtime of handler {handler.name!r} ({handler.path}) does not report netDevices among its features, "
            "install a newer one"
        )


def adapt_to_host(node: Node, document: dict[str, Any]) -> None:
    """The last word after hooks and CDI edits, which may ask for more than this daemon can hand on: limits are clamped
    and capabilities cut to the bounding set, or the runtime would refuse the whole container (nested nodes)."""
    processes = node.host.processes
    part = document["process"]
    known = node.host.security.known_capabilities()
    for kind, names in part.get("capabilities", {}).items():
        part["capabilities"][kind] = [n for n in names if n in known]
    if processes.may_raise_limits():
        return
    own = processes.ulimits()
    for limit in part.get("rlimits", ()):
        top = own.get(limit["type"], (0, limit["hard"]))[1]
        limit["soft"], limit["hard"] = min(limit["soft"], top), min(limit["hard"], top)
    if "oomScoreAdj" in part:
        part["oomScoreAdj"] = max(part["oomScoreAdj"], processes.oom_score_adj())
