"""Exec, attach and port-forward against a real daemon, runtime and network, by clients of our own."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import pathlib
import signal
import urllib.parse
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests import streams
from tests.system.node import Node, eventually, linux, refused

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode
FORWARD = "portforward.k8s.io"


def exec_url(node: Node, ident: str, *argv: str, stdin: bool = False, tty: bool = False) -> str:
    request = pb.ExecRequest(container_id=ident, cmd=argv, stdin=stdin, tty=tty, stdout=True, stderr=not tty)
    return str(node.cri.Exec(request).url)


def attach_url(node: Node, ident: str, stdin: bool = False, tty: bool = False) -> str:
    request = pb.AttachRequest(container_id=ident, stdin=stdin, tty=tty, stdout=True, stderr=not tty)
    return str(node.cri.Attach(request).url)


def forward_url(node: Node, pod: str, *ports: int) -> str:
    return str(node.cri.PortForward(pod_sandbox_id=pod, port=ports).url)


@pytest.fixture
def box(node: Node) -> str:
    """A container that waits, to run commands in."""
    return node.start(node.pod(), "sleep", "1000")


def fds(node: Node) -> collections.Counter[str]:
    """What the daemon has open, by kind."""
    found: collections.Counter[str] = collections.Counter()
    for name in os.listdir(f"/proc/{node.pid}/fd"):
        try:
            found[os.readlink(f"/proc/{node.pid}/fd/{name}").split(":")[0]] += 1
        except FileNotFoundError:
            continue
    return found


def processes_in(node: Node, ident: str) -> list[str]:
    """Command lines of what runs in a container's pid namespace."""
    namespace = os.readlink(f"/proc/{node.pid_of(ident)}/ns/pid")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = pathlib.Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            if words and os.readlink(f"/proc/{name}/ns/pid") == namespace:  # zombies have no words
                found.append(words)
        except OSError:
            continue
    return found


# --- exec -------------------------------------------------------------------------------------------------------------


async def test_exec(node: Node, box: str) -> None:
    done = await streams.run(exec_url(node, box, "sh", "-c", "echo out; echo err >&2; exit 42"))
    assert (done.stdout, done.stderr, done.code) == (b"out\n", b"err\n", 42)


async def test_exec_over_websocket(node: Node, box: str) -> None:
    url = exec_url(node, box, "sh", "-c", "cat; exit 5", stdin=True)
    async with streams.websocket_client(url, "v5.channel.k8s.io") as client:
        await client.send(0, b"typed")
        await client.send(255, b"\0")
        assert await client.read_all(1) == b"typed"
        assert json.loads(await client.read_all(3))["details"]["causes"][0]["message"] == "5"


async def test_large_transfer_both_ways(node: Node, box: str) -> None:
    data = os.urandom(20_000_000)
    done = await streams.run(exec_url(node, box, "cat", stdin=True), data)
    assert done.stdout == data
    assert done.code == 0


