"""Fakes of what surrounds containers: network, ports, namespaces, cgroups, security, devices, files, mounts."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pycrio.errors import AlreadyExists, InvalidRequest, NotFound, StoreFailure
from pycrio.flows.ports import Labels, NamespaceRequest, NetworkRequest, NetworkResult
from pycrio.model.cpus import CpuTuning, format_cpus, parse_cpus
from pycrio.model.mount import DeviceNode, OciMount
from pycrio.model.node import Condition, Handler
from pycrio.model.pod import PortMapping
from pycrio.model.security import IdMapping, SecurityProfile, SELinuxOptions
from pycrio.model.stats import CgroupStats, CpuUsage, FsSpace, InterfaceStats, MemoryUsage
from tests.fakes.script import Script


class FakeHandlers:
    """One handler, runc."""

    def __init__(self) -> None:
        self.runc = Handler("runc", "/usr/sbin/runc", "/run/runc", "/usr/bin/monitor", recursive_read_only=True)

    def get(self, name: str) -> Handler:
        if name not in ("", "runc"):
            raise InvalidRequest(f"runtime handler {name!r} is not configured")
        return self.runc

    def all(self) -> Sequence[Handler]:
        return [self.runc]


class FakeNetwork:
    """A network with one address."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.attached: set[str] = set()
        self.up = True

    async def ready(self) -> None:
        await self._script.at("network.ready")

    async def add(self, request: NetworkRequest) -> NetworkResult:
        await self._script.at("network.add")
        self.attached.add(request.pod_id)
        return NetworkResult(("10.88.0.2",), "{}")

    async def check(self, request: NetworkRequest) -> None:
        await self._script.at("network.check")

    async def delete(self, request: NetworkRequest) -> None:
        await self._script.at("network.delete")
        self.attached.discard(request.pod_id)

    async def gc(self, valid: Sequence[NetworkRequest]) -> None:
        self.attached &= {r.pod_id for r in valid}

    def condition(self) -> Condition:
        return Condition("NetworkReady", self.up, "" if self.up else "NetworkPluginNotReady")


class FakeHostPorts:
    """Ports that one pod each may hold."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.open: dict[tuple[str, str, int], str] = {}

    async def add(self, pod_id: str, pod_name: str, ips: Sequence[str], ports: Sequence[PortMapping]) -> None:
        await self._script.at("hostports.add")
        for port in ports:
            key = (port.protocol.name, port.host_ip, port.host_port)
            if self.open.setdefault(key, pod_id) != pod_id:
                raise AlreadyExists(f"host port {port.host_port} is taken by another pod")

    async def remove(self, pod_id: str) -> None:
        await self._script.at("hostports.remove")
        self.open = {k: v for k, v in self.open.items() if v != pod_id}

    async def sweep(self, valid: Sequence[str]) -> None:
        self.open = {k: v for k, v in self.open.items() if v in valid}


class FakeNamespaces:
    """Pins that are names only."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.pinned: dict[str, str] = {}
        self.asked: list[str] = []

    async def create(self, request: NamespaceRequest) -> Mapping[str, str]:
        await self._script.at("namespaces.create")
        made = {kind: f"/run/{kind}ns/{request.pod_id}" for kind in request.kinds}
        self.pinned |= {path: kind for kind, path in made.items()}
        return made

    async def remove(self, paths: Sequence[str]) -> None:
        await self._script.at("namespaces.remove")
        for path in paths:
            self.pinned.pop(path, None)

    async def pins(self) -> Mapping[str, str]:
        return dict(self.pinned)

    async def interfaces(self, netns: str) -> Sequence[InterfaceStats]:
        self.asked.append(netns)
        return [InterfaceStats("lo"), InterfaceStats("eth0", rx_bytes=5)]

    async def connect(self, netns: str, port: int) -> int:
        raise NotFound("port", str(port))

    def id_ranges(self, mode: str) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
        ids = (IdMapping(0, 100000, 65536),)
        return ids, ids

    def reserve_ids(self, uid_map: Sequence[IdMapping]) -> None:
        self._script.note("namespaces.reserve_ids")

    def release_ids(self, uid_map: Sequence[IdMapping]) -> None:
        self._script.note("namespaces.release_ids")


