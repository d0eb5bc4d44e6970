"""The basic life of pods and containers with crun, of which Debian 12 has version 1.8. It refuses hybrid cgroup
hierarchies; the session's own tree (tests/isolation.py) has none."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.isolation import CGROUPS, Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, linux, refused, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode


@pytest.fixture(scope="module", params=["", "conmon"], ids=["ours", "conmon"])
def node(request: pytest.FixtureRequest, images: Pushed, isolation: Isolation) -> Iterator[Node]:
    assert not os.path.exists(f"{CGROUPS}/unified")
    monitor = str(shutil.which(request.param)) if request.param else ""
    node = make_node(images, isolation, runtime="crun", monitor=monitor)
    yield node
    end_node(node)


def test_life(node: Node, images: Pushed) -> None:
    pod = node.pod()
    script = "trap 'echo bye; exit 4' TERM; echo err >&2; echo hi; while :; do sleep 0.01; done"
    ctr = node.start(pod, "sh", "-c", script)
    node.wait_log(ctr, "hi")
    assert node.status(ctr).state == pb.CONTAINER_RUNNING
    done = node.exec(ctr, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (bytes(done.stdout), bytes(done.stderr), done.exit_code) == (b"out\n", b"err\n", 3)
    stats = node.cri.ContainerStats(container_id=ctr).stats
    assert stats.memory.working_set_bytes.value > 0
    node.cri.StopContainer(container_id=ctr, timeout=20)
    status = node.status(ctr)
    assert (status.exit_code, status.reason) == (4, "Error")
    lines = {(line.stream, line.text) for line in node.log(ctr)}
    assert lines == {("stdout", "hi"), ("stderr", "err"), ("stdout", "bye")}
    assert node.run(pod, image=images.app) == (0, "entry cmd\n")


def test_limits_and_out_of_memory(node: Node) -> None:
    pod = node.pod()
    limits = pb.LinuxContainerResources(
        memory_limit_in_bytes=24 << 20, memory_swap_limit_in_bytes=24 << 20, cpu_quota=50_000, cpu_period=100_000
    )
    ctr = node.start(pod, "sleep", "1000", linux=secured(resources=limits))
    node.cri.UpdateContainerResources(container_id=ctr, linux={"memory_limit_in_bytes": 32 << 20})
    assert node.status(ctr).resources.linux.memory_limit_in_bytes == 32 << 20
    hog = 'BEGIN { x = "0123456789abcdef"; while (1) x = x x }'
    victim = node.start(pod, "awk", hog, linux=secured(resources=limits))
    assert node.ended(victim).reason == "OOMKilled"


def test_shared_pid_namespace_and_user(node: Node) -> None:
    pod = node.pod(linux=linux(pid="POD"))
    node.start(pod, "sleep", "1234", linux=secured(run_as_user=pb.Int64Value(value=1000)))
    said = node.sh(pod, "ps; id -u", linux=secured(run_as_user=pb.Int64Value(value=1000)))
    assert "sleep 1234" in said
    assert "/pause" in said
    assert said.splitlines()[-1] == "1000"


def test_exec_timeout_and_failures(node: Node) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    with refused(Code.DEADLINE_EXCEEDED, "command timed out"):
        node.exec(ctr, "sh", "-c", "(setsid sleep 776 &) >/dev/null 2>&1; sleep 777 & sleep 778", timeout=1)
    eventually(lambda: b"sleep 77" not in bytes(node.exec(ctr, "ps").stdout))
    with refused(Code.UNKNOWN, "no-such-program"):
        node.exec(ctr, "no-such-program")
    with refused(Code.UNKNOWN, "no-such-program"):
        node.start(pod, "no-such-program")
    node.cri.StopContainer(container_id=ctr, timeout=0)
    with refused(Code.NOT_FOUND):
        node.exec(ctr, "true")


def test_terminal(node: Node) -> None:
    ctr = node.start(node.pod(), "sh", "-c", "tty; stty size; echo $TERM", tty=True)
    node.ended(ctr)
    assert node.output(ctr).replace("\r", "").splitlines()[0].startswith("/dev/pts/")


def test_restart(node: Node) -> None:
    pod = node.pod()
    ctr, ends = node.start(pod, "sleep", "1000"), node.start(pod, "sh", "-c", "sleep 0.3; exit 6")
    pid = node.pid_of(ends)
    node.daemon.kill()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    eventually(pathlib.Path(node.dir, "exits", ends).exists)
    node.daemon.start()
    assert node.status(ctr).state == pb.CONTAINER_RUNNING
    assert node.ended(ends).exit_code == 6
    assert bytes(node.exec(ctr, "echo", "on").stdout) == b"on\n"
    node.warm_up()


@pytest.mark.parametrize("score", [0, 300])
def test_out_of_memory_score(node: Node, score: int) -> None:
    """Of execs as well, for which crun sets nothing: they have what it was started with."""
    resources = pb.LinuxContainerResources(oom_score_adj=score)
    ctr = node.start(node.pod(), "sleep", "1000", linux=secured(resources=resources))
    assert pathlib.Path(f"/proc/{node.pid_of(ctr)}/oom_score_adj").read_text() == f"{score}\n"
    assert bytes(node.exec(ctr, "cat", "/proc/self/oom_score_adj").stdout) == b"%d\n" % score
