"""The life of containers on real runc: start, logs, exec, stop, exit, stats, removal, lists, events."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.isolation import CGROUPS
from tests.system.conftest import Pushed
from tests.system.node import Node, eventually, refused, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode
NOBODY = "f" * 64
CAP = 16 << 20


@pytest.fixture
def pod(node: Node) -> str:
    return node.pod()


# --- exit -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("exit 0", 0, "Completed"), ("exit 3", 3, "Error"), ("kill -9 $$; exit 0", 0, "Completed")],
)
def test_exit_code_and_reason(node: Node, pod: str, script: str, code: int, reason: str) -> None:
    """The init of a pid namespace cannot kill itself by a signal that it does not handle."""
    began = time.time_ns()
    ctr = node.start(pod, "sh", "-c", script)
    status = node.ended(ctr)
    assert (status.exit_code, status.reason) == (code, reason)
    assert began <= status.created_at <= status.started_at <= status.finished_at <= time.time_ns()


def test_killed_from_outside(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sleep", "1000")
    os.kill(node.pid_of(ctr), signal.SIGKILL)
    status = node.ended(ctr)
    assert (status.exit_code, status.reason) == (137, "Error")


def test_out_of_memory(node: Node, pod: str) -> None:
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=24 << 20, memory_swap_limit_in_bytes=24 << 20)
    hog = 'BEGIN { x = "0123456789abcdef"; while (1) x = x x }'
    ctr = node.start(pod, "awk", hog, linux=secured(resources=resources))
    status = node.ended(ctr)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_start_that_fails_removes_the_container(node: Node, pod: str) -> None:
    """What cannot be executed shows when the runtime creates or starts it; then the name is free again."""
    for command in ("/no/such/program", "/etc"):
        with refused(Code.UNKNOWN, command):
            node.start(pod, command, name="bad")
    assert not node.cri.ListContainers(filter={"pod_sandbox_id": pod}).containers
    assert node.run(pod, "true", name="bad") == (0, "")


def test_states(node: Node, pod: str) -> None:
    ctr = node.create(pod, "sleep", "1000")
    assert node.status(ctr).state == pb.CONTAINER_CREATED
    node.cri.StartContainer(container_id=ctr)
    assert node.status(ctr).state == pb.CONTAINER_RUNNING
    with refused(Code.FAILED_PRECONDITION, "not in created state"):
        node.cri.StartContainer(container_id=ctr)
    node.cri.StopContainer(container_id=ctr, timeout=0)
    assert node.status(ctr).state == pb.CONTAINER_EXITED
    with refused(Code.FAILED_PRECONDITION, "not in created state"):
        node.cri.StartContainer(container_id=ctr)
    with refused(Code.NOT_FOUND):
        node.cri.StartContainer(container_id=NOBODY)


def test_container_that_was_never_started(node: Node, pod: str) -> None:
    stopped, removed = (node.create(pod, "sleep", "1000") for _ in range(2))
    node.cri.StopContainer(container_id=stopped, timeout=0)
    assert node.status(stopped).state == pb.CONTAINER_EXITED
    for ctr in (stopped, removed):
        node.cri.RemoveContainer(container_id=ctr)
        with refused(Code.NOT_FOUND):
            node.status(ctr)


# --- stop and removal -------------------------------------------------------------------------------------------------


def sleeper(signals: str, action: str) -> str:
    return f"trap '{action}' {signals}; echo ready; while :; do sleep 0.01; done"


def test_stop_signals(node: Node, images: Pushed, pod: str) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("TERM", {}),
        ("USR1", {"image": images.app}),
        ("INT", {"image": images.app, "stop_signal": pb.SIGNAL_SIGINT}),
    ]
    for name, more in cases:
        ctr = node.start(pod, "sh", "-c", sleeper(name, f"echo got {name}; exit 7"), **more)
        node.wait_log(ctr, "ready")
        assert node.status(ctr).stop_signal == pb.Signal.Value(f"SIGNAL_SIG{name}")
        node.cri.StopContainer(container_id=ctr, timeout=20)
        assert node.status(ctr).exit_code == 7
        assert node.output(ctr) == f"ready\ngot {name}\n"


def test_stop_kills_after_its_timeout(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sh", "-c", sleeper("TERM", "echo no"))
    node.wait_log(ctr, "ready")
    began = time.monotonic()
    node.cri.StopContainer(container_id=ctr, timeout=1)
    assert time.monotonic() - began >= 1
    assert node.status(ctr).exit_code == 137
    assert "no" in node.output(ctr)


def test_a_later_stop_shortens_an_earlier_one(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sh", "-c", sleeper("TERM", "echo no"))
    node.wait_log(ctr, "ready")
    with concurrent.futures.ThreadPoolExecutor(4) as crowd:
        waiting = [crowd.submit(node.cri.StopContainer, container_id=ctr, timeout=600) for _ in range(3)]
        node.wait_log(ctr, "no")  # the first one is under way
        with refused(Code.DEADLINE_EXCEEDED):  # a caller that gives up leaves the stop running
            node.cri.StopContainer(container_id=ctr, timeout=500, deadline=0.1)
        node.cri.StopContainer(container_id=ctr, timeout=0)
        for each in waiting:
            each.result(timeout=20)
    assert node.output(ctr).count("no") == 1
    assert node.status(ctr).exit_code == 137


def test_stop_of_what_others_froze(node: Node, pod: str) -> None:
    """By the runtime, or a container that may freezes a part of itself: on cgroup v1 not even SIGKILL ends that."""
    polite = node.start(pod, "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    node.wait_log(polite, "ready")
    subprocess.run(["runc", f"--root={node.dir}/rt", "pause", polite], check=True)
    node.cri.StopContainer(container_id=polite, timeout=30)
    assert node.status(polite).exit_code == 3  # it was thawed before it was asked
    deaf = node.start(pod, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    node.wait_log(deaf, "ready")
    if not node.isolation.unified:
        (line,) = (
            g for g in pathlib.Path(f"/proc/{node.pid_of(deaf)}/cgroup").read_text().splitlines() if ":freezer:" in g
        )
        below = pathlib.Path(CGROUPS, "freezer", line.split(":")[2].lstrip("/"), "below")
        below.mkdir()
        (below / "cgroup.procs").write_text(str(node.pid_of(deaf)))
        (below / "freezer.state").write_text("FROZEN")
    node.cri.StopContainer(container_id=deaf, timeout=0)
    assert node.status(deaf).exit_code == 137


def test_stop_of_what_is_not_running(node: Node, pod: str) -> None:
    ctr = node.start(pod, "true")
    node.ended(ctr)
    for ident in (ctr, NOBODY, "no-such-thing"):
        node.cri.StopContainer(container_id=ident, timeout=5)
    assert node.status(ctr).exit_code == 0


def test_removal(node: Node, pod: str) -> None:
    running = node.start(pod, "sleep", "1000")
    pid = node.pid_of(running)
    with concurrent.futures.ThreadPoolExecutor(4) as crowd:
        for done in [crowd.submit(node.cri.RemoveContainer, container_id=running, deadline=2.5) for _ in range(4)]:
            done.result()
    assert not os.path.exists(f"/proc/{pid}")
    for ident in (running, NOBODY):
        node.cri.RemoveContainer(container_id=ident)
    assert not node.cri.ListContainers().containers


# --- lists and ids ----------------------------------------------------------------------------------------------------


def test_lists(node: Node, pod: str) -> None:
    other = node.pod()
    a = node.start(pod, "sleep", "1000", labels={"n": "a", "all": "x"})
    b = node.start(pod, "true", labels={"n": "b", "all": "x"})
    c = node.create(other, "true", labels={"n": "c", "all": "x"})
    node.ended(b)

    def ids(**conditions: Any) -> set[str]:
        found = node.cri.ListContainers(filter=pb.ContainerFilter(**conditions)).containers
        return {f.id for f in found}

    def state(value: int) -> Any:
        return pb.ContainerStateValue(state=value)

    assert ids() == {a, b, c}
    assert ids(id=a) == ids(id=a[:10]) == {a}
    assert ids(pod_sandbox_id=pod) == ids(pod_sandbox_id=pod[:12]) == {a, b}
    assert ids(label_selector={"all": "x"}) == {a, b, c}
    assert ids(label_selector={"all": "x", "n": "c"}) == {c}
    assert ids(state=state(pb.CONTAINER_RUNNING)) == {a}
    assert ids(state=state(pb.CONTAINER_EXITED), pod_sandbox_id=pod) == {b}
    assert ids(state=state(pb.CONTAINER_CREATED)) == {c}
    for nothing in ({"id": NOBODY}, {"pod_sandbox_id": NOBODY}, {"id": a, "pod_sandbox_id": other}):
        assert ids(**nothing) == set()


def test_prefix_of_an_id_will_do(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sleep", "1000")
    assert node.status(ctr[:12]).id == ctr
    assert bytes(node.exec(ctr[:12], "echo", "hi").stdout) == b"hi\n"
    node.cri.StopContainer(container_id=ctr[:12], timeout=0)
    node.cri.RemoveContainer(container_id=ctr[:12])
    with refused(Code.NOT_FOUND):
        node.status(ctr)


def test_concurrent_creation_gives_one_container(node: Node, pod: str) -> None:
    gate = threading.Barrier(6)

    def ask(_: int) -> str:
        gate.wait()
        return node.create(pod, "true", name="crowd")

    with concurrent.futures.ThreadPoolExecutor(6) as crowd:
        assert len(set(crowd.map(ask, range(6)))) == 1
    assert len(node.cri.ListContainers(filter={"pod_sandbox_id": pod}).containers) == 1
    assert node.create(pod, "true", name="crowd", attempt=1)


def test_events(node: Node) -> None:
    kinds = {v: k.removeprefix("CONTAINER_").removesuffix("_EVENT") for k, v in pb.ContainerEventType.items()}
    found: list[tuple[str, str]] = []
    stream = node.cri.GetContainerEvents(deadline=60)
    ended = threading.Event()

    def listen() -> None:
        for event in stream:
            found.append((event.container_id, kinds[event.container_event_type]))
            assert event.created_at > 0
            assert event.pod_sandbox_status.metadata.name
            if event.container_id == event.pod_sandbox_status.id and found[-1][1] == "DELETED":
                break
        ended.set()

    listener = threading.Thread(target=listen)
    listener.start()
    eventually(lambda: node.cri.ListPodSandbox() is not None)  # the stream's request travels before this one
    pod = node.pod()
    ctr = node.start(pod, "true")
    node.ended(ctr)
    node.cri.RemoveContainer(container_id=ctr)
    node.remove_pod(pod)
    assert ended.wait(20)
    stream.cancel()
    listener.join()
    assert [kind for ident, kind in found if ident == ctr] == ["CREATED", "STARTED", "STOPPED", "DELETED"]
    assert [kind for ident, kind in found if ident == pod] == ["CREATED", "STARTED", "STOPPED", "DELETED"]


# --- logs -------------------------------------------------------------------------------------------------------------


def test_log_streams_and_partial_lines(node: Node, pod: str) -> None:
    ctr = node.start(
        pod, "sh", "-c", "echo out; echo err >&2; printf 'no end'; head -c 40000 /dev/zero | tr '\\0' x; echo"
    )
    node.ended(ctr)
    lines = node.log(ctr)
    assert [line.text for line in lines if line.stream == "stderr"] == ["err"]
    out = [line for line in lines if line.stream == "stdout"]
    assert (out[0].text, out[0].tag) == ("out", "F")
    assert "P" in {line.tag for line in out}
    assert out[-1].tag == "F"
    assert "".join(line.text for line in out[1:]) == "no end" + "x" * 40_000
    assert sorted(line.time for line in lines) == [line.time for line in lines]


def test_log_where_a_dead_link_was(node: Node, pod: str) -> None:
    """Left by an earlier life of the node; what it leads to is nobody's business."""
    directory = pathlib.Path(node.status(node.create(pod, "true")).log_path).parent
    (directory / "linked.log").symlink_to(directory / "elsewhere")
    ctr = node.start(pod, "echo", "hi", log_path="linked.log")
    node.ended(ctr)
    assert node.output(ctr) == "hi\n"
    assert not (directory / "linked.log").is_symlink()
    assert not (directory / "elsewhere").exists()