class FakeCgroups:
    """A cgroupfs manager on v2. ``monitored`` are the containers whose monitor has a group."""

    def __init__(self, script: Script, monitored: set[str] | None = None) -> None:
        self._script = script
        self._monitored = set() if monitored is None else monitored
        self.pods: set[str] = set()
        self.readings: CgroupStats | None = CgroupStats(7, CpuUsage(10), MemoryUsage(100, 80, 50), pids=1)
        self.pids: list[int] = []
        self.frozen: set[str] = set()

    def driver(self) -> str:
        return "cgroupfs"

    def check_parent(self, parent: str) -> str:
        if parent.endswith(".slice"):
            raise InvalidRequest(f"cgroup parent {parent!r} is a systemd slice")
        return parent or "/crio"

    def container_path(self, parent: str, container_id: str) -> str:
        return f"{parent}/crio-{container_id}"

    async def make_pod(self, parent: str, pod_id: str) -> str:
        await self._script.at("cgroups.make_pod")
        self.pods.add(pod_id)
        return f"{parent}/crio-{pod_id}"

    async def remove_pod(self, parent: str, pod_id: str) -> None:
        await self._script.at("cgroups.remove_pod")
        self.pods.discard(pod_id)

    async def leave(self, parent: str, container_id: str) -> None:
        await self._script.at("cgroups.leave")
        self._monitored.discard(container_id)

    async def stats(self, path: str) -> CgroupStats | None:
        await self._script.at("cgroups.stats")
        return self.readings

    async def processes(self, path: str) -> Sequence[int]:
        return self.pids

    async def thaw(self, path: str) -> bool:
        await self._script.at("cgroups.thaw")
        found, self.frozen = path in self.frozen, self.frozen - {path}
        return found

    async def sweep(self, valid: Sequence[str]) -> None:
        self.pods &= set(valid)
        self._monitored &= set(valid)

    def controllers(self) -> frozenset[str]:
        return frozenset({"cpu", "cpuset", "memory", "swap", "pids"})

    def unified(self) -> bool:
        return True


class FakeSecurity:
    """A host without security modules."""

    def seccomp(
        self,
        profile: SecurityProfile | None,
        privileged: bool,
        handler: Handler,
        capabilities: Sequence[str] = (),
    ) -> Mapping[str, Any] | None:
        return None

    def apparmor(self, profile: SecurityProfile | None, privileged: bool) -> str:
        return ""

    def labels(self, options: SELinuxOptions | None, handler: Handler) -> Labels:
        return Labels()

    def container_labels(self, pod: Labels, options: SELinuxOptions | None, init: bool = False) -> Labels:
        return pod

    async def relabel(self, path: str, label: str, recursive: bool) -> None:
        return None

    def reserve(self, labels: Labels) -> None:
        return None

    def release(self, labels: Labels) -> None:
        return None

    def seccomp_document(self, name: str, content: bytes, capabilities: Sequence[str] = ()) -> Mapping[str, Any] | None:
        return {"of": content.decode()}

    def known_capabilities(self) -> frozenset[str]:
        return frozenset({"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"})


class FakeDevices:
    """A host with /dev/null."""

    def nodes(self, host_path: str, container_path: str, access: str) -> Sequence[DeviceNode]:
        if host_path != "/dev/null":
            raise NotFound("device", host_path)
        return [DeviceNode(container_path or host_path, "c", 1, 3, access=access)]

    def host_nodes(self) -> Sequence[DeviceNode]:
        return [DeviceNode("/dev/null", "c", 1, 3)]

    def inject(self, config: dict[str, Any], names: Sequence[str]) -> None:
        raise NotFound("CDI device", ", ".join(names))

    async def reload(self, directories: Sequence[str]) -> None:
        return None


class FakeCpus:
    """CPUs in pairs of threads (0 and 1, 2 and 3 …), and who tunes which."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.tuned: dict[str, CpuTuning] = {}

    async def siblings(self, cpus: str) -> str:
        own = parse_cpus(cpus)
        return format_cpus(c for c in own if c // 2 == min(own) // 2)

    async def tune(self, container_id: str, wanted: CpuTuning) -> None:
        await self._script.at("cpus.tune")
        self.tuned[container_id] = wanted

    async def restore(self, container_id: str) -> None:
        await self._script.at("cpus.restore")
        self.tuned.pop(container_id, None)

    async def sweep(self, valid: Sequence[str]) -> None:
        self.tuned = {i: t for i, t in self.tuned.items() if i in valid}


class FakeCpuGroups:
    """What containers have of the CPUs, by group."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.applied: dict[str, CpuTuning] = {}
        self.unbalanced: list[str] = []

    async def apply(self, path: str, wanted: CpuTuning) -> None:
        await self._script.at("cpu_groups.apply")
        self.applied[path] = wanted

    async def release(self, path: str, wanted: CpuTuning) -> None:
        await self._script.at("cpu_groups.release")
        self.applied.pop(path, None)

    async def unbalance(self, path: str) -> None:
        await self._script.at("cpu_groups.unbalance")
        self.unbalanced.append(path)


