"""The daemon killed at any moment and started again, with our monitor and with conmon: containers go on, their ends are
reported as they were, and what was half-made is gone."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import random
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.fixtures_registry import push_image
from tests.isolation import Isolation, mount, mounts_below
from tests.system.conftest import Pushed, end_node, make_node, system_layer
from tests.system.node import Node, eventually, linux, refused, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.005; done"
KILLS = 5
BIND = 4096


@pytest.fixture(scope="module", params=["", "conmon"], ids=["ours", "conmon"])
def node(request: pytest.FixtureRequest, images: Pushed, isolation: Isolation) -> Iterator[Node]:
    monitor = str(shutil.which(request.param)) if request.param else ""
    node = make_node(images, isolation, monitor=monitor)
    node.monitor = monitor
    yield node
    end_node(node)


@pytest.fixture(autouse=True)
def warm(node: Node, no_leaks: None) -> Iterator[None]:
    """Whatever daemon a test leaves has used everything once, as the one before it had."""
    yield
    node.warm_up()


def numbers(path: str) -> list[int]:
    return [int(line.split()[-1]) for line in pathlib.Path(path).read_text().splitlines()]


def gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(20_000), f"process {pid} goes on"
    os.close(fd)


@pytest.mark.parametrize("end", ["crash", "restart"])
def test_containers_go_on_and_keep_logging(node: Node, end: str) -> None:
    name = f"stays-{end}"
    pod = node.pod(name)
    ctr = node.start(pod, "sh", "-c", COUNT, name="stays")
    before = node.status(ctr)
    pid, pod_status = node.pid_of(ctr), node.cri.PodSandboxStatus(pod_sandbox_id=pod).status
    if end == "crash":
        node.daemon.kill()
    else:
        assert node.daemon.stop() == 0
    written = len(numbers(before.log_path))
    eventually(lambda: len(numbers(before.log_path)) > written + 5)
    node.daemon.start()
    assert node.status(ctr) == before
    assert node.pid_of(ctr) == pid
    assert node.cri.PodSandboxStatus(pod_sandbox_id=pod).status == pod_status
    assert node.pod(name) == pod  # the same requests still give the same objects
    assert node.create(pod, "sh", "-c", COUNT, name="stays") == ctr
    assert bytes(node.exec(ctr, "echo", "hi").stdout) == b"hi\n"
    old = f"{before.log_path}.1"
    os.rename(before.log_path, old)
    node.cri.ReopenContainerLog(container_id=ctr)
    eventually(lambda: numbers(before.log_path))
    node.cri.StopContainer(container_id=ctr, timeout=0)
    found = numbers(old) + numbers(before.log_path)
    assert found == list(range(1, len(found) + 1))
    assert node.status(ctr).exit_code == 137
    node.sh(pod, "ip addr show eth0")  # the pod is as good as before


def test_reopening_again_loses_nothing(node: Node) -> None:
    """Asked once more, since the daemon died with its answer, or without a rotation: the file in use stays."""
    ctr = node.start(node.pod(), "sh", "-c", COUNT)
    path = node.status(ctr).log_path
    os.rename(path, f"{path}.1")
    node.cri.ReopenContainerLog(container_id=ctr)
    eventually(lambda: numbers(path))
    node.crash()
    with concurrent.futures.ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: node.cri.ReopenContainerLog(container_id=ctr), range(2)))
    written = len(numbers(path))
    eventually(lambda: len(numbers(path)) > written + 5)
    node.cri.StopContainer(container_id=ctr, timeout=0)
    found = numbers(f"{path}.1") + numbers(path)
    assert found == list(range(1, len(found) + 1))


def test_ends_that_nobody_watched(node: Node) -> None:
    flag = pathlib.Path(node.dir, "flag")
    flag.mkdir()
    pod = node.pod()
    mounts = [pb.Mount(container_path="/flag", host_path=str(flag))]
    wait = "until test -e /flag/go; do sleep 0.01; done; "
    hog = "awk 'BEGIN { x = \"0123456789abcdef\"; while (1) x = x x }'"
    small = secured(resources=pb.LinuxContainerResources(memory_limit_in_bytes=24 << 20))
    ids = {
        "Completed": node.start(pod, "sh", "-c", wait + "exit 0", mounts=mounts),
        "Error": node.start(pod, "sh", "-c", wait + "exit 5", mounts=mounts),
        "OOMKilled": node.start(pod, "sh", "-c", wait + f"exec {hog}", mounts=mounts, linux=small),
    }
    pids = {reason: node.pid_of(ctr) for reason, ctr in ids.items()}
    node.daemon.kill()
    began = time.time_ns() - 10_000_000  # files have the time of the kernel's last tick
    (flag / "go").touch()
    for pid in pids.values():
        gone(pid)
    for ctr in ids.values():
        eventually(pathlib.Path(node.dir, "exits", ctr).exists)
    ended = time.time_ns()
    node.daemon.start()
    codes = {"Completed": 0, "Error": 5, "OOMKilled": 137}
    statuses = {reason: node.ended(ctr) for reason, ctr in ids.items()}
    for reason, status in statuses.items():
        assert (status.reason, status.exit_code) == (reason, codes[reason])
        assert began <= status.finished_at <= ended
    node.crash()
    assert {reason: node.status(ctr) for reason, ctr in ids.items()} == statuses
    shutil.rmtree(flag)


def test_container_and_monitor_killed_meanwhile(node: Node) -> None:
    """Nobody can know the code then; the container must not seem to run."""
    pod = node.pod()
    ctr, other = (node.start(pod, "sleep", "1000") for _ in range(2))
    monitor = int(pathlib.Path(node.dir, "run/overlay-containers", ctr, "userdata/conmon-pidfile").read_text())
    pid = node.pid_of(ctr)
    node.daemon.kill()
    for each in (monitor, pid):
        os.kill(each, 9)
        gone(each)
    node.daemon.start()
    status = node.status(ctr)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 255, "Error")
    assert node.status(other).state == pb.CONTAINER_RUNNING


def test_monitor_killed_while_its_container_runs(node: Node) -> None:
    """Found after a restart as well: the end of the container then shows in its process."""
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    pid = node.pid_of(ctr)
    monitor = int(pathlib.Path(node.dir, "run/overlay-containers", ctr, "userdata/conmon-pidfile").read_text())
    os.kill(monitor, 9)
    gone(monitor)
    node.crash()
    assert node.status(ctr).state == pb.CONTAINER_RUNNING
    assert bytes(node.exec(ctr, "echo", "on").stdout) == b"on\n"
    os.kill(pid, 9)
    assert node.ended(ctr).exit_code == 255


def test_start_that_was_cut_off(node: Node) -> None:
    """Killed between the runtime's start and the record of it: the container runs, and that is what is told."""
    pod = node.pod()
    ctr = node.create(pod, "sleep", "1000")
    node.daemon.kill()
    subprocess.run(["runc", "--root", f"{node.dir}/rt", "start", ctr], check=True)
    node.daemon.start()
    status = node.status(ctr)
    assert (status.state, status.started_at > 0) == (pb.CONTAINER_RUNNING, True)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "not in created state"):
        node.cri.StartContainer(container_id=ctr)
    assert bytes(node.exec(ctr, "echo", "on").stdout) == b"on\n"