async def test_terminal(node: Node, box: str) -> None:
    url = exec_url(node, box, "sh", "-c", "stty -echo; tty; read x; stty size; echo got $x", stdin=True, tty=True)
    async with streams.command(url, stdin=True, tty=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        assert session.resize is not None
        assert (await session.stdout.read()).startswith(b"/dev/")
        await session.resize.write(b'{"Width":111,"Height":44}')
        # the size goes by a signal to the runtime and on to the inner terminal: nobody tells when it is there
        pid = next(p for p in _children_named(b"read x"))
        eventually(lambda: _size(pid) == (44, 111))
        await session.stdin.write(b"line\n")
        done = await session.outcome()
        assert done.stdout == b"44 111\r\ngot line\r\n"
        assert done.code == 0


def _children_named(text: bytes) -> list[int]:
    """Processes whose arguments contain a text and whose input is a terminal of their own."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = pathlib.Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if words[0] == b"sh" and any(text in word for word in words):
                found.append(int(name))
        except OSError:
            continue
    return found


def _size(pid: int) -> tuple[int, int]:
    fd = os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY)
    try:
        size = os.get_terminal_size(fd)
    finally:
        os.close(fd)
    return size.lines, size.columns


async def test_size_that_comes_before_the_command(node: Node, box: str) -> None:
    url = exec_url(
        node, box, "sh", "-c", "until [ \"$(stty size 2>/dev/null)\" = '43 112' ]; do :; done; echo seen", tty=True
    )
    async with streams.command(url, tty=True) as session:
        assert session.resize is not None
        await session.resize.write(b'{"Width":112,"Height":43}')
        assert (await session.outcome()).stdout == b"seen\r\n"


async def test_command_that_does_not_exist(node: Node, box: str) -> None:
    done = await streams.run(exec_url(node, box, "/no/such/program"))
    assert done.code != 0
    assert b"no such file" in done.stderr.lower()


@pytest.mark.parametrize("tty", [False, True])
async def test_client_that_leaves_takes_the_whole_tree_along(node: Node, box: str, tty: bool) -> None:
    script = (
        "(setsid sleep 2000 >/dev/null 2>&1 </dev/null &); sleep 2001 & sh -c 'sleep 2002; true' & echo ready; wait"
    )
    async with streams.command(exec_url(node, box, "sh", "-c", script, tty=tty), tty=tty) as session:
        assert session.stdout is not None
        assert await session.stdout.read() == (b"ready\r\n" if tty else b"ready\n")
        assert any("2002" in line for line in processes_in(node, box))
    eventually(lambda: processes_in(node, box) == ["sleep 1000"])


async def test_client_that_leaves_while_the_command_starts(node: Node, box: str) -> None:
    for delay in (0.0, 0.005, 0.01, 0.02, 0.03, 0.04):
        async with streams.command(exec_url(node, box, "sleep", "2003")):
            await asyncio.sleep(delay)
    eventually(lambda: processes_in(node, box) == ["sleep 1000"])


async def test_container_that_is_stopped_ends_its_sessions(node: Node, box: str) -> None:
    async with streams.command(exec_url(node, box, "sh", "-c", "echo ready; sleep 1000")) as session:
        assert session.stdout is not None
        assert await session.stdout.read() == b"ready\n"
        await asyncio.to_thread(node.cri.StopContainer, container_id=box, timeout=0)
        assert (await session.outcome()).code == 128 + signal.SIGKILL
    late = await streams.run(exec_url(node, box, "true"))
    assert late.status["status"] == "Failure"
    assert "not created or running" in late.status["message"]


async def test_refusals(node: Node, box: str) -> None:
    with refused(Code.NOT_FOUND, "nobody"):
        node.cri.Exec(container_id="nobody", cmd=["true"], stdout=True)
    with refused(Code.NOT_FOUND, "nobody"):
        node.cri.Attach(container_id="nobody", stdout=True)
    with refused(Code.INVALID_ARGUMENT):
        node.cri.Exec(container_id=box, cmd=["true"])
    with refused(Code.INVALID_ARGUMENT):
        node.cri.Exec(container_id=box, cmd=["true"], stdout=True, stderr=True, tty=True)
    with refused(Code.INVALID_ARGUMENT):
        node.cri.Exec(container_id=box, stdout=True)
    with refused(Code.INVALID_ARGUMENT, "attach without tty"):
        node.cri.Attach(container_id=box, stdout=True, tty=True)
    url = exec_url(node, box, "true")
    assert (await streams.run(url)).code == 0
    with pytest.raises(streams.NotUpgraded) as again:
        await streams.run(url)
    assert again.value.status == 404


async def test_a_client_that_does_not_read_costs_no_memory(node: Node, box: str) -> None:
    before = _memory(node)
    async with streams.command(exec_url(node, box, "dd", "if=/dev/zero", "bs=1M", "count=2000")) as session:
        session.client.reading.clear()
        for _ in range(5):
            await asyncio.to_thread(node.exec, box, "true")
        assert _memory(node) - before < 20 << 20
        session.client.reading.set()
        assert session.stdout is not None
        got = 0
        while data := await session.stdout.read():
            got += len(data)
        assert got == 2000 << 20
        assert _memory(node) - before < 20 << 20


def _memory(node: Node) -> int:
    with open(f"/proc/{node.pid}/smaps_rollup") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))


async def test_hundreds_of_sessions_leave_nothing(node: Node, box: str) -> None:
    async def one(number: int) -> None:
        done = await streams.run(exec_url(node, box, "echo", str(number)))
        assert (done.stdout, done.code) == (f"{number}\n".encode(), 0)

    await asyncio.gather(*(one(n) for n in range(8)))
    before = fds(node)  # perhaps with connections that are just ending
    for start in range(0, 200, 8):
        await asyncio.gather(*(one(n) for n in range(start, start + 8)))
    eventually(lambda: not fds(node) - before)


# --- attach -----------------------------------------------------------------------------------------------------------


async def attached_once(node: Node) -> tuple[str, streams.Outcome]:
    """A container that ends with its one stdin, and what its client was told. True of every kind of handler."""
    ident = node.create(node.pod(), "sh", "-c", "cat; echo done; echo err >&2", stdin=True, stdin_once=True)
    async with streams.command(attach_url(node, ident, stdin=True), stdin=True) as session:
        await session.client.ping()
        node.cri.StartContainer(container_id=ident)
        done = await session.outcome(b"first\nsecond\n")
    assert done.stdout == b"first\nsecond\ndone\n"
    assert done.stderr == b"err\n"
    assert node.ended(ident).exit_code == 0
    return ident, done


async def test_attach_and_stdin_once(node: Node) -> None:
    ident, done = await attached_once(node)
    assert done.status["status"] == "Success"
    assert node.output(ident) == "first\nsecond\ndone\nerr\n"


async def test_stdin_that_stays_open(node: Node) -> None:
    ident = node.start(node.pod(), "cat", stdin=True)
    for word in (b"one\n", b"two\n"):
        async with streams.command(attach_url(node, ident, stdin=True), stdin=True) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            await session.stdin.write(word, fin=True)
            assert await session.stdout.read() == word
    assert node.status(ident).state == pb.CONTAINER_RUNNING


async def test_several_clients_see_the_same(node: Node) -> None:
    ident = node.start(node.pod(), "cat", stdin=True)
    urls = [attach_url(node, ident, stdin=n == 0) for n in range(3)]
    async with (
        streams.command(urls[0], stdin=True) as one,
        streams.command(urls[1]) as two,
        streams.websocket_client(urls[2], "v4.channel.k8s.io") as three,
    ):
        assert one.stdin is not None
        assert one.stdout is not None
        assert two.stdout is not None
        assert await three.read(1) == b""
        got = [b"", b"", b""]
        # who is attached when is the monitor's business: say it until everybody has heard
        while not all(b"hello" in text for text in got):
            await one.stdin.write(b"hello\n")
            got[0] += await one.stdout.read()
            for index, source in ((1, two.stdout.inbox), (2, three.queue(1))):
                while not source.empty():
                    got[index] += source.get_nowait()
            await two.client.ping()
            await three.ping()


async def test_terminal_of_a_container(node: Node) -> None:
    script = "stty -echo; echo ready; while read x; do [ $x = end ] && exit 4; done"
    ident = node.start(node.pod(), "sh", "-c", script, stdin=True, tty=True)
    node.wait_log(ident, "ready")
    async with streams.command(attach_url(node, ident, stdin=True, tty=True), stdin=True, tty=True) as session:
        assert session.stdin is not None
        assert session.resize is not None
        await session.resize.write(b'{"Width":123,"Height":45}')
        pid = node.pid_of(ident)
        eventually(lambda: _size(pid) == (45, 123))
        await session.stdin.write(b"\x10\x11")  # the detach keys
        assert json.loads(await session.error.read_all())["status"] == "Success"
    assert node.status(ident).state == pb.CONTAINER_RUNNING
    async with streams.command(attach_url(node, ident, stdin=True, tty=True), stdin=True, tty=True) as session:
        assert session.stdin is not None
        await session.stdin.write(b"end\n")
        assert (await session.outcome()).status["status"] == "Success"
    assert node.ended(ident).exit_code == 4


async def test_attach_to_what_has_ended(node: Node) -> None:
    ident = node.start(node.pod(), "true")
    node.ended(ident)
    done = await streams.run(attach_url(node, ident))
    assert done.status["status"] == "Failure"
    assert "not created or running" in done.status["message"]


# --- port-forward -----------------------------------------------------------------------------------------------------


async def pair(client: streams.Spdy, port: int, request: str) -> tuple[streams.Stream, streams.Stream]:
    error = await client.stream(streamType="error", port=str(port), requestID=request)
    return error, await client.stream(streamType="data", port=str(port), requestID=request)


async def fetch(client: streams.Spdy, port: int, request: str, path: str = "/") -> bytes:
    """A GET through the client's connection."""
    error, stream = await pair(client, port, request)
    await stream.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    body = await stream.read_all()
    assert await error.read_all() == b""
    await stream.close()
    return body


def web(node: Node, pod: str, address: str) -> str:
    """A web server in a pod."""
    script = f"mkdir -p /srv/w && head -c 5000000 /dev/zero >/srv/w/big && exec httpd -f -p {address} -h /srv/w"
    ident = node.start(pod, "sh", "-c", script)
    port = address.rsplit(":", 1)[1]
    host = address.rsplit(":", 1)[0].strip("[]")
    node.exec(ident, "sh", "-c", f"until nc {host} {port} </dev/null; do :; done", timeout=20)
    return ident


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "[::1]:8080"])
async def test_port_forward(node: Node, address: str) -> None:
    pod = node.pod()
    web(node, pod, address)
    async with streams.spdy_client(forward_url(node, pod, 8080), [FORWARD]) as client:
        found = await asyncio.gather(*(fetch(client, 8080, str(n), "/big") for n in range(6)))
        for body in found:
            assert body.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
            assert len(body) > 5_000_000
        error, _ = await pair(client, 8081, "closed")
        assert b"8081" in await error.read_all()
        assert b"404" in (await fetch(client, 8080, "again", "/none"))[:30]


