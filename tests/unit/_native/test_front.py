from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import pathlib
import select
import socket
from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest

from pycrio._native.base import NativeError, live_handles
from pycrio._native.calls import Call, CallServer, Limits
from pycrio._native.front import Front, take


def listener(path: pathlib.Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(64)
    return sock


@pytest.fixture
def crio(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    if not request.node.get_closest_marker("asyncio"):  # grpc keeps descriptors of its own for the whole process
        request.getfixturevalue("no_leaks")
    with listener(tmp_path / "crio.sock") as sock:
        yield sock


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much HTTP/1.1 as these tests need: the body is the request line."""
    line = (await reader.readuntil(b"\r\n\r\n")).splitlines()[0]
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@contextlib.asynccontextmanager
async def served(crio: socket.socket, tmp_path: pathlib.Path) -> AsyncIterator[Front]:
    """The front before calls that echo and a small HTTP server."""

    async def echo(request: bytes, _: Call) -> bytes:
        return request

    async def count(request: bytes, call: Call) -> None:
        for i in range(int(request)):
            await call.write(str(i).encode())

    calls = CallServer({b"/t/Echo": echo, b"/t/Count": count}, Limits(64 << 20, 64 << 20))
    handover = calls.start()
    http = await asyncio.start_unix_server(hello, tmp_path / "http.sock")
    try:
        with Front(crio.fileno(), handover, str(tmp_path / "http.sock")) as front:
            yield front
    finally:
        http.close()
        await http.wait_closed()
        await calls.stop(0)


def channel(tmp_path: pathlib.Path) -> grpc.aio.Channel:
    limits = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(f"unix:{tmp_path}/crio.sock", options=limits)


async def get(tmp_path: pathlib.Path, path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(tmp_path / "crio.sock")
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_grpc_and_http_on_one_socket(crio: socket.socket, tmp_path: pathlib.Path) -> None:
    async with served(crio, tmp_path) as front:
        async with channel(tmp_path) as one, channel(tmp_path) as two:
            assert await one.unary_unary("/t/Echo", None, None)(b"small") == b"small"
            big = os.urandom(20 << 20)
            assert await two.unary_unary("/t/Echo", None, None)(big) == big
            assert (await get(tmp_path, "/info")).endswith(b"GET /info HTTP/1.1")
            assert len([part async for part in one.unary_stream("/t/Count", None, None)(b"500")]) == 500
            answers = await asyncio.gather(*(two.unary_unary("/t/Echo", None, None)(b"%d" % i) for i in range(200)))
            assert answers == [b"%d" % i for i in range(200)]
        stats = front.stats()
        assert (stats["accepted"], stats["grpc"], stats["http"], stats["rejected"]) == (3, 2, 1, 0)


async def test_an_open_connection_survives_draining_and_the_front(crio: socket.socket, tmp_path: pathlib.Path) -> None:
    async with served(crio, tmp_path) as front, channel(tmp_path) as open_channel:
        echo = open_channel.unary_unary("/t/Echo", None, None)
        assert await echo(b"before") == b"before"
        front.drain()
        assert await echo(b"after") == b"after"
        front.stop()
        assert await echo(b"stopped") == b"stopped"


def test_taking_over(crio: socket.socket) -> None:
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert take(read) is None
        with Front(crio.fileno(), write, "@none"), socket.socket(socket.AF_UNIX) as client:
            client.connect(crio.getsockname())
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            select.select([read], [], [])
            handed = take(read)
            assert handed is not None
            with socket.socket(fileno=handed[0]) as server:
                assert handed[1] + server.recv(100) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    finally:
        os.close(write)
    with pytest.raises(OSError, match="taken over") as caught:
        take(read)
    assert caught.value.errno == errno.EPIPE
    os.close(read)
    with pytest.raises(OSError, match="taken over") as caught:
        take(read)
    assert caught.value.errno == errno.EBADF


def test_silent_client_is_closed(crio: socket.socket, tmp_path: pathlib.Path) -> None:
    with Front(crio.fileno(), -1, "@none", header_timeout_ms=20) as front:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(crio.getsockname())
            assert client.recv(1) == b""
        assert front.stats()["rejected"] == 1


def test_a_slow_client_does_not_hold_up_another(crio: socket.socket, tmp_path: pathlib.Path) -> None:
    with listener(tmp_path / "http.sock") as http, Front(crio.fileno(), -1, tmp_path / "http.sock"):
        with socket.socket(socket.AF_UNIX) as slow, socket.socket(socket.AF_UNIX) as quick:
            slow.connect(crio.getsockname())
            slow.send(b"PRI")
            quick.connect(crio.getsockname())
            quick.send(b"GET")
            server, _ = http.accept()
            with server:
                assert server.recv(3) == b"GET"


def test_listener_stays_the_callers(crio: socket.socket) -> None:
    front = Front(crio.fileno(), -1, "@b")
    front.start()
    front.stop()
    assert crio.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_stages_out_of_order(crio: socket.socket) -> None:
    front = Front(crio.fileno(), -1, "@b")
    front.start()
    with pytest.raises(NativeError) as caught:
        front.start()
    assert caught.value.errno == errno.EALREADY
    front.stop()
    front.stop()
    front.drain()
    assert front.stats()["active"] == 0
    with pytest.raises(ValueError, match="stopped"):
        front.start()


def test_bad_arguments(crio: socket.socket) -> None:
    for code, target in ((errno.ENAMETOOLONG, "x" * 200), (errno.EINVAL, "")):
        with pytest.raises(NativeError) as caught:
            Front(crio.fileno(), -1, target)
        assert caught.value.errno == code
    with pytest.raises(ValueError, match="NUL"):
        Front(crio.fileno(), -1, "a\0b")
    with pytest.raises(NativeError) as caught, socket.socket(socket.AF_UNIX) as plain:
        Front(plain.fileno(), -1, "@b")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(NativeError) as caught:
        Front(crio.fileno(), -1, "@b", max_connections=0)
    assert caught.value.errno == errno.EINVAL


def test_collected_while_running_warns_and_stops(crio: socket.socket) -> None:
    front = Front(crio.fileno(), -1, "@b")
    front.start()
    assert live_handles()["Front"] == 1
    with pytest.warns(ResourceWarning, match="collected while running"):
        del front
    gc.collect()
    assert "Front" not in live_handles()


def comm(task: pathlib.Path) -> str:
    try:
        return (task / "comm").read_text()
    except FileNotFoundError:  # another thread of the test process has just ended
        return ""


def test_signals_stay_with_the_program(crio: socket.socket) -> None:
    with Front(crio.fileno(), -1, "@b"), socket.socket(socket.AF_UNIX) as client:
        client.connect(crio.getsockname())
        client.send(b"GET")
        assert client.recv(1) == b""  # so the thread is up and has its name
        tasks = [task for task in pathlib.Path("/proc/self/task").iterdir() if comm(task) == "pycrio-front\n"]
        assert len(tasks) == 1
        status = dict(line.split(":\t", 1) for line in (tasks[0] / "status").read_text().splitlines())
        assert int(status["SigBlk"], 16) & (1 << 14)  # SIGTERM, for one
