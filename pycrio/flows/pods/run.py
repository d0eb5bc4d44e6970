"""Run a pod.

1. Check the request; join a creation of the same name, or hand out the pod that it made.
2. Wait for the pod network to be configured (not for host-network pods).
3. Directories and files: run directory, log directory, hostname, resolv.conf, shm.
4. Namespaces, pinned, sysctls set inside.
5. Network: CNI, then host ports.
6. The pod's cgroup.
7. The pause process, only where containers share the pod's pid namespace.
8. Plugins are asked; then the record, and the events.
"""

from __future__ import annotations

import posixpath
import socket
from dataclasses import replace

from pycrio.errors import InvalidRequest
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods import infra, linklogs
from pycrio.flows.pods.options import effective_config, pod_sysctls, shm_size, user_maps
from pycrio.flows.ports import Labels, NamespaceRequest, NetworkRequest
from pycrio.flows.undo import Undo
from pycrio.model.event import Event, EventType
from pycrio.model.ids import new_id, pod_name
from pycrio.model.pod import DNSConfig, PodConfig, PodRecord
from pycrio.model.security import IdMapping, NamespaceMode
from pycrio.obs import log as obslog
from pycrio.obs import steps
from pycrio.obs.metrics import metrics

log = obslog.get("pod")
LABEL_LIMIT = 4096
HOST_NAME_MAX = 64


def check(config: PodConfig) -> None:
    """InvalidRequest unless the pod has an identity and sane labels."""
    m = config.metadata
    for part, value in (("name", m.name), ("namespace", m.namespace), ("uid", m.uid)):
        if not value:
            raise InvalidRequest(f"PodSandboxConfig.metadata.{part} must not be empty")
        if "/" in value or "\0" in value:
            raise InvalidRequest(
                f"PodSandboxConfig.metadata.{part} {value!r} contains a character that no name can have"
            )
    check_labels(config.labels)
    if len(config.hostname.encode()) > HOST_NAME_MAX or any(ord(c) <= 32 for c in config.hostname):
        raise InvalidRequest(f"hostname {config.hostname[:80]!r} is not a name of at most {HOST_NAME_MAX} characters")
    security = config.security
    if security.run_as_group is not None and security.run_as_user is None:
        raise InvalidRequest("run_as_group of a pod needs run_as_user beside it")
    if config.log_directory and not posixpath.isabs(config.log_directory):
        raise InvalidRequest(f"log directory {config.log_directory!r} must be an absolute path")


def check_labels(labels: dict[str, str]) -> None:
    """InvalidRequest for a label of more than 4096 bytes (key and value together)."""
    for key, value in labels.items():
        if len(key.encode()) + len(value.encode()) > LABEL_LIMIT:
            raise InvalidRequest(f"label key and value of {key[:60]!r} are longer than {LABEL_LIMIT} bytes together")


async def run(node: Node, config: PodConfig, handler_name: str) -> str:
    """Create and start a pod; the id. The same request again gives the same pod, also while the first one runs."""
    check(config)
    node.host.handlers.get(handler_name)
    m = config.metadata
    name = pod_name(m.name, m.namespace, m.uid, m.attempt)
    known = node.pods.by_name(name)
    if known is not None:
        return known.id
    if node.creating.running(("pod", name)):
        metrics.stalled(steps.stage("RunPodSandbox", name, "sandbox creating"))
    return await node.creating.run(("pod", name), lambda: _run(node, config, handler_name, name))


