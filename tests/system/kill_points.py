"""Kill -9 of the daemon before any state-changing system call of a request.

``python -m tests.system.kill_points [--children] [--runtime crun] [--every N] [--from N] [FLOW …]``: for every flow and
every n the request is made of a real daemon (real runtime, plugins, mounts, hooks) that ``tests.watched`` ends before
the n-th such call of its own; with ``--children`` the calls of what it started count as well, so that it dies while
these are at work. The next daemon recovers; then

- nothing is left on the host that no pod or container accounts for: mounts, pins, cgroups, processes, interfaces,
  addresses, CNI results, directories, records, staged layers, exit files;
- a container that runs is told to run, one that does not is told to have ended, with the right code, once;
- the same request succeeds, and after the removal of everything the host is as it was before.

``--every N`` takes every N-th point only, at an offset that differs by flow. Prints one line per flow and what
was bad; exits 1 then. Takes some minutes without ``--every``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from pycrio.api._pb import api_pb2 as pb
from tests import streams
from tests.daemon import Daemon
from tests.fixtures_registry import RunningRegistry, push_image, start_registry
from tests.isolation import Isolation, short_directory
from tests.system.node import Node, assert_nothing_new, difference, linux
from tests.watched import Watcher

UNTIL_TERM = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
# A device and a hook of every container: what runtimes and daemon do for them is cut off as well.
DROP_IN = """
[crio.runtime]
hooks_dir = ["{d}/hooks"]
cdi_spec_dirs = ["{d}/cdi"]
"""
HOOK = {
    "version": "1.0.0",
    "hook": {"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null"]},
    "when": {"always": True},
    "stages": ["prestart", "poststop"],
}
CDI = {
    "cdiVersion": "0.5.0",
    "kind": "test.pycrio/thing",
    "devices": [{"name": "0", "containerEdits": {"env": ["THING=here"], "deviceNodes": [{"path": "/dev/null"}]}}],
}
STATES = {name: getattr(pb, f"CONTAINER_{name}") for name in ("CREATED", "RUNNING", "EXITED")}


@dataclass
class Bench:
    """A node whose daemon can be ended at a point, and what the flow under test works on."""

    node: Node
    watcher: Watcher
    images: tuple[str, str, str]
    children: bool = False
    pod: str = ""
    container: str = ""
    abandoned: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    # --- what goes before, and the requests -----------------------------------------------------------------------

    def run_pod(self) -> None:
        ports = [pb.PortMapping(container_port=80, host_port=18080)]
        self.pod = self.node.pod("cut", port_mappings=ports, linux=linux(pid="POD"))

    def run_user_pod(self) -> None:
        """Its root is nobody outside: layers are mapped or copied for it."""
        maps = [pb.IDMapping(host_id=200_000, container_id=0, length=65_536)]
        users = pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)
        self.pod = self.node.pod("cut", linux=linux(userns=users))

    def update_pod(self) -> None:
        more = pb.LinuxContainerResources(cpu_shares=300)
        self.node.cri.UpdatePodSandboxResources(pod_sandbox_id=self.pod, resources=more)

    def create(self) -> None:
        mounts = [pb.Mount(container_path="/image", image=pb.ImageSpec(image=self.images[1]), readonly=True)]
        things = [pb.CDIDevice(name="test.pycrio/thing=0")]
        self.container = self.node.create(
            self.pod, "sh", "-c", UNTIL_TERM, name="cut", mounts=mounts, CDI_devices=things
        )

    def start(self) -> None:
        if self.state() == STATES["CREATED"]:
            self.node.cri.StartContainer(container_id=self.container)

    def begin(self) -> None:
        """Start, and wait until the container heeds SIGTERM."""
        self.start()
        self.node.wait_log(self.container, "ready\n")

    def stop(self) -> None:
        self.node.cri.StopContainer(container_id=self.container, timeout=5)

    def remove(self) -> None:
        self.node.cri.RemoveContainer(container_id=self.container)

    def stop_pod(self) -> None:
        self.node.cri.StopPodSandbox(pod_sandbox_id=self.pod)

    def remove_pod(self) -> None:
        self.node.cri.RemovePodSandbox(pod_sandbox_id=self.pod, deadline=3)

    def exec_sync(self) -> None:
        answer = self.node.exec(self.container, "sh", "-c", "echo out")
        assert bytes(answer.stdout) == b"out\n"

    def exec_stream(self) -> None:
        request = pb.ExecRequest(container_id=self.container, cmd=["sh", "-c", "echo out"], stdout=True, stderr=True)
        with contextlib.suppress(OSError, streams.NotUpgraded, asyncio.TimeoutError):  # the daemon is killed
            done = asyncio.run(asyncio.wait_for(streams.run(self.node.cri.Exec(request).url), 30))
            assert done.stdout in (b"out\n", b"")

    def update(self) -> None:
        more = pb.LinuxContainerResources(cpu_shares=300, memory_limit_in_bytes=64 << 20)
        self.node.cri.UpdateContainerResources(container_id=self.container, linux=more)

    def rotate(self) -> None:
        """Move the log away, as a kubelet does, and have it opened anew; what was logged is in either file."""
        path = pathlib.Path(self.node.status(self.container).log_path)
        old = path.with_name(f"{self.container}.log")
        if not old.exists():
            path.rename(old)
        self.node.cri.ReopenContainerLog(container_id=self.container)
        assert "ready" in old.read_text()

    def pull(self) -> None:
        self.node.cri.PullImage(image={"image": self.images[2]})

    def forget_image(self) -> None:
        self.node.cri.RemoveImage(image={"image": self.images[2]})

    def state(self) -> int:
        """The container's state; -1 when there is none."""
        found = self.node.cri.ListContainers(filter={"id": self.container}).containers if self.container else []
        return int(found[0].state) if found else -1

    # --- points ---------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """A client of the daemon that is there now."""
        self.node.cri.close()
        self.node.cri = self.node.daemon.client()

    def cut(self, request: Callable[[], None], at: int) -> bool:
        """Make the request and end the daemon before step ``at``; False when it made fewer."""
        self.watcher.arm(at, children=self.children)
        with contextlib.suppress(grpc.RpcError):
            request()
        self.watcher.disarm()
        if not self.watcher.killed.is_set():
            return False
        assert self.node.daemon.process is not None
        self.node.daemon.process.wait(30)
        self.node.daemon.start()
        self.ready()
        return True

    def accounted(self, before: dict[str, Any]) -> None:
        """Whatever is new belongs to a pod or container that is told of."""
        end = time.monotonic() + 10
        while left := self._unaccounted(before):
            assert time.monotonic() < end, f"of nobody: {left}"
            time.sleep(0.02)

    def _unaccounted(self, before: dict[str, Any]) -> dict[str, Any]:
        cri = self.node.cri
        pods = [p.id for p in cri.ListPodSandbox().items]
        containers = [c.id for c in cri.ListContainers().containers]
        left = difference(before, self.node.picture())
        left.pop("descriptors", None)
        if pods and not self.pod:  # the one that was cut off is there: these show no id, it may have them
            for kind in ("links", "addresses", "pins"):
                left.pop(kind, None)
            left["mounts"] = [m for m in left.get("mounts", ()) if not m.startswith(f"{self.node.dir}/ns/")]
        if len(cri.ListImages().images) > 2:
            left.pop("layers", None)  # of the image that was pulled
        known = (*pods, *containers, *self._layers(containers))
        if any(self._of(pid, known) for pid in left.get("processes", {})):
            left["processes"] = {p: line for p, line in left["processes"].items() if not self._of(p, known)}
        found = {}
        for kind, what in left.items():
            items = what.items() if isinstance(what, dict) else what
            if rest := [one for one in items if not any(word in str(one) for word in known)]:
                found[kind] = rest
        return found

    def _layers(self, containers: Sequence[str]) -> list[str]:
        path = pathlib.Path(self.node.dir, "root/overlay-containers/volatile-containers.json")
        rows = json.loads(path.read_text() or "[]") if path.exists() else []
        return [row["layer"] for row in rows if row["id"] in containers]

    @staticmethod
    def _of(pid: int, known: Sequence[str]) -> bool:
        try:
            text = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return any(ident in text for ident in known)

    def lives(self) -> None:
        """What is told of the container is so."""
        state = self.state()
        if state in (STATES["CREATED"], STATES["RUNNING"]):
            pid = self.node.pid_of(self.container)
            assert os.path.exists(f"/proc/{pid}"), f"container {self.container} is told to be there, {pid} is not"
        if state == STATES["RUNNING"]:
            assert bytes(self.node.exec(self.container, "echo", "on").stdout) == b"on\n"

    def ended_once(self) -> None:
        """SIGTERM ends the container with code 7; unless SIGKILL had to."""
        if self.state() == STATES["EXITED"]:
            code = self.node.status(self.container).exit_code
            assert code in self.notes["codes"], f"exit code {code}"