def test_lost_init_of_a_pod(node: Node) -> None:
    pod = node.pod(linux=linux(pid="POD"))
    info = node.cri.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info["info"]
    pid = json.loads(info)["pid"]
    node.daemon.kill()
    os.kill(pid, 9)
    gone(pid)
    node.daemon.start()
    eventually(lambda: node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == pb.SANDBOX_NOTREADY)


def killed_at_moments(node: Node, request: Callable[[int], object], undo: Callable[[int], object]) -> None:
    """``request`` begun and the daemon killed at moments spread over the time that it takes, then asked again."""
    began = time.monotonic()
    request(0)
    took = time.monotonic() - began
    undo(0)
    dice = random.Random(7)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        kills = KILLS if node.monitor == "" else 2  # the monitor decides little of this
        for number in range(1, kills + 1):
            running = other.submit(request, number)
            time.sleep(took * (number - dice.random()) / kills)  # the moment is the point
            node.daemon.kill()
            error = running.exception(timeout=60)
            assert error is None or isinstance(error, grpc.RpcError), error
            node.daemon.start()
            node.cri.close()
            node.cri = node.daemon.client()
            request(number)
            undo(number)


def test_killed_while_it_runs_a_pod(node: Node) -> None:
    ids: dict[int, str] = {}
    ports = [pb.PortMapping(container_port=80, host_port=18080)]

    def request(number: int) -> None:
        shared = linux(pid="POD" if number % 2 else "CONTAINER")
        ids[number] = node.pod(f"half-{number}", port_mappings=ports, linux=shared)

    killed_at_moments(node, request, lambda n: node.remove_pod(ids[n]))


