"""A running daemon as system tests use it: short verbs for the client, and a picture of all that it holds."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from pycrio.drivers.layers import hold
from tests.cri import Cri
from tests.cri import container as container_config
from tests.cri import pod as pod_config
from tests.daemon import Daemon
from tests.isolation import CGROUPS, Isolation, mounts_below

T = TypeVar("T")
STAGING = ("overlay/tempdirs", "overlay-layers/tmp", "overlay/staging")
V1 = {
    "memory.max": "memory/{}/memory.limit_in_bytes",
    "memory.swap.max": "memory/{}/memory.memsw.limit_in_bytes",
    "pids.max": "pids/{}/pids.max",
    "cpuset.cpus": "cpuset/{}/cpuset.cpus",
    "cpu.shares": "cpu/{}/cpu.shares",
    "cpu.quota": "cpu/{}/cpu.cfs_quota_us",
    "cpu.period": "cpu/{}/cpu.cfs_period_us",
}
_numbers = itertools.count(1)


def eventually(look: Callable[[], T], seconds: float = 20.0) -> T:
    """The first true answer of ``look``. For what tells nobody outside the daemon when it happens."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"did not come true in {seconds} s: {look}"
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """The call inside fails with this status, and its text has these words."""
    with pytest.raises(grpc.RpcError) as failure:
        yield
    text = failure.value.details()
    assert failure.value.code() is code, text
    for word in words:
        assert word in text


def linux(
    *, network: str = "POD", pid: str = "CONTAINER", ipc: str = "POD", cgroup_parent: str = "", **security: Any
) -> Any:
    """The Linux part of a pod's config: namespace modes by name, ``sysctls`` and fields of the security context."""
    sysctls = security.pop("sysctls", {})
    options = pb.NamespaceOption(
        network=pb.NamespaceMode.Value(network),
        pid=pb.NamespaceMode.Value(pid),
        ipc=pb.NamespaceMode.Value(ipc),
        userns_options=security.pop("userns", None),
    )
    context = pb.LinuxSandboxSecurityContext(namespace_options=options, **security)
    return pb.LinuxPodSandboxConfig(cgroup_parent=cgroup_parent, sysctls=sysctls, security_context=context)


def secured(**security: Any) -> Any:
    """The Linux part of a container's config: a security context in the pod's pid mode unless told otherwise."""
    resources = security.pop("resources", None)
    if "pid" in security:
        modes = pb.NamespaceOption(pid=pb.NamespaceMode.Value(security.pop("pid")))
        modes.target_id = security.pop("target_id", "")
        security["namespace_options"] = modes
    context = pb.LinuxContainerSecurityContext(**security)
    return pb.LinuxContainerConfig(resources=resources, security_context=context)


@dataclass(frozen=True)
class LogLine:
    """One line of a CRI log."""

    time: str
    stream: str
    tag: str
    text: str


_LINE = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([FP]) (.*)\Z", re.DOTALL
)


def parse_log(text: str) -> list[LogLine]:
    """Every line must have the CRI form."""
    lines = []
    for line in text.split("\n")[:-1]:
        match = _LINE.match(line)
        assert match, f"not a CRI log line: {line!r}"
        lines.append(LogLine(*match.groups()))
    assert not text or text.endswith("\n")
    return lines