@dataclass(frozen=True)
class Flow:
    """``before``: verbs that go before; ``request``: the one that is cut off; ``codes``: exit codes that may be told;
    ``after``: verbs that take back what a removal of the pods does not."""

    before: tuple[str, ...]
    request: str
    codes: tuple[int, ...] = (7,)
    after: tuple[str, ...] = ()


FLOWS = {
    "RunPodSandbox": Flow((), "run_pod"),
    "CreateContainer": Flow(("run_pod",), "create", (137,)),
    "StartContainer": Flow(("run_pod", "create"), "start", (7, 137, 143)),
    "ExecSync": Flow(("run_pod", "create", "begin"), "exec_sync"),
    "StopContainer": Flow(("run_pod", "create", "begin"), "stop"),
    "RemoveContainer": Flow(("run_pod", "create", "begin"), "remove"),
    "StopPodSandbox": Flow(("run_pod", "create", "begin"), "stop_pod", (7, 137)),
    "RemovePodSandbox": Flow(("run_pod", "create", "begin"), "remove_pod", (7, 137)),
    "RunPodSandbox, user namespace": Flow((), "run_user_pod"),
    "CreateContainer, user namespace": Flow(("run_user_pod",), "create", (137,)),
    "RemovePodSandbox, user namespace": Flow(("run_user_pod", "create", "begin"), "remove_pod", (7, 137)),
    "UpdatePodSandboxResources": Flow(("run_pod", "create", "begin"), "update_pod"),
    "UpdateContainerResources": Flow(("run_pod", "create", "begin"), "update"),
    "ReopenContainerLog": Flow(("run_pod", "create", "begin"), "rotate"),
    "Exec": Flow(("run_pod", "create", "begin"), "exec_stream"),
    "PullImage": Flow((), "pull", after=("forget_image",)),
    "RemoveImage": Flow(("pull",), "forget_image"),
}


