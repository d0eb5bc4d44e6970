"""Floods on the CRI socket: many calls, many connections, and clients that use HTTP/2 to do harm (rapid resets, floods
of pings and settings, endless headers, answers nobody reads). They cost at most their own connection; others are served
meanwhile, and afterwards descriptors and memory are as before."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import socket
import struct
from collections.abc import Callable, Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.frames import CONTINUATION, DATA, PING, PREFACE, RESET, SETTINGS, begin, call, frame, header, settings
from tests.isolation import Isolation
from tests.system.conftest import Bystander, Pushed, end_node, make_node
from tests.system.node import Node, eventually

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("others_untouched")]
SERVICE = "/runtime.v1.RuntimeService/"
# The daemon as always, but it looks after its memory every second instead of every minute.
THRIFTY = """
import sys
from pycrio.lifecycle import memory
memory.PERIOD, memory.GROWN = 1.0, 1 << 20
from pycrio.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    node = make_node(images, isolation, program=("-c", THRIFTY))
    yield node
    end_node(node)


def connected(node: Node, *, preface: bytes = PREFACE + frame(SETTINGS, 0, 0)) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(f"{node.dir}/crio.sock")
    if preface:
        client.sendall(preface)
    return client


def until_cut_off(client: socket.socket, data: bytes, most: int) -> int:
    """Send again and again until the server has had enough; how many bytes that took."""
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < most:
            client.sendall(data)
            sent += len(data)
    return sent


def memory(node: Node) -> int:
    """Resident bytes of the daemon."""
    return int(pathlib.Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def nothing_stays(node: Node, bystander: Bystander) -> Iterator[None]:
    """Descriptors as before, and memory but for what Python's heaps keep: a thousand calls scatter them, once."""
    node.cri.ListPodSandboxMetrics()
    files, before = len(os.listdir(f"/proc/{node.pid}/fd")), memory(node)
    yield
    eventually(lambda: len(os.listdir(f"/proc/{node.pid}/fd")) <= files)
    eventually(lambda: memory(node) - before < 30 << 20)


def others_are_served(node: Node, bystander: Bystander) -> None:
    with node.daemon.client(timeout=20) as other:
        assert other.Status().status.conditions
        assert bytes(other.ExecSync(container_id=bystander.container, cmd=["echo", "on"]).stdout) == b"on\n"


# --- floods -------------------------------------------------------------------------------------------------------


async def test_two_thousand_calls_at_once(node: Node, bystander: Bystander) -> None:
    execs = pb.ExecSyncRequest(container_id=bystander.container, cmd=["true"])
    wanted = [
        *[("ListContainers", pb.ListContainersRequest())] * 1000,
        *[("Status", pb.StatusRequest(verbose=True))] * 450,
        *[("ListPodSandboxStats", pb.ListPodSandboxStatsRequest())] * 450,
        *[("ExecSync", execs)] * 100,
    ]
    async with grpc.aio.insecure_channel(node.daemon.endpoint) as channel:
        calls = [channel.unary_unary(SERVICE + n)(m.SerializeToString(), timeout=300) for n, m in wanted]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert collections.Counter(type(a) for a in answers) == {bytes: 2000}


@pytest.mark.parametrize("kind", ["silent", "preface only", "one call each"])
def test_thousands_of_connections(node: Node, bystander: Bystander, kind: str) -> None:
    preface = {
        "silent": b"",
        "preface only": PREFACE,
        "one call each": PREFACE + settings() + call(1, SERVICE + "Version"),
    }[kind]
    clients = [connected(node, preface=preface) for _ in range(2000)]
    try:
        others_are_served(node, bystander)
        if kind == "one call each":
            assert all(client.recv(9) for client in clients)
    finally:
        for client in clients:
            client.close()


def test_calls_that_never_come_to_an_end(node: Node, bystander: Bystander) -> None:
    """Half-open streams, and messages that announce megabytes and stop."""
    open_calls = b"".join(begin(1 + 2 * n, SERVICE + "ListContainers") for n in range(1000))
    announced = b"\0" + struct.pack(">I", 15 << 20) + bytes(16_000)
    large = b"".join(
        begin(1 + 2 * n, SERVICE + "ListContainers") + frame(DATA, 0, 1 + 2 * n, announced) for n in range(20)
    )
    clients = [connected(node) for _ in range(20)]
    for client in clients[:10]:
        client.sendall(open_calls)
    for client in clients[10:]:
        client.sendall(large)
    others_are_served(node, bystander)
    for client in clients:
        client.close()


FLOODS: dict[str, Callable[[], bytes]] = {
    "pings": lambda: frame(PING, 0, 0, bytes(8)) * 100,
    "settings": lambda: frame(SETTINGS, 0, 0) * 100,
    "headers": lambda: frame(CONTINUATION, 0, 1, header(b"a" * 60, b"b" * 60) * 100),
    "garbage": lambda: os.urandom(10_000),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_frames_ends_its_connection(node: Node, bystander: Bystander, kind: str) -> None:
    client = connected(node)
    if kind == "headers":
        client.sendall(begin(1, SERVICE + "ListContainers", flags=0))
    assert until_cut_off(client, FLOODS[kind](), 64 << 20) < 8 << 20
    others_are_served(node, bystander)
    client.close()


def test_rapid_resets(node: Node, bystander: Bystander) -> None:
    """Calls that are cancelled as soon as they are made (CVE-2023-44487): each costs its own making at most."""
    client, stream = connected(node), 1
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # libnghttp2 of some distributions has a limit
        for _ in range(100):
            ids = range(stream, stream + 200, 2)
            client.sendall(
                b"".join(call(n, SERVICE + "Status") + frame(RESET, 0, n, struct.pack(">I", 8)) for n in ids)
            )
            stream += 200
    others_are_served(node, bystander)
    client.close()
    client, execs = connected(node), pb.ExecSyncRequest(container_id=bystander.container, cmd=["sleep", "7"])
    for stream in range(1, 61, 2):
        client.sendall(call(stream, SERVICE + "ExecSync", execs.SerializeToString()))
    for stream in range(1, 61, 2):
        client.sendall(frame(RESET, 0, stream, struct.pack(">I", 8)))
    eventually(lambda: not [line for line in node.isolation.processes().values() if line == "sleep 7"])
    client.close()


def test_answers_that_nobody_reads(node: Node, bystander: Bystander) -> None:
    """A window of nothing, a thousand answers, a hundred listeners to events."""
    client = connected(node, preface=PREFACE + settings(window=0))
    client.sendall(b"".join(call(1 + 2 * n, SERVICE + "ListPodSandboxMetrics") for n in range(1000)))
    listeners = connected(node, preface=PREFACE + settings(window=0))
    listeners.sendall(b"".join(call(1 + 2 * n, SERVICE + "GetContainerEvents") for n in range(100)))
    others_are_served(node, bystander)
    pod = node.pod()
    for _ in range(3):
        assert node.run(pod, "true") == (0, "")
    node.remove_pod(pod)
    client.close()
    listeners.close()
