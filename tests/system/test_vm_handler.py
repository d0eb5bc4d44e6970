"""Handlers of type vm on a real shim: containerd-shim-runc-v2 speaks the protocol of Kata's, and needs no machine."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests import streams
from tests.isolation import Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, assert_nothing_new, eventually, linux, refused, secured
from tests.system.test_restart import killed_at_moments
from tests.system.test_streaming import attach_url, attached_once, exec_url

SHIM = "/usr/bin/containerd-shim-runc-v2"
SOCKETS = pathlib.Path("/run/containerd/s")
Code = grpc.StatusCode

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]

HANDLERS = """
[crio.runtime]
default_runtime = "vm"
log_level = "debug"
[crio.runtime.runtimes.vm]
runtime_path = "{shim}"
runtime_type = "vm"
runtime_root = "{d}/rt"
"""


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    """A daemon whose default handler is the shim."""
    assert os.access(SHIM, os.X_OK), f"{SHIM} is not installed (Debian: containerd)"
    before = sockets()
    made = make_node(images, isolation, prepare=lambda d: HANDLERS.format(d=d, shim=SHIM))
    yield made
    end_node(made)
    assert not sockets() - before


def sockets() -> set[str]:
    return {p.name for p in SOCKETS.glob("*")}


def tasks(node: Node) -> set[str]:
    """Containers that have a directory for a shim."""
    return {p.parent.name for p in pathlib.Path(node.dir, "run/pycrio/tasks").glob("*/facts.json")}


def shims(node: Node) -> list[int]:
    """Pids of shims that run."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = pathlib.Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            if words[0] == SHIM.encode() and f"{node.dir}/run/pycrio/tasks/events.sock".encode() in words:
                found.append(int(name))
    return found