async def test_port_forward_of_a_host_network_pod(node: Node) -> None:
    server = await asyncio.start_server(_greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pod = node.pod(linux=linux(network="NODE"))
    async with server, streams.spdy_client(forward_url(node, pod, port), [FORWARD]) as client:
        assert await fetch(client, port, "0") == b"from the host"


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"from the host")
    await writer.drain()
    writer.close()


async def test_port_forward_over_websocket(node: Node) -> None:
    pod = node.pod()
    web(node, pod, "127.0.0.1:8080")
    async with streams.websocket_client(forward_url(node, pod, 8080), "v4.channel.k8s.io") as client:
        await client.send(0, b"GET /big HTTP/1.0\r\n\r\n")
        body = await client.read_all(0)
        assert body.startswith((8080).to_bytes(2, "little") + b"HTTP/1.")
        assert len(body) > 5_000_000
    async with streams.websocket_client(forward_url(node, pod, 8080), f"SPDY/3.1+{FORWARD}") as socket:
        inner = streams.Spdy(streams.Tunnelled(socket))
        assert len(await fetch(inner, 8080, "0", "/big")) > 5_000_000
        await inner.close()


async def test_port_forward_to_pods_that_are_not_there(node: Node) -> None:
    pod = node.pod()
    node.cri.StopPodSandbox(pod_sandbox_id=pod)
    for ident, words in ((pod, b"not ready"), ("nobody", b"not found")):
        async with streams.spdy_client(forward_url(node, ident, 80), [FORWARD]) as client:
            error, _ = await pair(client, 80, "0")
            assert words in await error.read_all()


async def test_streaming_after_a_restart_of_the_daemon(node: Node, box: str) -> None:
    old: Any = exec_url(node, box, "true")
    node.daemon.kill()
    node.daemon.start()
    with pytest.raises((streams.NotUpgraded, OSError)):
        await streams.run(old)
    url = exec_url(node, box, "echo", "again")
    assert urllib.parse.urlsplit(url).hostname == "127.0.0.1"
    assert (await streams.run(url)).stdout == b"again\n"
