"""Attach: the monitor's packets, input and its end, detach keys, sizes, several clients, clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.errors import InvalidRequest
from pycrio.flows.containers.attach import DETACH, DetachKeys
from tests import streams
from tests.unit.api.streaming.conftest import CONTAINER, Rig

TTY = "e" * 64


async def monitor(rig: Rig, index: int = 0) -> socket.socket:
    """The monitor's end of a client's connection, once it is there."""
    while len(rig.monitors.attached) <= index:
        rig.monitors.more.clear()
        await rig.monitors.more.wait()
    return rig.monitors.attached[index]


async def packet(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 1 << 16)


async def test_output_until_the_process_ends(rig: Rig) -> None:
    async with streams.command(await rig.attach()) as session:
        sock = await monitor(rig)
        for data in (b"\2out1 ", b"\3err", b"\7unknown", b"\2", b"\2out2"):
            sock.send(data)
        sock.close()
        done = await session.outcome()
        assert (done.stdout, done.stderr, done.code) == (b"out1 out2", b"err", 0)


async def test_output_that_ends_before_the_process(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor gives up clients that do not keep up with the output."""
    monkeypatch.setattr(rig.node.host.processes, "alive", lambda pid, start_time: True)
    async with streams.command(await rig.attach()) as session:
        sock = await monitor(rig)
        sock.send(b"\2out")
        sock.close()
        done = await session.outcome()
        assert done.stdout == b"out"
        assert "still runs" in done.status["message"]


async def test_packets_of_both_streams_stay_in_order(rig: Rig) -> None:
    async with streams.command(await rig.attach()) as session:
        sock = await monitor(rig)
        for number in range(2000):
            await asyncio.get_running_loop().sock_sendall(sock, b"\2%d " % number)
            if number % 7 == 0:
                await asyncio.get_running_loop().sock_sendall(sock, b"\3%d " % number)
        sock.close()
        done = await session.outcome()
        assert done.stdout == b"".join(b"%d " % n for n in range(2000))
        assert done.stderr == b"".join(b"%d " % n for n in range(0, 2000, 7))


async def test_input_in_packets_and_its_end(rig: Rig) -> None:
    async with streams.command(await rig.attach(stdin=True), stdin=True) as session:
        sock = await monitor(rig)
        assert session.stdin is not None
        await session.stdin.write(b"x" * 20_000, fin=True)
        got = []
        while data := await packet(sock):
            got.append(data)
        assert b"".join(got) == b"x" * 20_000
        assert max(map(len, got)) <= 8192
        sock.send(b"\2answer")
        sock.close()
        assert (await session.outcome()).stdout == b"answer"


async def test_input_is_slowed_down_by_the_process(rig: Rig) -> None:
    data = b"0123456789" * 500_000
    async with streams.command(await rig.attach(stdin=True), stdin=True) as session:
        sock = await monitor(rig)
        assert session.stdin is not None
        writing = asyncio.ensure_future(session.stdin.write(data, fin=True))
        got = []
        while part := await packet(sock):
            got.append(part)
        await writing
        assert b"".join(got) == data
        sock.close()
        assert (await session.outcome()).code == 0


async def test_client_with_input_alone_ends_with_it(rig: Rig) -> None:
    url = await rig.attach(stdin=True, stdout=False, stderr=False)
    async with streams.command(url, stdin=True, stdout=False, stderr=False) as session:
        assert (await session.outcome(b"input")).code == 0
    sock = await monitor(rig)
    assert await packet(sock) == b"input"
    assert await packet(sock) == b""


async def test_input_of_a_client_that_has_left_still_arrives(rig: Rig) -> None:
    async with streams.command(await rig.attach(stdin=True), stdin=True) as session:
        sock = await monitor(rig)
        assert session.stdin is not None
        await session.stdin.write(b"x" * 1_000_000, fin=True)
    got = 0
    while data := await packet(sock):
        got += len(data)
    assert got == 1_000_000


async def test_detach_keys(rig: Rig) -> None:
    rig.add(TTY, tty=True)
    async with streams.command(await rig.attach(TTY, stdin=True, tty=True), stdin=True, tty=True) as session:
        sock = await monitor(rig)
        assert session.stdin is not None
        await session.stdin.write(b"typed\x10")
        assert await packet(sock) == b"typed"
        await session.stdin.write(b"\x11lost")
        assert json.loads(await session.error.read_all())["status"] == "Success"
        assert await packet(sock) == b""


async def test_bytes_of_the_detach_keys_are_data_without_a_terminal(rig: Rig) -> None:
    async with streams.command(await rig.attach(stdin=True), stdin=True) as session:
        sock = await monitor(rig)
        assert session.stdin is not None
        await session.stdin.write(b"a" + DETACH + b"b")
        assert await packet(sock) == b"a" + DETACH + b"b"


async def test_half_of_the_keys_at_the_end_is_data(rig: Rig) -> None:
    rig.add(TTY, tty=True)
    async with streams.command(await rig.attach(TTY, stdin=True, tty=True), stdin=True, tty=True) as session:
        sock = await monitor(rig)
        assert session.stdin is not None
        await session.stdin.write(b"\x10", fin=True)
        assert await packet(sock) == b"\x10"


@given(st.lists(st.binary(max_size=6).map(lambda b: bytes(0x10 + c % 3 for c in b)), max_size=8))
def test_detach_keys_in_any_pieces(chunks: list[bytes]) -> None:
    keys, passed, found = DetachKeys(), b"", False
    for chunk in chunks:
        out, found = keys.filter(chunk)
        passed += out
        if found:
            break
    if not found:
        passed += keys.rest()
    before, keys_typed, _ = b"".join(chunks).partition(DETACH)
    assert (passed, found) == (before, bool(keys_typed))


async def test_sizes(rig: Rig) -> None:
    rig.add(TTY, tty=True)
    async with streams.command(await rig.attach(TTY, tty=True), tty=True) as session:
        assert session.resize is not None
        await session.resize.write(b'{"Width":80,"Height":25}{"Width":0,"Height":9}["no"]{"Width":132,"Height":50}')
        assert [await rig.monitors.sizes.get(), await rig.monitors.sizes.get()] == [(80, 25), (132, 50)]
        await session.resize.write(b"no json " * 1000)
        sock = await monitor(rig)
        sock.send(b"\2still here")
        assert session.stdout is not None
        assert await session.stdout.read() == b"still here"


async def test_several_clients(rig: Rig) -> None:
    async with streams.command(await rig.attach()) as one, streams.command(await rig.attach()) as two:
        first = await monitor(rig)
        second = await monitor(rig, 1)
        first.send(b"\2to one")
        second.send(b"\2to two")
        assert one.stdout is not None
        assert two.stdout is not None
        assert (await one.stdout.read(), await two.stdout.read()) == (b"to one", b"to two")
        first.close()
        await one.outcome()
        second.send(b"\2more")
        assert await two.stdout.read() == b"more"


async def test_client_that_leaves_is_detached(rig: Rig) -> None:
    async with streams.command(await rig.attach()):
        sock = await monitor(rig)
    assert await packet(sock) == b""


async def test_the_terminal_must_be_the_containers(rig: Rig) -> None:
    rig.add(TTY, tty=True)
    with pytest.raises(InvalidRequest, match="attach without tty"):
        await rig.attach(CONTAINER, tty=True)
    with pytest.raises(InvalidRequest, match="attach with tty"):
        await rig.attach(TTY)