def runs(pid: int) -> bool:
    """Whether a process is there; one that nobody has reaped yet is not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def box(node: Node) -> str:
    """A container that waits, to run commands in."""
    return node.start(node.pod(), "sleep", "1000")


# --- pods and containers ----------------------------------------------------------------------------------------------


def test_a_pod_with_two_containers_has_one_shim(node: Node) -> None:
    pod = node.pod()
    script = "echo out; echo err >&2; printf tail; exec sleep 1000"
    one, two = (node.start(pod, "sh", "-c", script) for _ in range(2))
    assert len(shims(node)) == 1
    assert tasks(node) == {pod, one, two}
    for ident in (one, two):
        node.wait_log(ident, "err")
        lines = {(line.stream, line.tag, line.text) for line in node.log(ident)}
        assert {("stdout", "F", "out"), ("stderr", "F", "err")} <= lines
        assert node.status(ident).state == pb.CONTAINER_RUNNING
    # The reported process is the container's own, not the one that stands for it.
    assert pathlib.Path(f"/proc/{node.pid_of(one)}/comm").read_text() == "sleep\n"
    assert node.pid_of(one) != node.pid_of(two)
    config = json.loads(pathlib.Path(node.dir, "run/pycrio/tasks", one, "config.json").read_text())
    assert config["annotations"]["io.kubernetes.cri.container-type"] == "container"
    assert config["annotations"]["io.kubernetes.cri.sandbox-id"] == pod
    node.cri.StopContainer(container_id=one, timeout=0)
    node.cri.RemoveContainer(container_id=one)
    assert tasks(node) == {pod, two}
    assert node.status(two).state == pb.CONTAINER_RUNNING
    node.remove_pod(pod)
    assert tasks(node) == set()
    assert shims(node) == []


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_codes(node: Node, code: int) -> None:
    assert node.run(node.pod(), "sh", "-c", f"echo bye; exit {code}") == (code, "bye\n")


def test_all_output_of_a_quick_writer_is_logged(node: Node) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; printf end"
    code, text = node.run(node.pod(), "sh", "-c", script)
    assert code == 0
    assert text == "".join(f"line {i}\n" for i in range(3000)) + "end"


def test_what_cannot_start(node: Node) -> None:
    pod = node.pod()
    with refused(Code.UNKNOWN, "no-such-program"):
        node.create(pod, "no-such-program")
    assert tasks(node) == {pod}


def test_stop_with_grace(node: Node) -> None:
    pod = node.pod()
    polite = node.start(pod, "sh", "-c", "trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    deaf = node.start(pod, "sh", "-c", "trap 'echo deaf' TERM; echo ready; while :; do sleep 0.05; done")
    for ident in (polite, deaf):
        node.wait_log(ident, "ready")
    node.cri.StopContainer(container_id=polite, timeout=30)
    assert (node.status(polite).exit_code, node.output(polite)) == (7, "ready\nterm\n")
    node.cri.StopContainer(container_id=deaf, timeout=1)
    assert node.status(deaf).exit_code == 137
    assert "deaf" in node.output(deaf)


def test_stop_of_what_was_never_started(node: Node) -> None:
    ident = node.create(node.pod(), "sleep", "1000")
    node.cri.StopContainer(container_id=ident, timeout=0)
    assert node.status(ident).state == pb.CONTAINER_EXITED
    node.cri.RemoveContainer(container_id=ident)


def test_log_is_reopened(node: Node) -> None:
    pod = node.pod()
    ident = node.start(pod, "sh", "-c", "echo before; read x; echo after; sleep 1000", stdin=True)
    node.wait_log(ident, "before")
    path = pathlib.Path(node.status(ident).log_path)
    path.rename(path.with_suffix(".1"))
    node.cri.ReopenContainerLog(container_id=ident)
    assert path.read_text() == ""
    assert "before" in path.with_suffix(".1").read_text()


def test_shared_pid_namespace(node: Node) -> None:
    pod = node.pod(linux=linux(pid="POD"))
    first = node.start(pod, "sleep", "1000", linux=secured(pid="POD"))
    assert "pause" in node.sh(pod, "ps", linux=secured(pid="POD"))
    assert "sleep 1000" in node.sh(pod, "ps", linux=secured(pid="TARGET", target_id=first))


def test_a_container_in_a_user_namespace(node: Node) -> None:
    ids = [pb.IDMapping(host_id=500000, container_id=0, length=65536)]
    users = pb.UserNamespace(mode=pb.NamespaceMode.Value("POD"), uids=ids, gids=ids)
    pod = node.pod(linux=linux(userns=users))
    assert node.sh(pod, "cat /proc/self/uid_map; echo x >/dev/stdout").split() == ["0", "500000", "65536", "x"]


def test_memory_that_runs_out(node: Node) -> None:
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=20 << 20, memory_swap_limit_in_bytes=20 << 20)
    ident = node.start(
        node.pod(), "sh", "-c", "x=$(head -c 100000000 /dev/zero | tr '\\0' x)", linux=secured(resources=resources)
    )
    status = node.ended(ident)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_exec_sync(node: Node, box: str) -> None:
    done = node.exec(box, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert node.exec(box, "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' y").stdout == b"y" * 3000000
    with refused(Code.DEADLINE_EXCEEDED, "command timed out"):
        node.exec(box, "sleep", "1001", timeout=1)
    with refused(Code.DEADLINE_EXCEEDED, "command timed out"):
        node.exec(box, "sh", "-c", "sleep 1001 & sleep 1001; true", timeout=1)
    assert b"sleep 1001" not in node.exec(box, "ps").stdout
    with refused(Code.UNKNOWN, "no-such-program"):
        node.exec(box, "no-such-program")


async def test_exec_with_streams(node: Node, box: str) -> None:
    done = await streams.run(exec_url(node, box, "sh", "-c", "echo out; echo err >&2; exit 42"))
    assert (done.stdout, done.stderr, done.code) == (b"out\n", b"err\n", 42)
    data = os.urandom(1 << 20)
    done = await streams.run(exec_url(node, box, "cat", stdin=True), data)
    assert (done.stdout == data, done.code) == (True, 0)


async def test_exec_in_a_terminal(node: Node, box: str) -> None:
    url = exec_url(node, box, "sh", "-c", "stty size; read x; stty size; echo got $x", stdin=True, tty=True)
    async with streams.command(url, stdin=True, tty=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        assert session.resize is not None
        seen = b""
        while b"\n" not in seen:
            seen += await session.stdout.read()
        await session.resize.write(b'{"Width":112,"Height":43}')
        await session.client.ping()
        await session.stdin.write(b"word\n")
        done = await session.outcome()
    assert b"43 112\r\n" in done.stdout
    assert done.stdout.endswith(b"got word\r\n")
    assert done.code == 0


async def test_a_client_that_leaves_ends_its_command(node: Node, box: str) -> None:
    async with streams.command(exec_url(node, box, "sleep", "1002")):
        eventually(lambda: b"sleep 1002" in node.exec(box, "ps").stdout)
    eventually(lambda: b"sleep 1002" not in node.exec(box, "ps").stdout)


# --- attach -----------------------------------------------------------------------------------------------------------


async def test_attach_with_stdin_once(node: Node) -> None:
    await attached_once(node)


async def test_attach_to_a_terminal(node: Node) -> None:
    script = "echo ready; while :; do read x && echo got $x; done"
    ident = node.start(node.pod(), "sh", "-c", script, stdin=True, tty=True)
    node.wait_log(ident, "ready")
    async with streams.command(attach_url(node, ident, stdin=True, tty=True), stdin=True, tty=True) as session:
        assert session.stdin is not None
        assert session.resize is not None
        await session.resize.write(b'{"Width":123,"Height":45}')
        await session.stdin.write(b"word\n")
        node.wait_log(ident, "got word")
        eventually(lambda: node.exec(ident, "sh", "-c", "stty size </proc/1/fd/0").stdout == b"45 123\n")
        await session.stdin.write(b"more\n")
        node.wait_log(ident, "got more")
    assert node.status(ident).state == pb.CONTAINER_RUNNING


# --- figures and limits -----------------------------------------------------------------------------------------------


def test_stats(node: Node, box: str) -> None:
    stats = node.cri.ContainerStats(container_id=box).stats
    assert stats.memory.working_set_bytes.value > 0
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert box in {s.attributes.id for s in node.cri.ListContainerStats().stats}


def test_limits_are_updated(node: Node) -> None:
    resources = pb.LinuxContainerResources(cpu_shares=200, memory_limit_in_bytes=100 << 20)
    ident = node.start(node.pod(), "sleep", "1000", linux=secured(resources=resources))
    node.cri.UpdateContainerResources(container_id=ident, linux={"cpu_shares": 300, "memory_limit_in_bytes": 80 << 20})
    status = node.status(ident).resources.linux
    assert (status.cpu_shares, status.memory_limit_in_bytes) == (300, 80 << 20)
    assert node.limit(ident, "memory.max") == str(80 << 20)


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_the_daemon_is_killed(node: Node) -> None:
    pod = node.pod()
    ident = node.start(pod, "sh", "-c", "echo one; while [ ! -e /srv/go ]; do sleep 0.02; done; echo two; exit 9")
    other = node.start(pod, "sh", "-c", "while :; do echo tick; sleep 0.1; done")
    node.wait_log(ident, "one")
    node.wait_log(other, "tick")
    config = json.loads(pathlib.Path(node.dir, "run/pycrio/tasks", ident, "config.json").read_text())
    exits = pathlib.Path(node.dir, "exits", ident)
    log = pathlib.Path(node.status(ident).log_path)
    node.daemon.kill()
    pathlib.Path(config["root"]["path"], "srv/go").touch()
    eventually(exits.exists)
    assert "two" in log.read_text()
    node.daemon.start()
    status = node.ended(ident)
    assert status.exit_code == 9
    assert node.status(other).state == pb.CONTAINER_RUNNING
    assert node.exec(other, "echo", "alive").stdout == b"alive\n"
    before = len(node.log(other))
    eventually(lambda: len(node.log(other)) > before)
    assert len(shims(node)) == 1


def test_a_daemon_that_finds_no_pod_has_what_it_needs_open(node: Node) -> None:
    """As many descriptors after the first pod of a run as before it."""
    node.daemon.kill()
    node.daemon.start()
    node.cri.close()
    node.cri = node.daemon.client()
    node.cri.Version()
    before = node.picture()
    node.remove_pod(node.pod())
    assert_nothing_new(node, before)


def test_a_command_is_ended_when_its_daemon_was_killed(node: Node, box: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _EXEC, f"unix://{node.dir}/crio.sock", box, "sleep", "1003"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as client:
        eventually(lambda: b"sleep 1003" in node.exec(box, "ps").stdout)
        node.daemon.kill()
        client.wait()
    node.daemon.start()
    eventually(lambda: b"sleep 1003" not in node.exec(box, "ps").stdout)
    assert not list(pathlib.Path(node.dir, "run/pycrio/tasks", box, "execs").glob("*"))


_EXEC = """
import sys
from tests.cri import Cri
with Cri(sys.argv[1], 60) as cri:
    cri.ExecSync(container_id=sys.argv[2], cmd=sys.argv[3:])
