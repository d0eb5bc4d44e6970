"""WebSocket: sub-protocols, channels, half-close by message, base64, broken peers, back-pressure."""

from __future__ import annotations

import asyncio
import base64
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.api.streaming.websocket import WebSocketError, _Demux
from tests import streams
from tests.unit.api.streaming.conftest import Rig

BINARY = ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io", "")
TEXT = ("v4.base64.channel.k8s.io", "base64.channel.k8s.io")


def asked(protocol: str) -> tuple[str, ...]:
    return (protocol,) if protocol else ()


@pytest.mark.parametrize("protocol", [*BINARY, *TEXT])
async def test_output_and_exit_code(rig: Rig, protocol: str) -> None:
    url = await rig.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    async with streams.websocket_client(url, *asked(protocol)) as client:
        assert client.protocol == protocol
        assert await client.read(1) == b""  # the session is there
        out, err, error = await client.read_all(1), await client.read_all(2), await client.read_all(3)
        assert (out, err) == (b"out\n", b"err\n")
        assert client.closed == 1000
        if protocol.startswith(("v5", "v4")):
            assert json.loads(error)["details"]["causes"][0] == {"reason": "ExitCode", "message": "3"}
        else:
            assert error == b"command terminated with non-zero exit code: 3"


@pytest.mark.parametrize("protocol", [*BINARY, *TEXT])
async def test_input(rig: Rig, protocol: str) -> None:
    data = os.urandom(200_001)
    url = await rig.exec("head", "-c", str(len(data)), stdin=True)
    async with streams.websocket_client(url, *asked(protocol)) as client:
        await client.send(0, data[:100_000])
        await client.send(9, b"a channel that nobody knows")
        await client.send(1, b"a channel that is ours to send on")
        await client.send(0, b"")
        await client.send(0, data[100_000:])
        assert await client.read_all(1) == data


async def test_end_of_input_by_message(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("cat", stdin=True), "v5.channel.k8s.io") as client:
        await client.send(0, b"input")
        await client.send(255, b"\0")
        assert await client.read_all(1) == b"input"
        assert json.loads(await client.read_all(3))["status"] == "Success"


async def test_end_of_input_by_message_is_of_version_5(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("cat", stdin=True), "v4.channel.k8s.io") as client:
        await client.send(255, b"\0")
        await client.send(0, b"input")
        assert await client.read(1) == b""
        assert await client.read(1) == b"input"


async def test_terminal_and_size(rig: Rig) -> None:
    url = await rig.exec("sh", "-c", "stty -echo; echo ready; read x; stty size", stdin=True, tty=True)
    async with streams.websocket_client(url, "v5.channel.k8s.io") as client:
        assert await client.read(1) == b""
        assert await client.read(1) == b"ready\r\n"
        await client.send(4, b'{"Width":90,"Height":30}')
        await client.send(0, b"go\n")
        assert await client.read_all(1) == b"30 90\r\n"


async def test_the_first_message_is_on_the_first_channel_there_is(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("sleep", "9", stdout=False), "v4.channel.k8s.io") as client:
        assert await client.read(2) == b""
    url = await rig.exec("sleep", "9", stdin=True, stdout=False, stderr=False)
    async with streams.websocket_client(url, "v4.channel.k8s.io") as client:
        assert await client.read(3) == b""


async def test_pings_are_answered(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("cat", stdin=True), "v4.channel.k8s.io") as client:
        await client.ping()
        await client.send(0, b"x")
        assert await client.read(1) == b""
        assert await client.read(1) == b"x"
        assert client.pongs == 1


async def test_client_that_says_goodbye_has_its_command_killed(rig: Rig) -> None:
    from wsproto.events import CloseConnection

    async with streams.websocket_client(await rig.exec("sleep", "1000"), "v4.channel.k8s.io") as client:
        await client.read(1)
        await client._send(CloseConnection(1000))
        await client.ended.wait()
    while rig.sessions:
        await asyncio.wait(rig.server._clients)
    assert rig.runtime.running == 0


async def test_large_output_and_a_slow_client(rig: Rig) -> None:
    async with streams.websocket_client(
        await rig.exec("head", "-c", "9000000", "/dev/zero"), "v5.channel.k8s.io"
    ) as client:
        client.reading.clear()
        await client.ping()
        client.reading.set()
        assert len(await client.read_all(1)) == 9_000_000


async def test_input_that_nobody_takes_holds_the_client_up(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("sleep", "1000", stdin=True), "v5.channel.k8s.io") as client:
        sending = asyncio.ensure_future(client.send(0, b"x" * 50_000_000))
        _, still = await asyncio.wait({sending}, timeout=0.5)
        assert still
        sending.cancel()
        client.wire.writer.transport.abort()


@pytest.mark.parametrize("protocol", ["v9.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"])
async def test_unknown_protocol(rig: Rig, protocol: str) -> None:
    with pytest.raises(streams.NotUpgraded) as refused:
        async with streams.websocket_client(await rig.exec("true"), protocol):
            pass
    assert refused.value.status == 403


async def test_the_clients_first_protocol_that_is_served_counts(rig: Rig) -> None:
    url = await rig.exec("sleep", "9")
    async with streams.websocket_client(url, "v9.channel.k8s.io", "v4.channel.k8s.io", "v5.channel.k8s.io") as client:
        assert client.protocol == "v4.channel.k8s.io"


async def test_malformed_handshake(rig: Rig) -> None:
    headers = [("Connection", "upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    with pytest.raises(streams.NotUpgraded) as refused:
        await streams.ask(await rig.exec("true"), headers, "GET")
    assert refused.value.status == 400
    with pytest.raises(streams.NotUpgraded) as refused:
        await streams.ask(await rig.exec("true"), headers, "POST")
    assert refused.value.status == 405


@pytest.mark.parametrize("message", ["0!!!!", "0YQ", "\x01YQ=="])
async def test_text_that_is_no_base64(rig: Rig, message: str) -> None:
    from wsproto.events import TextMessage

    async with streams.websocket_client(await rig.exec("cat", stdin=True), TEXT[0]) as client:
        await client._send(TextMessage(message))
        await client.ended.wait()
        assert client.closed == 1002


async def test_broken_framing(rig: Rig) -> None:
    async with streams.websocket_client(await rig.exec("cat", stdin=True), "v4.channel.k8s.io") as client:
        client.wire.writer.write(b"\xff" * 64)
        await client.ended.wait()
    while rig.sessions:
        await asyncio.wait(rig.server._clients)


@given(st.integers(0, 9), st.binary(max_size=50), st.lists(st.integers(0, 100), max_size=5), st.booleans())
@settings(deadline=None)
def test_messages_in_any_pieces(channel: int, data: bytes, cuts: list[int], text: bool) -> None:
    whole = f"{channel}{base64.b64encode(data).decode()}".encode() if text else bytes([channel]) + data
    demux = _Demux(text)
    for _ in range(2):
        places = sorted(cut % (len(whole) + 1) for cut in cuts)
        got = []
        for start, end in zip([0, *places], [*places, len(whole)], strict=True):
            got += demux.feed(whole[start:end], end == len(whole) and start == ([0, *places])[-1])
        assert {number for number, _ in got} == {channel}
        assert b"".join(piece for _, piece in got) == data


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), max_size=8), st.booleans())
def test_garbage_is_pieces_or_a_fault(messages: list[tuple[bytes, bool]], text: bool) -> None:
    demux = _Demux(text)
    try:
        for data, finished in messages:
            for channel, piece in demux.feed(data, finished):
                assert channel >= 0
                assert isinstance(piece, bytes)
    except WebSocketError:
        return