def test_killed_while_it_creates_a_container(node: Node) -> None:
    pod = node.pod("holds")
    ids: dict[int, str] = {}

    def request(number: int) -> None:
        ids[number] = node.create(pod, "sleep", "1000", name=f"half-{number}")

    killed_at_moments(node, request, lambda n: node.cri.RemoveContainer(container_id=ids[n], deadline=2))
    assert node.sh(pod, "echo alive") == "alive\n"


def test_killed_while_it_mounts_for_a_user_namespace(node: Node) -> None:
    """The store as the namespace sees it is mounted in the container's layer for a moment. What removes the layer after
    a kill in that moment must not take the store for a part of it."""
    pod = node.pod("keeps")
    ctr = node.start(pod, "sleep", "1000")
    (merged,) = [m for m in mounts_below(f"{node.dir}/root/overlay") if m.endswith("/merged")]
    node.daemon.kill()
    left = pathlib.Path(merged).with_name("mapped") / "0"
    left.mkdir(parents=True)
    mount(f"{node.dir}/root/overlay", left, flags=BIND)
    pathlib.Path(node.dir, "run/pycrio/state/containers", f"{ctr}.json").unlink()
    node.daemon.start()
    assert not left.parent.parent.exists()
    assert not [m for m in mounts_below(node.dir) if "mapped" in m]
    assert node.sh(pod, "echo alive") == "alive\n"
    assert "resists" not in node.daemon.log


def test_killed_while_it_stops_and_removes_a_pod(node: Node) -> None:
    def request(number: int) -> None:
        for item in node.cri.ListPodSandbox().items:
            if item.metadata.name == f"going-{number}":
                node.cri.RemovePodSandbox(pod_sandbox_id=item.id, deadline=1)

    def begin(number: int) -> None:
        node.start(node.pod(f"going-{number}", linux=linux(pid="POD")), "sleep", "1000")

    begin(0)
    killed_at_moments(node, request, lambda n: begin(n + 1))


def test_killed_while_it_pulls(node: Node, images: Pushed) -> None:
    files = {f"data/{n}": os.urandom(20_000) for n in range(300)}
    more = {f"data/{n}": os.urandom(20_000) for n in range(300, 600)}
    push_image(images.registry, "sys/large:1", [system_layer(), files, more])
    name = f"{images.registry.address}/sys/large:1"

    def request(_: int) -> None:
        node.cri.PullImage(image={"image": name})

    def undo(_: int) -> None:
        assert node.sh(node.pod(), "ls /data | wc -l", image=name) == "600\n"
        node.clear()
        node.cri.RemoveImage(image={"image": name})

    killed_at_moments(node, request, undo)