def point(bench: Bench, flow: Flow, at: int) -> bool:
    """One kill; False when the request has fewer steps. AssertionError tells what is wrong."""
    node = bench.node
    before = node.picture()
    bench.pod = bench.container = ""
    bench.notes["codes"] = flow.codes
    for verb in flow.before:
        getattr(bench, verb)()
    prepared = node.picture()
    request = getattr(bench, flow.request)
    killed = bench.cut(request, at)
    if killed:
        bench.accounted(prepared)
        bench.lives()
        bench.ended_once()
        gone = bench.container and bench.state() == -1
        if not (gone and flow.request in ("start", "exec_sync")):
            request()  # what the caller got no answer to it asks for again
        bench.ended_once()
    for verb in flow.after:
        getattr(bench, verb)()
    node.clear()
    before["descriptors"] = node.picture()["descriptors"]  # this is another daemon, and a young one
    assert_nothing_new(node, before)
    return killed


class Bad(Exception):
    """What a kill at a point led to."""

    def __init__(self, at: int, text: str) -> None:
        super().__init__(text)
        self.at = at


def steps_of(bench: Bench, flow: Flow) -> list[str]:
    """The steps that the request makes when nobody disturbs it."""
    for verb in flow.before:
        getattr(bench, verb)()
    bench.watcher.arm(children=bench.children)
    getattr(bench, flow.request)()
    steps = bench.watcher.disarm()
    for verb in flow.after:
        getattr(bench, verb)()
    bench.node.clear()
    return steps