async def _run(node: Node, asked: PodConfig, handler_name: str, name: str) -> str:
    host = node.host
    handler = host.handlers.get(handler_name)
    config = effective_config(asked, handler)
    parent = host.cgroups.check_parent(config.cgroup_parent)
    if config.cgroup_parent:
        await _check_room(node, parent, handler.container_min_memory)
    namespaces = config.security.namespaces
    host_network = namespaces.network is NamespaceMode.NODE
    with steps.flow("RunPodSandbox", name):
        if not host_network:
            with steps.step("sandbox network ready"):
                await host.network.ready()
        async with Undo("run pod") as undo:
            ident = new_id()
            node.names.reserve(name, ident)
            undo.push("release name", node.names.release, name, ident)
            pod = PodRecord(
                id=ident,
                name=name,
                config=config,
                handler=handler.name,
                requested_handler=handler_name,
                created_at=now(),
                run_dir=posixpath.join(host.options.run_root, "overlay-containers", ident, "userdata"),
                hostname=config.hostname or (socket.gethostname() if host_network else ident[:12]),
                log_directory=config.log_directory or posixpath.join(host.options.log_dir, ident),
                cgroup_parent=parent,
                privileged=config.security.privileged
                or NamespaceMode.NODE in (namespaces.network, namespaces.pid, namespaces.ipc),
            )
            pod = _mapped(node, pod, undo)
            pod = _label(node, pod, undo)
            with steps.step("sandbox storage creation"):
                pod = await _files(node, pod, undo)
                await linklogs.show(node, pod, undo)
            with steps.step("sandbox namespace creation"):
                pod = await _namespaces(node, pod, undo)
            pod = await _network(node, pod, undo)
            with steps.step("sandbox container runtime creation"):
                undo.push("remove cgroup", host.cgroups.remove_pod, parent, ident)
                await host.cgroups.make_pod(parent, ident)
                if infra.needed(pod, host.options, handler):
                    pod = await infra.start(node, pod, undo)
            await node.plugins.run_pod(pod, undo)
            node.pods.put(pod)
            undo.release()
    for kind in (EventType.CREATED, EventType.STARTED):
        node.events.publish(Event(kind, ident, ident, now()))
    log.info(
        "Ran pod sandbox", id=ident, pod=f"{config.metadata.namespace}/{config.metadata.name}", ips=",".join(pod.ips)
    )
    return ident


async def _check_room(node: Node, parent: str, floor: int) -> None:
    """InvalidRequest for a pod whose group has less memory than it takes to start a process in it: each of its
    containers would fail, with less to be said about why."""
    stats = await node.host.cgroups.stats(parent)
    limit = stats.memory.limit if stats is not None and stats.memory is not None else None
    if limit is not None and limit < floor:
        raise InvalidRequest(f"pod set memory limit {limit} too low; should be at least {floor} bytes")


def root_of(maps: tuple[IdMapping, ...]) -> int:
    """The host id of the namespace's id 0; 0 without a map."""
    return next((m.host_id for m in maps if m.container_id == 0), maps[0].host_id if maps else 0)


def _mapped(node: Node, pod: PodRecord, undo: Undo) -> PodRecord:
    """Id maps of the pod's user namespace, allocated once and kept in the record."""
    host = node.host
    uids, gids = user_maps(pod.config, host.handlers.get(pod.handler), host.options, host.namespaces)
    if not uids:
        return pod
    undo.push("give id range back", node.host.namespaces.release_ids, uids)
    return replace(pod, uid_map=uids, gid_map=gids)


def _label(node: Node, pod: PodRecord, undo: Undo) -> PodRecord:
    """SELinux labels; none for pods that share what labels would protect."""
    security = pod.config.security
    modes = security.namespaces
    off = (
        security.privileged
        or NamespaceMode.NODE in (modes.pid, modes.ipc)
        or (modes.network is NamespaceMode.NODE and node.host.options.hostnetwork_disable_selinux)
    )
    labels = Labels()
    if not off:
        labels = node.host.security.labels(security.selinux, node.host.handlers.get(pod.handler))
        undo.push("release SELinux level", node.host.security.release, labels)
    return replace(pod, selinux_process_label=labels.process, selinux_mount_label=labels.mount)