def test_log_rotation(node: Node, pod: str) -> None:
    counting = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.002; done"
    ctr = node.start(pod, "sh", "-c", counting)
    path = pathlib.Path(node.status(ctr).log_path)
    old = path.with_name("rotated")
    node.wait_log(ctr, "line 5\n")
    path.rename(old)
    node.cri.ReopenContainerLog(container_id=ctr)
    assert path.exists()
    node.wait_log(ctr, "line")
    node.cri.StopContainer(container_id=ctr, timeout=0)
    numbers = [int(line.split()[-1]) for file in (old, path) for line in file.read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))  # nothing lost, nothing twice
    with refused(Code.FAILED_PRECONDITION, "not running"):
        node.cri.ReopenContainerLog(container_id=ctr)
    with refused(Code.NOT_FOUND):
        node.cri.ReopenContainerLog(container_id=NOBODY)


# --- exec -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def box(node: Node, images: Pushed, pod: str) -> str:
    return node.start(pod, "sleep", "1000", image=images.app, working_dir="/tmp", envs=[{"key": "K", "value": b"v"}])


def test_exec(node: Node, box: str) -> None:
    done = node.exec(box, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (bytes(done.stdout), bytes(done.stderr), done.exit_code) == (b"out\n", b"err\n", 5)
    done = node.exec(box, "sh", "-c", "id -u; pwd; echo $K $ONLY; cat")  # no input: an empty one
    assert bytes(done.stdout) == b"1000\n/tmp\nv image\n"
    assert node.exec(box, "sh", "-c", "kill -9 $$").exit_code == 137


def test_exec_that_cannot_be(node: Node, pod: str, box: str) -> None:
    with refused(Code.INVALID_ARGUMENT, "empty"):
        node.exec(box)
    with refused(Code.NOT_FOUND):
        node.exec(NOBODY, "true")
    with refused(Code.UNKNOWN, "no-such-program"):
        node.exec(box, "no-such-program")
    ended = node.start(pod, "true")
    node.ended(ended)
    with refused(Code.NOT_FOUND, "not created or running"):
        node.exec(ended, "true")


def test_exec_timeout_kills_the_tree(node: Node, box: str) -> None:
    with refused(Code.DEADLINE_EXCEEDED, "command timed out"):
        node.exec(box, "sh", "-c", "sleep 777 & sh -c 'sleep 778 & sleep 779' & sleep 780", timeout=1)
    eventually(lambda: b"sleep 77" not in bytes(node.exec(box, "ps").stdout))
    assert b"sleep 780" not in bytes(node.exec(box, "ps").stdout)
    assert node.status(box).state == pb.CONTAINER_RUNNING


LEFT = re.compile(rb"sleep 7[678]")
DAEMONS = (
    "for n in 1 2; do (setsid sh -c 'env -i setsid sleep 77$0 & exec sleep 76$0' $n >/dev/null 2>&1 </dev/null &); done"
)


def test_exec_timeout_kills_what_has_left_the_tree(node: Node, box: str) -> None:
    """Forked twice, in sessions of their own, without our pipes and environment, children of the container's init."""
    kept = node.exec(box, "sh", "-c", "(setsid sleep 750 >/dev/null 2>&1 &)")  # of an exec that ended in time
    assert kept.exit_code == 0
    for timeout, deadline in ((1, 60), (0, 1)):
        with refused(Code.DEADLINE_EXCEEDED):
            node.cri.ExecSync(
                container_id=box, cmd=["sh", "-c", f"{DAEMONS}; sleep 780"], timeout=timeout, deadline=deadline
            )
        eventually(lambda: not LEFT.search(bytes(node.exec(box, "ps").stdout)))
    assert b"sleep 750" in bytes(node.exec(box, "ps").stdout)
    assert node.status(box).state == pb.CONTAINER_RUNNING


def test_exec_of_a_caller_that_leaves_is_ended(node: Node, box: str) -> None:
    with refused(Code.DEADLINE_EXCEEDED):
        node.cri.ExecSync(container_id=box, cmd=["sleep", "781"], deadline=0.5)
    eventually(lambda: b"sleep 781" not in bytes(node.exec(box, "ps").stdout))


def test_exec_output_is_capped(node: Node, box: str) -> None:
    """Both outputs together, in a message that a kubelet accepts; a short one is kept beside a long one."""
    for script, out, err in (
        ("head -c 17000000 /dev/zero; head -c 100 /dev/zero >&2", CAP - 8192, 100),
        ("head -c 100 /dev/zero; head -c 17000000 /dev/zero >&2", 100, CAP - 8192),
        ("head -c 17000000 /dev/zero; head -c 17000000 /dev/zero >&2", CAP // 2 - 4096, CAP // 2 - 4096),
        ("head -c 9000000 /dev/zero; head -c 2000000 /dev/zero >&2", 9_000_000, 2_000_000),
    ):
        done = node.exec(box, "sh", "-c", script)
        assert done.exit_code == 0
        assert len(done.stdout) >= out
        assert len(done.stderr) >= err
        assert done.ByteSize() <= CAP


def test_many_execs_at_once(node: Node, box: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as crowd:
        answers = crowd.map(lambda n: bytes(node.exec(box, "echo", str(n)).stdout), range(24))
        assert list(answers) == [b"%d\n" % n for n in range(24)]


def test_stop_ends_running_execs(node: Node, box: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        running = other.submit(node.exec, box, "sh", "-c", "echo x; sleep 1000")
        eventually(lambda: b"sleep 1000\n" in bytes(node.exec(box, "sh", "-c", "ps | grep -v grep").stdout))
        node.cri.StopContainer(container_id=box, timeout=0)
        error = running.exception(timeout=20)
    if error is None:  # the runtime was faster in telling of its end
        assert running.result().exit_code == 137
    else:
        assert isinstance(error, grpc.RpcError)
        assert error.code() in (Code.FAILED_PRECONDITION, Code.NOT_FOUND)


# --- stats ------------------------------------------------------------------------------------------------------------


def test_stats(node: Node, pod: str) -> None:
    script = (
        "head -c 300000 /dev/zero >/tmp/big; echo ready; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000"
    )
    limit = pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    ctr = node.start(pod, "sh", "-c", script, labels={"s": "1"}, linux=secured(resources=limit))
    done = node.start(pod, "true", labels={"s": "2"})
    node.ended(done)
    node.wait_log(ctr, "ready")
    stats = node.cri.ContainerStats(container_id=ctr).stats
    assert stats.attributes.id == ctr
    assert dict(stats.attributes.labels) == {"s": "1"}
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert 0 < stats.memory.working_set_bytes.value <= stats.memory.usage_bytes.value <= 64 << 20
    assert stats.memory.available_bytes.value > 0
    assert 300_000 <= stats.writable_layer.used_bytes.value < 3_000_000
    assert os.path.isdir(stats.writable_layer.fs_id.mountpoint)
    assert [s.attributes.id for s in node.cri.ListContainerStats().stats] == [ctr]
    assert [s.attributes.id for s in node.cri.ListContainerStats(filter={"id": done}).stats] == [done]
    assert not node.cri.ListContainerStats(filter={"label_selector": {"s": "2"}}).stats
    eventually(lambda: node.cri.ContainerStats(container_id=ctr).stats.cpu.HasField("usage_nano_cores"))
    with refused(Code.NOT_FOUND):
        node.cri.ContainerStats(container_id=NOBODY)