@dataclass
class Node:
    """``daemon`` with a client that lasts as long as the daemon's socket path."""

    daemon: Daemon
    isolation: Isolation
    image: str
    monitor: str = ""
    registries: set[int] = field(default_factory=set)
    cri: Cri = field(init=False)

    def __post_init__(self) -> None:
        self.cri = self.daemon.client()

    @property
    def dir(self) -> str:
        return self.daemon.dir

    @property
    def pid(self) -> int:
        assert self.daemon.process is not None
        return self.daemon.process.pid

    # --- verbs ----------------------------------------------------------------------------------------------------

    def pod(self, name: str = "", *, handler: str = "", **more: Any) -> str:
        """Run a pod; its id. Its logs go below the daemon's directory."""
        name = name or f"pod-{next(_numbers)}"
        more.setdefault("log_directory", f"{self.dir}/pods/{name}")
        more.setdefault("linux", linux())
        return str(self.cri.RunPodSandbox(config=pod_config(name, **more), runtime_handler=handler).pod_sandbox_id)

    def create(self, pod: str, *command: str, name: str = "", image: str = "", **more: Any) -> str:
        """Create a container; its id."""
        config = container_config(name or f"ctr-{next(_numbers)}", image or self.image, *command, **more)
        answer = self.cri.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=self.config_of(pod))
        return str(answer.container_id)

    def config_of(self, pod: str) -> Any:
        """Something like the pod's config: CreateContainer wants one beside the id."""
        metadata = self.cri.PodSandboxStatus(pod_sandbox_id=pod).status.metadata
        return pb.PodSandboxConfig(metadata=metadata)

    def start(self, pod: str, *command: str, **more: Any) -> str:
        """Create and start a container; its id."""
        ident = self.create(pod, *command, **more)
        self.cri.StartContainer(container_id=ident)
        return ident

    def run(self, pod: str, *command: str, **more: Any) -> tuple[int, str]:
        """Run a container to its end and remove it; exit code and what it wrote (both streams, as logged)."""
        ident = self.start(pod, *command, **more)
        status = self.ended(ident)
        text = self.output(ident)
        self.cri.RemoveContainer(container_id=ident)
        return int(status.exit_code), text

    def sh(self, pod: str, script: str, **more: Any) -> str:
        """The output of a shell script in a container of its own, which must succeed."""
        code, text = self.run(pod, "sh", "-c", script, **more)
        assert code == 0, text
        return text

    def status(self, ident: str) -> Any:
        return self.cri.ContainerStatus(container_id=ident).status

    def ended(self, ident: str, seconds: float = 30.0) -> Any:
        """Wait for the end of a container; its status then."""

        def look() -> Any:
            status = self.status(ident)
            return status if status.state == pb.CONTAINER_EXITED else None

        return eventually(look, seconds)

    def log(self, ident: str) -> list[LogLine]:
        path = pathlib.Path(self.status(ident).log_path)
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as f:
            return parse_log(f.read())

    def output(self, ident: str) -> str:
        """What the log says was written, whole lines ended by a newline again."""
        return "".join(line.text + ("\n" if line.tag == "F" else "") for line in self.log(ident))

    def wait_log(self, ident: str, text: str) -> None:
        """Wait until the container has written ``text``."""
        eventually(lambda: text in self.output(ident))

    def exec(self, ident: str, *command: str, timeout: int = 0) -> Any:
        return self.cri.ExecSync(container_id=ident, cmd=command, timeout=timeout)

    def spec(self, ident: str) -> Any:
        """The OCI config of a container, and its pid, from the verbose status."""
        return json.loads(self.cri.ContainerStatus(container_id=ident, verbose=True).info["info"])

    def pid_of(self, ident: str) -> int:
        return int(self.spec(ident)["pid"])

    def limit(self, ident: str, name: str) -> str:
        """A limit as the container's cgroup has it, by its name in version 2 (``cpu.shares``, ``cpu.quota`` and
        ``cpu.period`` as in version 1)."""
        path = self.spec(ident)["runtimeSpec"]["linux"]["cgroupsPath"].lstrip("/")
        if not self.isolation.unified:
            return pathlib.Path(CGROUPS, V1[name].format(path)).read_text().strip()
        if name in ("cpu.quota", "cpu.period"):
            words = pathlib.Path(CGROUPS, path, "cpu.max").read_text().split()
            return words[name == "cpu.period"]
        return pathlib.Path(CGROUPS, path, "cpu.weight" if name == "cpu.shares" else name).read_text().strip()

    def remove_pod(self, ident: str) -> None:
        """Remove a pod. What it runs is not asked twice to end: few test programs listen to SIGTERM."""
        for found in self.cri.ListContainers(filter={"pod_sandbox_id": ident}).containers:
            self.cri.StopContainer(container_id=found.id, timeout=0)
        self.cri.StopPodSandbox(pod_sandbox_id=ident)
        self.cri.RemovePodSandbox(pod_sandbox_id=ident)

    def warm_up(self) -> None:
        """Use everything once: what is loaded or opened at its first use is not a leak of the first test."""
        pod = self.pod()
        self.run(pod, "true")
        box = self.start(pod, "sleep", "1000")
        self.exec(box, "true")
        self.cri.ListContainerStats()
        self.remove_pod(pod)

    @contextlib.contextmanager
    def configured(self, drop_in: str) -> Iterator[None]:
        """Restart the daemon with more configuration, and in the end without it."""
        path = pathlib.Path(self.dir, "conf.d", "50-test.conf")
        path.write_text(drop_in)
        self.restart()
        try:
            yield
        finally:
            path.unlink()
            self.restart()
            self.warm_up()

    def restart(self) -> None:
        assert self.daemon.stop() == 0, self.daemon.log[-4000:]
        self.daemon.start()

    def reload(self) -> None:
        """SIGHUP, and wait until the configuration has been read."""
        done = "Configuration reload completed"
        before = self.daemon.log.count(done)
        os.kill(self.pid, signal.SIGHUP)
        eventually(lambda: self.daemon.log.count(done) > before)

    def crash(self) -> None:
        """SIGKILL to the daemon, and a new one."""
        self.daemon.kill()
        self.daemon.start()

    def clear_made(self) -> None:
        """Remove every pod but the bystander."""
        for item in self.cri.ListPodSandbox().items:
            if item.metadata.name != "bystander":
                self.remove_pod(item.id)

    def clear(self) -> None:
        """Remove every pod."""
        for item in self.cri.ListPodSandbox().items:
            self.remove_pod(item.id)

    # --- what is held ---------------------------------------------------------------------------------------------

    def picture(self) -> dict[str, Any]:
        """Everything that pods and containers could leave behind."""
        d = pathlib.Path(self.dir)
        return {
            "mounts": collections.Counter(mounts_below(self.dir)),
            "pins": {str(p) for kind in ("net", "uts", "ipc", "user") for p in d.glob(f"ns/{kind}ns/*")},
            "cgroups": {c for c in self.isolation.cgroups() if os.path.basename(c) != "crio"},
            "processes": self._processes(),
            "links": {n for n in os.listdir("/proc/self/net/dev_snmp6") if n.startswith("veth")},
            "addresses": {p.name for p in d.glob("ipam/*/10.*")},
            "cni cache": set(os.listdir("/var/lib/cni/results")) if os.path.isdir("/var/lib/cni/results") else set(),
            "files": {
                str(p.relative_to(d))
                for pattern in (
                    "run/overlay-containers/*",
                    "root/overlay-containers/*/",
                    "run/pycrio/state/*/*",
                    "run/pycrio/exec/*",
                    "run/pycrio/tasks/*/",
                    "rt/*",
                    "exits/*",
                    "attach/*",
                    "logs/*",
                )
                for p in d.glob(pattern)
                if p.suffix not in (".json", ".lock") or "state" in p.parts
            },
            "staging": {str(p.relative_to(d)) for kind in STAGING for p in d.glob(f"root/{kind}/*")},
            "layers": {p.name for p in d.glob("root/overlay/*")} - self._hold(),
            "descriptors": self._descriptors(),
        }

    def _hold(self) -> set[str]:
        """The layer by which a daemon keeps other programs from unmounting the store: each run makes its own."""
        layers = json.loads(pathlib.Path(self.dir, "root/overlay-layers/layers.json").read_text())
        return {layer["id"] for layer in layers if hold.NAME in layer.get("names", ())}

    def _processes(self) -> dict[int, str]:
        """Those below our directory; the registry and other daemons live in the same tree."""
        return {pid: line for pid, line in self.isolation.processes().items() if self._ours(pid, line)}

    def _ours(self, pid: int, line: str) -> bool:
        if self.dir in line or line == "(zombie)":
            return pid != self.pid
        try:
            groups = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return "/crio-" in groups

    def _descriptors(self) -> dict[str, int]:
        """Open files by kind. Idle connections to the registry are kept for the next pull, and no leak."""
        found: collections.Counter[str] = collections.Counter()
        kept = self._connections({*self.registries, int(self.image.partition("/")[0].rpartition(":")[2])})
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{self.pid}/fd/{name}")
                if target not in kept:
                    found[re.sub(r"(?<=/\.pycrio-claims/)\w+|\d+", "N", target)] += 1
        return dict(found)

    @staticmethod
    def _connections(ports: set[int]) -> set[str]:
        """Sockets connected to some TCP ports, as links of descriptors show them (proc_net_tcp)."""
        rows = (line.split() for line in pathlib.Path("/proc/self/net/tcp").read_text().splitlines()[1:])
        return {f"socket:[{row[9]}]" for row in rows if int(row[2].partition(":")[2], 16) in ports}


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is new."""
    found: dict[str, Any] = {}
    for kind, now in after.items():
        then = before[kind]
        if isinstance(now, dict) and not isinstance(now, collections.Counter) and kind == "descriptors":
            new: Any = {k: (then.get(k, 0), v) for k, v in now.items() if v > then.get(k, 0)}
        elif isinstance(now, collections.Counter):
            new = dict(now - then)
        elif isinstance(now, dict):
            new = {k: v for k, v in now.items() if k not in then}
        else:
            new = sorted(now - then)
        if new:
            found[kind] = new
    return found


def assert_nothing_new(node: Node, before: dict[str, Any], seconds: float = 10.0) -> None:
    """What was made is gone; monitors and the kernel's own cleaning get a moment."""
    end = time.monotonic() + seconds
    while left := difference(before, node.picture()):
        if time.monotonic() > end:
            raise AssertionError(f"left behind: {left}\n{node.daemon.log[-3000:]}")
        time.sleep(0.02)