async def _files(node: Node, pod: PodRecord, undo: Undo) -> PodRecord:
    """Run and log directories, hostname and resolv.conf, and the shm mount."""
    files, config = node.host.files, pod.config
    owner = (root_of(pod.uid_map), root_of(pod.gid_map))
    # Cancelled, such a call is brought to its end all the same: its undo is there before it.
    if not config.log_directory:
        undo.once("remove log directory", files.remove, pod.log_directory)
    await files.make_dirs(pod.log_directory, 0o700)
    undo.push("remove run directory", files.remove, posixpath.dirname(pod.run_dir))
    await files.make_dirs(pod.run_dir, 0o711)
    await files.write(f"{pod.run_dir}/hostname", pod.hostname.encode() + b"\n", 0o644, owner)
    await files.write(f"{pod.run_dir}/resolv.conf", await _resolv_conf(node, config.dns), 0o644, owner)
    if config.security.namespaces.ipc is NamespaceMode.NODE:
        return replace(pod, shm_path="/dev/shm")
    shm = f"{pod.run_dir}/shm"
    size = shm_size(config, node.host.handlers.get(pod.handler), node.host.options)
    undo.push("unmount shm", node.host.mounts.unmount, shm)
    await node.host.mounts.shm(shm, size, pod.selinux_mount_label, owner)
    return replace(pod, shm_path=shm)


async def _resolv_conf(node: Node, dns: DNSConfig | None) -> bytes:
    if dns is None or not (dns.servers or dns.searches or dns.options):
        return await node.host.files.read("/etc/resolv.conf", 1 << 20) or b""
    lines = []
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    lines += [f"nameserver {server}" for server in dns.servers]
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    text = "\n".join(lines) + "\n"
    if len(text.splitlines()) != len(lines):
        raise InvalidRequest("the DNS configuration contains a line break")
    return text.encode()


async def _namespaces(node: Node, pod: PodRecord, undo: Undo) -> PodRecord:
    modes = pod.config.security.namespaces
    kinds = []
    if modes.network is not NamespaceMode.NODE:
        kinds += ["net", "uts"]
    if modes.ipc is not NamespaceMode.NODE:
        kinds.append("ipc")
    if pod.uid_map:
        kinds.append("user")
    if not kinds:
        return pod
    pins = await node.host.namespaces.create(
        NamespaceRequest(
            pod_id=pod.id,
            kinds=tuple(kinds),
            hostname=pod.hostname if "uts" in kinds else "",
            sysctls=pod_sysctls(pod.config, node.host.options, pod.gid_map),
            uid_map=pod.uid_map,
            gid_map=pod.gid_map,
        )
    )
    undo.push("remove namespaces", node.host.namespaces.remove, list(pins.values()))
    return replace(pod, namespaces=dict(pins))


def network_request(pod: PodRecord, cgroup_path: str) -> NetworkRequest:
    """The pod's attachment, as at its creation."""
    m = pod.config.metadata
    return NetworkRequest(
        pod_id=pod.id,
        name=m.name,
        namespace=m.namespace,
        uid=m.uid,
        netns=pod.namespaces.get("net", ""),
        annotations=pod.config.annotations,
        cgroup_path=cgroup_path,
    )


async def _network(node: Node, pod: PodRecord, undo: Undo) -> PodRecord:
    if pod.config.security.namespaces.network is NamespaceMode.NODE:
        return pod
    with steps.step("sandbox network creation"):
        request = network_request(pod, pod.cgroup_parent)
        undo.push("detach network", node.host.network.delete, request)
        result = await node.host.network.add(request)
        pod = replace(pod, ips=result.ips, cni_result=result.result, network_ready=True)
        ports = [p for p in pod.config.port_mappings if p.host_port > 0]
        if ports and not node.host.options.disable_hostport_mapping:
            undo.push("close host ports", node.host.hostports.remove, pod.id)
            await node.host.hostports.add(pod.id, pod.name, pod.ips, ports)
    return pod
