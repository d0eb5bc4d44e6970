"""ExecSync of commands that leave processes behind, with their outputs open: hooks that start daemons do."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.isolation import Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, linux, refused, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode
USERS = [pb.IDMapping(container_id=0, host_id=200_000, length=65536)]
PODS: dict[str, Any] = {
    "plain": linux(),
    "shared pid namespace": linux(pid="POD"),
    "host's pid namespace": linux(pid="NODE"),
    "user namespace": linux(userns=pb.UserNamespace(mode=pb.POD, uids=USERS, gids=USERS)),
}


@pytest.fixture(scope="module", params=["runc", "crun"])
def node(request: pytest.FixtureRequest, images: Pushed, isolation: Isolation) -> Iterator[Node]:
    node = make_node(images, isolation, runtime=request.param)
    yield node
    end_node(node)


@pytest.fixture
def box(node: Node) -> str:
    return node.start(node.pod(), "sleep", "1000")


def runs(node: Node, box: str, command: str) -> bool:
    """Whether such a process is in the container."""
    return command in bytes(node.exec(box, "ps").stdout).decode().replace("sh -c", "")


@pytest.mark.parametrize("where", PODS)
def test_the_answer_comes_with_the_command_s_end(node: Node, where: str) -> None:
    """A deadline would pass otherwise: the process that is left holds both outputs for good."""
    pod = node.pod(linux=PODS[where])
    box = node.start(pod, "sleep", "1000", linux=secured(pid="NODE") if "host" in where else None)
    script = "sleep 1401 & echo $!; echo err >&2; exit 5"
    done = node.cri.ExecSync(container_id=box, cmd=["sh", "-c", script], timeout=60)
    left = int(done.stdout)
    assert (bytes(done.stderr), done.exit_code) == (b"err\n", 5)
    state = node.exec(box, "sh", "-c", f"tr '\\0' ' ' </proc/{left}/cmdline; grep PPid /proc/{left}/status")
    command, _, parent = bytes(state.stdout).decode().partition("PPid:")
    assert command == "sleep 1401 "
    assert not [line for line in node.isolation.processes().values() if "pycrio-exec" in line]
    if "host" in where:  # it is nobody's of ours
        assert int(parent) != node.pid
    assert node.exec(box, "kill", str(left)).exit_code == 0


def test_daemons_live_on(node: Node, box: str) -> None:
    """In the background, in a session of its own, forked twice: as CRI-O leaves them, also over the daemon's end."""
    script = "sleep 1411 & setsid sleep 1412 & (setsid sleep 1413 &)"
    assert node.exec(box, "sh", "-c", script, timeout=60).exit_code == 0
    with refused(Code.DEADLINE_EXCEEDED):  # another's end is not theirs
        node.exec(box, "sh", "-c", "sleep 1414 & sleep 1415", timeout=1)
    eventually(lambda: not runs(node, box, "sleep 1414") and not runs(node, box, "sleep 1415"))
    node.restart()
    assert all(runs(node, box, f"sleep {n}") for n in (1411, 1412, 1413))


def test_later_output_harms_nobody(node: Node, box: str) -> None:
    """It meets a closed pipe."""
    later = "trap '' PIPE; until [ -e /tmp/go ]; do sleep 0.05; done; echo late || echo no >/tmp/said; sleep 1421"
    assert bytes(node.exec(box, "sh", "-c", f"({later}) & echo now", timeout=60).stdout) == b"now\n"
    assert bytes(node.exec(box, "sh", "-c", "touch /tmp/go; echo other").stdout) == b"other\n"
    eventually(lambda: node.exec(box, "grep", "-q", "no", "/tmp/said").exit_code == 0)
    assert runs(node, box, "sleep 1421")


def test_one_that_never_stops_writing(node: Node, box: str) -> None:
    done = node.exec(box, "sh", "-c", "head -c 3000000 /dev/zero >&2; yes & echo first; exit 3", timeout=60)
    assert done.exit_code == 3
    assert b"first\n" in bytes(done.stdout)
    assert bytes(done.stderr) == bytes(3_000_000)
    eventually(lambda: b" yes\n" not in bytes(node.exec(box, "ps").stdout))  # SIGPIPE