def points(bench: Bench, name: str, begin: int, every: int) -> Iterator[int]:
    """Kill at every point from ``begin`` on; each that was good. The number of steps varies a little."""
    steps = steps_of(bench, FLOWS[name])
    for at in range(begin, len(steps) + 50, every):
        where = f"{name} killed before step {at} of {len(steps)} ({steps[at - 1] if at <= len(steps) else '?'})"
        try:
            if not point(bench, FLOWS[name], at):
                return
        except (AssertionError, grpc.RpcError, RuntimeError, OSError) as e:
            raise Bad(at, f"{where}: {e!s:.3000}\n{bench.node.daemon.log[-3000:]}") from e
        yield at


@contextlib.contextmanager
def bench_of(
    isolation: Isolation, registry: RunningRegistry, layer: dict[str, Any], runtime: str = "runc"
) -> Iterator[Bench]:
    """A watched daemon with its images."""
    files = {f"data/{n}": os.urandom(3000) for n in range(40)}
    push_image(registry, "cut/busy:1", [layer], docker=True)
    push_image(registry, "cut/side:1", [{"side": b"x"}], docker=True)
    push_image(registry, "cut/pull:1", [layer, files], docker=True)
    top = f"{registry.address}/cut"
    images = (f"{top}/busy:1", f"{top}/side:1", f"{top}/pull:1")
    directory = short_directory()
    watcher = Watcher(f"{directory}/watch")
    daemon = Daemon(directory, runtime=runtime, program=watcher.program)
    daemon.insecure(registry.address)
    pathlib.Path(directory, "conf.d", "10-test.conf").write_text(DROP_IN.format(d=directory))
    pathlib.Path(directory, "hooks", "10-test.json").write_text(json.dumps(HOOK))
    pathlib.Path(directory, "cdi", "test.json").write_text(json.dumps(CDI))
    node = None
    try:
        daemon.start()
        node = Node(daemon, isolation, images[0])
        for image in images[:2]:
            node.cri.PullImage(image={"image": image})
        node.warm_up()
        bench = Bench(node, watcher, images)
        for verb in ("run_user_pod", "create"):  # copies of layers for the ids of a namespace stay with their image
            getattr(bench, verb)()
        node.clear()
        yield bench
        if not bench.abandoned:
            node.clear()
            assert daemon.stop() == 0, daemon.log[-3000:]
    finally:
        if node is not None:
            node.cri.close()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
        isolation.end({p: line for p, line in isolation.processes().items() if directory in line})
        watcher.close()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--children", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--runtime", default="runc")
    parser.add_argument("--from", type=int, default=1, dest="begin")
    parser.add_argument("flows", nargs="*", metavar="FLOW", help=", ".join(FLOWS))
    options = parser.parse_args()
    from tests.system.conftest import system_layer

    total = 0
    with Isolation() as isolation, contextlib.ExitStack() as stack:
        place = tempfile.mkdtemp(prefix="pycrio-kill-")
        stack.callback(shutil.rmtree, place)
        registry = start_registry(pathlib.Path(place, "registry"))
        stack.callback(registry.stop)
        bad = 0
        for name in options.flows or FLOWS:
            began, done = time.monotonic(), 0
            begin: int | None = max(1, options.begin) + sum(map(ord, name)) % options.every
            while begin is not None:
                with bench_of(isolation, registry, system_layer(), options.runtime) as bench:
                    bench.children = options.children
                    try:
                        for _ in points(bench, name, begin, options.every):
                            done += 1
                        begin = None
                    except Bad as e:  # what it left must not be blamed on the next: that begins afresh
                        print(f"BAD: {e}", file=sys.stderr, flush=True)
                        done, bad, begin = done + 1, bad + 1, e.at + options.every
                        bench.abandoned = True
            total += done
            print(f"{name}: {done} kills, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{total} kills, {bad} bad")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
