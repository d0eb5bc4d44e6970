"""Talking to the service manager, over real sockets."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
from collections.abc import Iterator

import pytest

from pycrio.api import sockets
from pycrio.errors import StoreFailure
from pycrio.flows.node import status
from pycrio.flows.node_state import Node
from pycrio.lifecycle.notify import Manager
from tests.fakes.node import fake_node


@pytest.fixture
def listener(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        yield sock


def heard(listener: socket.socket) -> str:
    return listener.recv(4096).decode()


def test_what_the_manager_said_reaches_no_child() -> None:
    """runc, started with NOTIFY_SOCKET, binds a socket in a directory that only a create with it would have made."""
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
    environ |= {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x"}
    assert Manager.take(environ) == Manager("/n", 60.0)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("environ", "period"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "60000000"}, 30),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "much"}, 0),
        ({"WATCHDOG_USEC": "900000"}, 0),
    ],
)
def test_pings_come_twice_as_often_as_asked(environ: dict[str, str], period: float) -> None:
    assert Manager.take(dict(environ)).watchdog_period() == period


def test_the_life_of_a_service_is_told(listener: socket.socket) -> None:
    manager = Manager(listener.getsockname())
    manager.ready()
    assert heard(listener) == "READY=1\nSTATUS=Serving"
    manager.reloading()
    first, second = heard(listener).split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
    manager.stopping()
    assert heard(listener) == "STOPPING=1"


def test_an_abstract_socket_is_reached() -> None:
    name = f"pycrio-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        Manager("@" + name).stopping()
        assert sock.recv(100) == b"STOPPING=1"


def test_nobody_listening_is_no_failure(tmp_path: pathlib.Path) -> None:
    Manager().ready()
    Manager(str(tmp_path / "absent")).ready()


async def reached() -> None:
    """A client of a daemon that is well."""


async def test_a_daemon_that_clients_do_not_reach_gives_no_sign_of_life(
    listener: socket.socket, tmp_path: pathlib.Path
) -> None:
    """Nobody listens, something else answers, then all is well: of three looks the last is told."""
    listener.setblocking(False)
    manager, path, asked = Manager(listener.getsockname(), 1.002), str(tmp_path / "crio.sock"), 0
    answers = [b"", b"HTTP/1.1 500 Oops\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        assert await reader.readline() == b"GET /info HTTP/1.0\r\n"
        asked += 1
        writer.write(answers[asked])
        writer.close()

    async def ask() -> None:
        try:
            await sockets.reach(path)
        except FileNotFoundError:
            servers.append(await asyncio.start_unix_server(serve, path))
            raise

    servers: list[asyncio.AbstractServer] = []
    async with fake_node(str(tmp_path / "state")) as (node, _):
        feeding = asyncio.ensure_future(manager.watchdog(node, ask))
        assert await asyncio.get_running_loop().sock_recv(listener, 100) == b"WATCHDOG=1"
        assert (asked, feeding.done()) == (2, False)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        servers[0].close()


async def test_a_failed_health_check_is_no_sign_of_life(
    listener: socket.socket, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status that hangs, one that fails, then a good one: of three looks the last is told."""
    listener.setblocking(False)
    manager, looks = Manager(listener.getsockname(), 1.002), 0
    good = status.status

    async def bad(node: Node, verbose: bool) -> object:
        nonlocal looks
        looks += 1
        if looks == 1:
            await asyncio.Event().wait()
        if looks == 2:
            raise StoreFailure("the disk is gone")
        return await good(node, verbose)

    monkeypatch.setattr(status, "status", bad)
    async with fake_node(str(tmp_path / "state")) as (node, _):
        feeding = asyncio.ensure_future(manager.watchdog(node, reached))
        assert await asyncio.get_running_loop().sock_recv(listener, 100) == b"WATCHDOG=1"
        assert (looks, feeding.done()) == (3, False)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def test_the_watchdog_is_fed_while_the_node_is_ready(listener: socket.socket, tmp_path: pathlib.Path) -> None:
    listener.setblocking(False)
    manager = Manager(listener.getsockname(), 1.002)
    async with fake_node(str(tmp_path / "state")) as (node, _):
        feeding = asyncio.ensure_future(manager.watchdog(node, reached))
        assert await asyncio.get_running_loop().sock_recv(listener, 100) == b"WATCHDOG=1"
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