def test_all_that_was_written_until_the_end(node: Node, box: str) -> None:
    script = "sleep 1431 & echo $!; head -c $0 /dev/zero; head -c $0 /dev/zero >&2; exit 1"
    for size in (0, 1, 65536, 65537, 1_000_000):
        done = node.exec(box, "sh", "-c", script, str(size), timeout=60)
        left, _, rest = bytes(done.stdout).partition(b"\n")
        assert (len(rest), len(done.stderr), done.exit_code) == (size, size, 1)
        assert node.exec(box, "kill", left.decode()).exit_code == 0


def test_codes_and_signals(node: Node, box: str) -> None:
    for code in (0, 1, 2, 124, 125, 126, 127, 128, 254, 255):
        assert node.exec(box, "sh", "-c", f"exit {code}").exit_code == code
    for number in (1, 2, 9, 11, 15):
        assert node.exec(box, "sh", "-c", f"kill -{number} $$").exit_code == 128 + number


def test_a_time_out_takes_all_along(node: Node, box: str) -> None:
    with refused(Code.DEADLINE_EXCEEDED, "command timed out"):
        node.exec(box, "sh", "-c", "sleep 1441 & (setsid sleep 1442 &); sleep 1443", timeout=1)
    eventually(lambda: not runs(node, box, "sleep 144"))
    assert not [line for line in node.isolation.processes().values() if "pycrio-exec" in line]


def test_a_caller_that_leaves_takes_all_along(node: Node, box: str) -> None:
    with refused(Code.DEADLINE_EXCEEDED):
        node.cri.ExecSync(container_id=box, cmd=["sh", "-c", "sleep 1451 & sleep 1452"], deadline=0.7)
    eventually(lambda: not runs(node, box, "sleep 145"))


def test_a_daemon_that_is_killed_takes_all_along(node: Node, box: str) -> None:
    """With its next start. What an exec left that had ended before stays."""
    node.exec(box, "sh", "-c", "sleep 1461 &", timeout=60)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        running = other.submit(node.exec, box, "sh", "-c", "sleep 1462 & (setsid sleep 1463 &); sleep 1464")
        eventually(lambda: runs(node, box, "sleep 1464"))
        node.crash()
        assert isinstance(running.exception(timeout=60), grpc.RpcError)
    eventually(lambda: not any(runs(node, box, f"sleep {n}") for n in (1462, 1463, 1464)))
    assert runs(node, box, "sleep 1461")
    assert not list(pathlib.Path(node.dir, "run/pycrio/exec").iterdir())


@pytest.mark.parametrize("where", ["plain", "user namespace"])
def test_users_open_their_outputs_anew(node: Node, where: str) -> None:
    """Whoever the command becomes: it and its children may open /dev/stdout and /dev/stderr."""
    box = node.start(node.pod(linux=PODS[where]), "sleep", "1000", linux=secured(run_as_user=pb.Int64Value(value=1000)))
    done = node.exec(box, "sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr; id -u; cat")
    assert (bytes(done.stdout), bytes(done.stderr), done.exit_code) == (b"out\n1000\n", b"err\n", 0)
    root = node.start(node.pod(linux=PODS[where]), "sleep", "1000")
    done = node.exec(root, "su", "-s", "/bin/sh", "user", "-c", "echo out >/dev/stdout")
    assert (bytes(done.stdout), done.exit_code) == (b"out\n", 0), bytes(done.stderr)


def test_commands_that_cannot_be(node: Node, box: str) -> None:
    for command, words in (("no-such-program", "no-such-program"), ("/etc/hostname", "ermission denied")):
        with refused(Code.UNKNOWN, "command error", words, "exit code"):
            node.exec(box, command)
    assert not os.listdir(f"{node.dir}/run/pycrio/exec")