"""


@pytest.mark.parametrize("daemon_too", [False, True], ids=["shim", "shim-and-daemon"])
def test_the_shim_is_killed(node: Node, daemon_too: bool) -> None:
    pod = node.pod()
    idents = [node.start(pod, "sleep", "1000") for _ in range(2)]
    pids = [node.pid_of(ident) for ident in idents]
    [shim] = shims(node)
    if daemon_too:
        node.daemon.kill()
    os.kill(shim, signal.SIGKILL)
    if daemon_too:
        for ident in idents:
            eventually(pathlib.Path(node.dir, "exits", ident).exists)
        node.daemon.start()
    for ident, pid in zip(idents, pids, strict=True):
        assert node.ended(ident).exit_code == 137
        # No container lives on without its shim, not even until somebody removes it.
        assert not runs(pid)
    assert eventually(lambda: node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == pb.SANDBOX_NOTREADY)
    node.remove_pod(pod)
    assert tasks(node) == set()


def test_what_stands_for_a_container_is_killed(node: Node) -> None:
    """Then the container itself must not go on unseen."""
    pod = node.pod()
    ident = node.start(pod, "sleep", "1000")
    pid = node.pid_of(ident)
    bundle = pathlib.Path(node.dir, "run/overlay-containers", ident, "userdata")
    os.kill(int((bundle / "pidfile").read_text()), signal.SIGKILL)
    assert node.ended(ident).exit_code == 137
    eventually(lambda: not runs(pid))


def test_the_monitor_is_killed(node: Node) -> None:
    """Its log is lost, but neither does the container stand still, nor does its end go unnoticed."""
    ident = node.start(node.pod(), "sh", "-c", "while [ ! -e /srv/go ]; do echo tick; sleep 0.02; done")
    node.wait_log(ident, "tick")
    bundle = pathlib.Path(node.dir, "run/overlay-containers", ident, "userdata")
    os.kill(int((bundle / "conmon-pidfile").read_text()), signal.SIGKILL)
    assert node.exec(ident, "touch", "/srv/go").exit_code == 0
    assert node.ended(ident).exit_code == 255


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_freeze_and_thaw(node: Node, box: str) -> None:
    for verb, state in (("pause", "paused"), ("unpause", "running")):
        done = subprocess.run(
            ["curl", "-sSf", "--unix-socket", f"{node.dir}/crio.sock", f"http://localhost/{verb}/{box}"],
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        done = subprocess.run(
            ["runc", f"--root={node.dir}/rt/default", "state", box], capture_output=True, check=True, text=True
        )
        assert json.loads(done.stdout)["status"] == state


def test_checkpoints_are_refused(node: Node, box: str, tmp_path: pathlib.Path) -> None:
    with refused(Code.UNIMPLEMENTED, "type vm"):
        node.cri.CheckpointContainer(container_id=box, location=str(tmp_path / "c.tar"))


def test_an_event_by_the_command(node: Node, box: str) -> None:
    """Old shims run a program for their events."""
    from pycrio.drivers.shim import names
    from pycrio.drivers.shim._pb import task_pb2 as task

    event: Any = task.TaskOOM(container_id=box)
    any_message = task.Envelope().event
    any_message.type_url, any_message.value = names.TASK_OOM, event.SerializeToString()
    address = f"{node.dir}/run/pycrio/tasks/events.sock"
    command = [sys.executable, "-m", "pycrio", "publish", "--topic", names.OOM_TOPIC, "--namespace", "default"]
    subprocess.run([*command, "--address", address], input=any_message.SerializeToString(), check=True)
    assert pathlib.Path(node.dir, "run/pycrio/tasks", box, "oom").exists()


def test_killed_while_it_runs_a_pod(node: Node) -> None:
    ids: dict[int, str] = {}

    def request(number: int) -> None:
        ids[number] = node.pod(f"half-{number}")

    killed_at_moments(node, request, lambda n: node.remove_pod(ids[n]))


def test_killed_while_it_creates_a_container(node: Node) -> None:
    pod = node.pod("holds")
    ids: dict[int, str] = {}

    def request(number: int) -> None:
        ids[number] = node.create(pod, "sleep", "1000", name=f"half-{number}")

    killed_at_moments(node, request, lambda n: node.cri.RemoveContainer(container_id=ids[n], deadline=2))
    assert node.sh(pod, "echo alive") == "alive\n"


def test_shims_that_do_not_answer(node: Node) -> None:
    """Of pods that nobody knows any more: the start does not wait for one after the other, and leaves none of them."""
    pods = [node.pod(f"silent-{number}") for number in range(5)]
    kept = node.start(pods[0], "sleep", "1000")
    others = {pid: pathlib.Path(f"/proc/{pid}/cwd").readlink().name for pid in shims(node)}
    node.daemon.kill()
    for pid, pod in others.items():
        os.kill(pid, signal.SIGSTOP)
        if pod != pods[0]:
            pathlib.Path(node.dir, "run/pycrio/state/pods", f"{pod}.json").unlink()
    node.daemon.start()
    assert tasks(node) == {pods[0], kept}
    [shim] = shims(node)
    assert others[shim] == pods[0]
    # One with a record may be asked again.
    os.kill(shim, signal.SIGCONT)
    assert node.exec(kept, "echo", "alive").stdout == b"alive\n"


def test_a_pod_whose_shim_does_not_answer_is_removed(node: Node) -> None:
    pod = node.pod()
    pids = [node.pid_of(node.start(pod, "sleep", "1000")) for _ in range(2)]
    [shim] = shims(node)
    os.kill(shim, signal.SIGSTOP)
    node.remove_pod(pod)
    assert not any(map(runs, [shim, *pids]))
    assert tasks(node) == set()


def test_a_handler_of_another_kind_by_the_same_name(node: Node) -> None:
    """What a shim runs is the shim's, whatever the configuration says now."""
    pod = node.pod()
    ident = node.start(pod, "sleep", "1000")
    [shim] = shims(node)
    changed = f'[crio.runtime.runtimes.vm]\nruntime_path = "/usr/sbin/runc"\nruntime_root = "{node.dir}/rt"\n'
    with node.configured(changed):
        assert node.exec(ident, "echo", "on").stdout == b"on\n"
        node.remove_pod(pod)
        assert not runs(shim)
    assert tasks(node) == set()
