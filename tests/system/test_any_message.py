"""Any well-formed request to a daemon with real pods gets an answer or an error whose code makes sense; the daemon goes
on, and what it made can be removed without a trace.

PYCRIO_ANY_MESSAGE=50 looks fifty times as long (without CI, which repeats the same examples, elsewhere each time).
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pycrio.api._pb import api_pb2 as pb
from tests.cri import SERVICES
from tests.isolation import Isolation
from tests.system import any_message
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, assert_nothing_new, linux

pytestmark = pytest.mark.system
Code = grpc.StatusCode
TIMES = int(os.environ.get("PYCRIO_ANY_MESSAGE", "1"))
HEAVY = {"RunPodSandbox": 20, "CreateContainer": 24, "StartContainer": 4, "StopContainer": 4, "RemoveContainer": 4}
HEAVY |= {"StopPodSandbox": 4, "RemovePodSandbox": 4, "ExecSync": 12, "CheckpointPod": 6, "RestorePod": 6}
LIGHT = 8
ENDLESS = "GetContainerEvents"  # whose request is empty
# Where the failure of another program (runtime, registry, plugin) or of the kernel may be the answer.
OUTSIDE = {"RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync", "PullImage", "UpdateContainerResources"}
OUTSIDE |= {"UpdatePodSandboxResources", "CheckpointContainer", "CheckpointPod", "RestorePod"}
SENSIBLE = {
    Code.NOT_FOUND,
    Code.INVALID_ARGUMENT,
    Code.ALREADY_EXISTS,
    Code.FAILED_PRECONDITION,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
}
STATEFUL = "trap 'exit 0' TERM INT USR1 HUP QUIT; while :; do sleep 1000 & wait; done"


def allowing(directory: str) -> str:
    """A handler whose pods may use every annotation that changes nothing outside of them."""
    names = ", ".join(f'"{name}"' for name in any_message.ANNOTATIONS)
    return f"""[crio.runtime.runtimes.runc]
runtime_path = "{shutil.which("runc")}"
runtime_root = "{directory}/rt"
allowed_annotations = [{names}]
"""


@dataclass
class World:
    """Objects in every state, made again where a request has changed them."""

    node: Node
    images: Pushed
    values: dict[str, str] = field(default_factory=dict)
    read: int = 0

    def __post_init__(self) -> None:
        there = pathlib.Path(self.node.dir, "any")
        (there / "sub").mkdir(parents=True)
        (there / "file").write_text("{}")
        (there / "loop").symlink_to("loop")
        os.mkfifo(there / "fifo")
        image = self.node.cri.ImageStatus(image={"image": self.images.busy}).image.id
        self.values = {"dir": str(there), "image": self.images.busy, "app": self.images.app, "image id": image}
        self.values["absent image"] = f"{self.images.registry.address}/no/such:1"
        self.values["registry"] = self.images.registry.address
        self.refresh()
        self.new_log()

    def refresh(self) -> None:
        """What every example may count on is there, and nothing else."""
        cri = self.node.cri
        keep = {self.values.get("pod"), self.values.get("stopped pod")}
        pods = {p.id: p.state for p in cri.ListPodSandbox().items}
        for ident in pods.keys() - keep:
            self.node.remove_pod(ident)
        if pods.get(self.values.get("pod", "")) != pb.SANDBOX_READY:
            self._forget("pod", pods)
            self.values["pod"] = self.node.pod(linux=linux(cgroup_parent="/any"))
        if pods.get(self.values.get("stopped pod", "")) != pb.SANDBOX_NOTREADY:
            self._forget("stopped pod", pods)
            self.values["stopped pod"] = self.node.pod(linux=linux(network="NODE"))
            cri.StopPodSandbox(pod_sandbox_id=self.values["stopped pod"])
        self._containers()
        self.values["prefix"] = self.values["running"][:13]
        if not cri.ImageStatus(image={"image": self.images.busy}).HasField("image"):
            cri.PullImage(image={"image": self.images.busy})
        if not cri.ImageStatus(image={"image": self.images.app}).HasField("image"):
            cri.PullImage(image={"image": self.images.app})

    def _forget(self, name: str, pods: dict[str, Any]) -> None:
        if self.values.get(name) in pods:
            self.node.remove_pod(self.values[name])

    def _containers(self) -> None:
        states = {c.id: c.state for c in self.node.cri.ListContainers().containers}
        wanted = {"running": pb.CONTAINER_RUNNING, "created": pb.CONTAINER_CREATED, "exited": pb.CONTAINER_EXITED}
        known = {name: self.values.get(name, "") for name in wanted}
        for ident in states.keys() - set(known.values()):
            self.node.cri.StopContainer(container_id=ident, timeout=0)
            self.node.cri.RemoveContainer(container_id=ident)
        for name, state in wanted.items():
            if states.get(known[name]) == state:
                continue
            if known[name] in states:
                self.node.cri.StopContainer(container_id=known[name], timeout=0)
                self.node.cri.RemoveContainer(container_id=known[name])
            command = ("true",) if name == "exited" else ("sh", "-c", STATEFUL)
            made = self.node.create(self.values["pod"], *command)
            if state != pb.CONTAINER_CREATED:
                self.node.cri.StartContainer(container_id=made)
            if state == pb.CONTAINER_EXITED:
                self.node.ended(made)
            self.values[name] = made

    def new_log(self) -> str:
        """What the daemon has logged since the last time."""
        with open(f"{self.node.dir}/log", errors="replace") as f:
            f.seek(self.read)
            text = f.read()
            self.read = f.tell()
        return text


@pytest.fixture(scope="module")
def world(images: Pushed, isolation: Isolation) -> Iterator[World]:
    node = make_node(images, isolation, prepare=allowing)
    before = node.picture()
    world = World(node, images)
    yield world
    for item in node.cri.ListPodSandbox().items:
        node.remove_pod(item.id)
    remove_parents(isolation, before["cgroups"])
    assert_nothing_new(node, before)
    end_node(node)


def remove_parents(isolation: Isolation, before: set[str]) -> None:
    """Remove the pods' parents as a kubelet would: they belong to whoever named them. One in use cannot be removed."""
    ours = ("crio", "container-")
    for group in sorted(set(isolation.cgroups()) - before, reverse=True):
        if not any(part.startswith(ours) for part in group.split("/")):
            for top in isolation.hierarchies():
                if os.path.isdir(f"{top}/{group}"):
                    os.rmdir(f"{top}/{group}")