class FakeClasses:
    """One class of each kind, ``slow``."""

    async def block_io(self, name: str) -> Mapping[str, Any] | None:
        return {"weight": 10} if name == "slow" else None

    async def rdt(self, name: str, by_pod: bool) -> str:
        if name != "slow":
            raise InvalidRequest(f"there is no RDT class {name!r}")
        return f"{name}-{'pod' if by_pod else 'container'}"


class FakeNotifier:
    """Nobody does what is forbidden, unless a test says so."""

    def __init__(self) -> None:
        self.listeners: dict[str, Callable[[str], None]] = {}

    def profile(self, document: Mapping[str, Any], container_id: str) -> Mapping[str, Any]:
        return {**document, "listenerPath": f"/run/seccomp/{container_id}"}

    async def listen(self, container_id: str, told: Callable[[str], None]) -> None:
        self.listeners[container_id] = told

    async def forget(self, container_id: str) -> None:
        self.listeners.pop(container_id, None)


class FakeHooks:
    """No hooks."""

    def apply(self, config: dict[str, Any], annotations: Mapping[str, str], has_bind_mounts: bool) -> None:
        return None


class FakeFiles:
    """Files by path; directories are there once something asked for them. ``mounts`` are sets of mount points: what
    is above one cannot be removed."""

    def __init__(self, script: Script, *mounts: set[str]) -> None:
        self._script = script
        self._mounts = mounts
        self.files: dict[str, bytes] = {}
        self.dirs: set[str] = {"/"}

    async def write(self, path: str, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        await self._script.at("files.write")
        self.files[path] = content

    async def read(self, path: str, limit: int) -> bytes | None:
        found = self.files.get(path)
        return None if found is None else found[:limit]

    async def make_dirs(self, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
        await self._script.at("files.make_dirs")
        self.dirs.add(posixpath.normpath(path))

    async def let_through(self, path: str, top: str) -> None:
        await self._script.at("files.let_through")

    async def remove(self, path: str) -> None:
        inside = f"{path}/"
        for point in (p for points in self._mounts for p in points):
            if point == path or point.startswith(inside):
                raise StoreFailure(f"{path} cannot be removed: {point} is mounted")
        self.files = {p: c for p, c in self.files.items() if p != path and not p.startswith(inside)}
        self.dirs = {d for d in self.dirs if d != path and not d.startswith(inside)}

    async def real_path(self, path: str) -> str | None:
        return path if path in self.dirs or path in self.files else None

    async def read_in_root(self, root: str, path: str, limit: int) -> bytes | None:
        return await self.read(f"{root}{path}", limit)

    async def make_dir_in_root(self, root: str, path: str, mode: int, owner: tuple[int, int]) -> str:
        return posixpath.normpath(f"{root}/{path}")

    async def resolve_in_root(self, root: str, path: str) -> str | None:
        return None

    async def symlink_in_root(self, root: str, path: str, target: str) -> None:
        return None

    async def check_dir(self, path: str) -> bool:
        return path in self.dirs

    async def names(self, path: str) -> Sequence[str]:
        inside = f"{path}/"
        there = (*self.files, *self.dirs)
        return sorted({p.removeprefix(inside).partition("/")[0] for p in there if p.startswith(inside)})


class FakeMounts:
    """Mounts by path; ``images`` are those that the store made."""

    def __init__(self, script: Script, images: set[str] | None = None) -> None:
        self._script = script
        self._images = set() if images is None else images
        self.mounted: set[str] = set()
        self.shows: dict[str, str] = {}

    async def shm(self, path: str, size: int, label: str, owner: tuple[int, int]) -> None:
        await self._script.at("mounts.shm")
        self.mounted.add(path)

    async def bind(self, mount: OciMount) -> None:
        await self._script.at("mounts.bind")
        self.mounted.add(mount.destination)
        self.shows[mount.destination] = mount.source

    async def unmount(self, path: str) -> None:
        self.mounted.discard(path)
        self._images.discard(path)

    async def unmount_top(self, path: str) -> None:
        self.mounted.discard(path)
        self.shows.pop(path, None)

    async def binds(self, path: str) -> Sequence[tuple[str, str]]:
        return [(m, self.shows[m]) for m in sorted(self.mounted) if m.startswith(f"{path}/") and m in self.shows]

    async def below(self, path: str) -> Sequence[str]:
        return [m for m in (*self.mounted, *self._images) if m.startswith(f"{path}/")]

    def propagation(self, path: str) -> str:
        return "shared"

    async def space(self, path: str) -> FsSpace | None:
        await self._script.at("mounts.space")
        return FsSpace(1000, 400, 100, 60)
