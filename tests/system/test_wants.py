"""A machine that runs out of things under a daemon at work: file descriptors, processes, room for its records, a store
that somebody else holds. Requests fail by name or succeed, others are served, and when there is enough again nothing
has stayed and everything works."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc
import pytest

from tests.cri import pod as pod_config
from tests.isolation import CGROUPS, Isolation, mount, unmount
from tests.system.conftest import Pushed, make_node
from tests.system.node import Node, assert_nothing_new, eventually, linux, refused

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("others_untouched")]
Code = grpc.StatusCode
ROOM = 24 << 20
LOCKS = ("overlay-layers/layers.lock", "overlay-images/images.lock", "overlay-containers/containers.lock")
# The daemon as always, but it looks after its store every second instead of every ten minutes.
TIDY = """
import sys
from pycrio.flows import janitor
janitor.STORE_PERIOD = 1.0
from pycrio.__main__ import main
sys.exit(main())
"""
# Holds a lock as a program does that hangs while it works with the store.
HOLD = """
import fcntl, sys
f = open(sys.argv[1], "r+")
fcntl.lockf(f, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    """The run root is a file system of its own, as on every node."""
    place = ""

    def prepare(directory: str) -> str:
        nonlocal place
        place = f"{directory}/run"
        os.makedirs(place, exist_ok=True)
        mount("tmpfs", place, "tmpfs", data=f"size={ROOM}")
        return ""

    node = make_node(images, isolation, program=("-c", TIDY), prepare=prepare)
    node.cri.RemoveImage(image={"image": images.app})
    yield node
    node.clear()
    assert node.daemon.stop() == 0, node.daemon.log[-4000:]
    assert "Unforeseen failure" not in node.daemon.log
    node.cri.close()
    unmount(place)
    node.daemon.clean()


def everything(node: Node, image: str) -> list[grpc.RpcError]:
    """What a kubelet asks for in a pod's life; the refusals. Whatever is refused here must be refused by name."""
    refusals: list[grpc.RpcError] = []

    def ask(request: Callable[[], object]) -> object:
        try:
            return request()
        except grpc.RpcError as e:
            refusals.append(e)
            return None

    pod = ask(lambda: node.pod("wanting"))
    if isinstance(pod, str):
        ctr = ask(lambda: node.create(pod, "sleep", "1000", name="c"))
        if isinstance(ctr, str):
            ask(lambda: node.cri.StartContainer(container_id=ctr))
            ask(lambda: node.exec(ctr, "true"))
            ask(lambda: node.cri.UpdateContainerResources(container_id=ctr, linux={"cpu_shares": 99}))
            ask(lambda: node.cri.StopContainer(container_id=ctr, timeout=0))
            ask(lambda: node.cri.RemoveContainer(container_id=ctr, deadline=10))
        ask(lambda: node.cri.StopPodSandbox(pod_sandbox_id=pod))
        ask(lambda: node.cri.RemovePodSandbox(pod_sandbox_id=pod, deadline=10))
    ask(lambda: node.cri.PullImage(image={"image": image}))
    ask(lambda: node.cri.ListContainerStats())
    assert node.cri.Status().status.conditions
    for refusal in refusals:
        assert refusal.code() not in (Code.INTERNAL, Code.DEADLINE_EXCEEDED), refusal.details()
    return refusals


def well_again(node: Node, images: Pushed, before: dict[str, object]) -> None:
    """Everything works, and nothing has stayed."""
    assert node.sh(node.pod("wanting"), "echo well") == "well\n"  # the repeated request
    node.cri.PullImage(image={"image": images.app})
    node.cri.RemoveImage(image={"image": images.app})
    node.clear_made()
    assert_nothing_new(node, before)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4, 5, 6, 8])
def test_file_descriptors(node: Node, images: Pushed, left: int) -> None:
    node.cri.Version()
    before = node.picture()
    limits = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{node.pid}/fd"))
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (used + left, limits[1]))
    try:
        refusals = everything(node, images.app)
    finally:
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, limits)
    assert left > 5 or any("Too many open files" in (r.details() or "") for r in refusals)
    well_again(node, images, before)


@pytest.mark.parametrize("left", [0, 1, 3, 8])
def test_processes(node: Node, images: Pushed, left: int) -> None:
    """A limit on the daemon's own group: neither a thread nor a child more."""
    top = pathlib.Path(CGROUPS) if node.isolation.unified else pathlib.Path(CGROUPS, "pids")
    few = top / "few"
    few.mkdir()
    (own,) = (
        line.split(":")[2]
        for line in pathlib.Path(f"/proc/{node.pid}/cgroup").read_text().splitlines()
        if node.isolation.unified or ":pids:" in line
    )
    before = node.picture()
    (few / "cgroup.procs").write_text(str(node.pid))
    (few / "pids.max").write_text(str(int((few / "pids.current").read_text()) + left))
    try:
        refusals = everything(node, images.app)
    finally:
        (few / "pids.max").write_text("max")
        (top / own.lstrip("/") / "cgroup.procs").write_text(str(node.pid))
    assert left > 3 or any("temporarily unavailable" in (r.details() or "") for r in refusals)
    eventually(lambda: not (few / "cgroup.procs").read_text())
    few.rmdir()
    well_again(node, images, before)


@pytest.mark.parametrize("left", [0, 4096, 20_000, 60_000])
def test_room_for_records(node: Node, images: Pushed, left: int) -> None:
    """The run root is full: no record, bundle or process document can be written."""
    before = node.picture()
    ballast = pathlib.Path(node.dir, "run", "ballast")
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    if left:
        os.truncate(ballast, ballast.stat().st_size - left)
    try:
        refusals = everything(node, images.app)
    finally:
        ballast.unlink()
    assert left > 20_000 or any("space" in (r.details() or "") for r in refusals)
    well_again(node, images, before)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_store_that_somebody_holds(node: Node, images: Pushed, lock: str) -> None:
    """What needs the lock waits for it as long as its caller does; nothing else waits, and the wait leaves nothing."""
    before = node.picture()
    pod = node.pod("holds")
    command = [sys.executable, "-c", HOLD, f"{node.dir}/root/{lock}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        if lock != LOCKS[1]:
            with refused(Code.DEADLINE_EXCEEDED):
                node.cri.CreateContainer(
                    pod_sandbox_id=pod,
                    config={"metadata": {"name": "c"}, "image": {"image": node.image}, "command": ["true"]},
                    sandbox_config=pod_config("holds"),
                    deadline=0.5,
                )
        with refused(Code.DEADLINE_EXCEEDED):
            node.cri.PullImage(image={"image": images.app}, deadline=0.5)
        assert node.cri.Status().status.conditions
        assert node.cri.ListImages().images
        other = node.pod("beside", linux=linux(network="NODE"))
        node.cri.RemovePodSandbox(pod_sandbox_id=other)
        assert holder.poll() is None
    well_again(node, images, before)