def ask(cri: Any, call: str, request: Any) -> tuple[Code, str, Any]:
    """Status, text and answer of a call. A stream without an end is read until its deadline."""
    try:
        answer = getattr(cri, call)(request, deadline=1 if call == ENDLESS else 60)
        streams = pb.DESCRIPTOR.services_by_name[SERVICES[call]].methods_by_name[call].server_streaming
        return Code.OK, "", [*answer] if streams else answer
    except grpc.RpcError as e:
        return e.code(), e.details() or "", None


def sensible(call: str, code: Code, text: str) -> bool:
    """Whether a call may end like this."""
    if code is Code.OK:
        return True
    if not text:
        return False
    if code in SENSIBLE:
        return True
    if code is Code.UNIMPLEMENTED:  # a host without CRIU, or a runtime without a feature
        return call.startswith(("Checkpoint", "Restore", "CreateContainer", "RunPod"))
    if code is Code.DEADLINE_EXCEEDED:
        return call == ENDLESS or (call == "ExecSync" and "command timed out" in text)
    return code is Code.UNKNOWN and call in OUTSIDE


@pytest.mark.parametrize("call", SERVICES)
def test_any_request(world: World, call: str) -> None:
    @settings(
        max_examples=1 if call == ENDLESS else HEAVY.get(call, LIGHT) * TIMES,
        phases=[Phase.generate],  # the world goes on: a failing request is not tried again
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(any_message.requests(call))
    def check(drawn: Any) -> None:
        example(world, call, drawn)

    check()


def example(world: World, call: str, drawn: Any) -> None:
    """One request, and what follows from it."""
    cri, process = world.node.cri, world.node.daemon.process
    request = any_message.filled(drawn, world.values)
    code, text, answer = ask(cri, call, request)
    log = world.new_log()
    assert process is not None
    assert process.poll() is None, log
    assert "Traceback" not in log
    assert "Unforeseen" not in log
    assert sensible(call, code, text), (code, text)
    if call == "CreateContainer" and code is Code.OK:
        started, text, _ = ask(cri, "StartContainer", pb.StartContainerRequest(container_id=answer.container_id))
        assert sensible("StartContainer", started, text), (started, text)
        assert cri.ContainerStatus(container_id=answer.container_id, verbose=True).status.id == answer.container_id
    if call == "RunPodSandbox" and code is Code.OK:
        assert cri.PodSandboxStatus(pod_sandbox_id=answer.pod_sandbox_id).status.id == answer.pod_sandbox_id
    world.refresh()
    note(call, code, text)


def note(call: str, code: Code, text: str) -> None:
    """For a long run: one line per answer in the file that PYCRIO_ANY_MESSAGE_NOTES names."""
    path = os.environ.get("PYCRIO_ANY_MESSAGE_NOTES")
    if path:
        with open(path, "a") as f:
            f.write(f"{call}\t{code.name}\t{text[:300]!r}\n")


@settings(max_examples=60, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(SERVICES)), st.data())
def test_no_path_of_the_machine_is_asked_for(call: str, data: st.DataObject) -> None:
    """The strategies themselves: whatever they draw stays below the test's own directory."""
    values = {"dir": "/tmp/x/any"}
    text = str(any_message.filled(data.draw(any_message.requests(call)), values))
    for line in text.splitlines():
        name, _, value = line.strip().partition(": ")
        if name in any_message._HOST_PATHS and value.startswith('"/'):
            assert value.startswith('"/tmp/x/any') or value == '"/dev/null"'
            assert "/../" not in value
