"""What a session holds (receive buffers, zlib windows) is freed when it ends, not at some later collection."""

from __future__ import annotations

import asyncio
import gc
import pathlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from pycrio.api.streaming.link import Connection, Inbox
from pycrio.api.streaming.spdy_channels import Gathering
from pycrio.api.streaming.spdy_session import Session
from pycrio.api.streaming.websocket import WebSocket
from tests import streams
from tests.unit.api.streaming.conftest import MakeRig, Rig
from tests.unit.api.streaming.test_attach import monitor
from tests.unit.api.streaming.test_forward import PROTOCOL, echo, listening, pair
from tests.unit.api.streaming.test_server import Authority

OURS = (Connection, Inbox, Gathering, Session, WebSocket)


@pytest.fixture
def _uncollected() -> Iterator[None]:
    """No collection by the way."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def nothing_held(rig: Rig) -> None:
    """Every session has ended, and with it every object of ours."""
    while rig.sessions:
        await asyncio.wait(rig.server._clients)
    await asyncio.sleep(0)  # the last task's own end
    held = [type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, OURS)]
    assert not held, held


async def command(rig: Rig) -> None:
    assert (await streams.run(await rig.exec("cat", stdin=True), b"some input")).stdout == b"some input"


async def command_over_websocket(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("echo", "hi"), "v5.channel.k8s.io") as client:
        assert await client.read_all(1) == b"hi\n"


async def client_that_leaves(rig: Rig) -> None:
    async with streams.command(await rig.exec("sleep", "1000")) as session:
        await session.client.ping()


async def client_that_resets(rig: Rig) -> None:
    """With output on its way, so that writing fails."""
    async with streams.command(await rig.exec("cat", "/dev/zero")) as session:
        session.client.reading.clear()
        session.client.wire.writer.transport.abort()


async def websocket_that_resets(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("cat", "/dev/zero"), "v4.channel.k8s.io") as client:
        client.reading.clear()
        client.wire.writer.transport.abort()


async def client_that_breaks_the_protocol(rig: Rig) -> None:
    async with streams.spdy_client(await rig.exec("sleep", "1000")) as client:
        await client.stream(streamType="error")
        await client.send_raw(b"\x80\x02" + bytes(30))
        await client.ended.wait()


async def attachment(rig: Rig) -> None:
    async with streams.command(await rig.attach(stdin=True), stdin=True) as session:
        (await monitor(rig, len(rig.monitors.attached) - 1)).close()
        await session.outcome()


async def forward(rig: Rig) -> None:
    async with listening(echo) as port, streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:
        _, data = await pair(client, port, "0")
        await data.write(b"word", fin=True)
        assert await data.read_all() == b"word<end>"
        await client.stream(streamType="error", port=str(port), requestID="single")


async def forward_over_websocket(rig: Rig) -> None:
    async with listening(echo) as port:
        async with streams.websocket_client(await rig.forward(port), "v4.channel.k8s.io") as client:
            await client.send(0, b"word")
            assert await client.read(0) == port.to_bytes(2, "little")
            assert await client.read(0) == b"word"
        async with streams.websocket_client(await rig.forward(port), f"SPDY/3.1+{PROTOCOL}") as socket:
            inner = streams.Spdy(streams.Tunnelled(socket))
            _, data = await pair(inner, port, "0")
            await data.write(b"word", fin=True)
            assert await data.read_all() == b"word<end>"
            await inner.close()


SESSIONS = (command, command_over_websocket, client_that_leaves, client_that_resets, websocket_that_resets)
SESSIONS += (client_that_breaks_the_protocol, attachment, forward, forward_over_websocket)


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("session", SESSIONS)
async def test_session_frees_what_it_held(rig: Rig, session: Callable[[Rig], Awaitable[None]]) -> None:
    for _ in range(3):
        await session(rig)
    await nothing_held(rig)


@pytest.mark.usefixtures("_uncollected")
async def test_tls_session_frees_what_it_held(make_rig: MakeRig, tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    async with make_rig(tls=True, cert=authority.cert, key=authority.key) as rig:
        for _ in range(3):
            assert (await streams.run(await rig.exec("true"), tls=authority.client())).code == 0
        await nothing_held(rig)
