"""Port-forward: pairs of streams, several at once, refusals, half-close, resets; over WebSocket and in a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pycrio.api.streaming import spdy
from tests import streams
from tests.fixtures_registry import free_port
from tests.unit.api.streaming.conftest import Rig

PROTOCOL = "portforward.k8s.io"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    """A TCP server in the "pod"; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"<end>")


async def pair(client: streams.Spdy, port: int, request: str) -> tuple[streams.Stream, streams.Stream]:
    error = await client.stream(streamType="error", port=str(port), requestID=request)
    return error, await client.stream(streamType="data", port=str(port), requestID=request)


async def test_bytes_both_ways_and_half_close(rig: Rig) -> None:
    data = os.urandom(3_000_000)
    async with listening(echo) as port, streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:
        assert client.protocol == PROTOCOL
        error, stream = await pair(client, port, "0")
        writing = asyncio.ensure_future(stream.write(data, fin=True))
        assert await stream.read_all() == data + b"<end>"
        assert await error.read_all() == b""
        await writing
        assert rig.namespaces.asked == [("/run/netns/web", port)]


async def test_many_connections_at_once(rig: Rig) -> None:
    async with listening(echo) as port, streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:

        async def one(number: int) -> None:
            error, stream = await pair(client, port, str(number))
            await stream.write(f"{number}".encode(), fin=True)
            assert await stream.read_all() == f"{number}<end>".encode()
            assert await error.read_all() == b""
            await error.close()

        for start in range(0, 300, 50):
            await asyncio.gather(*(one(n) for n in range(start, start + 50)))
        await client.ping()


async def test_a_connection_that_is_not_taken_does_not_hold_up_the_others(rig: Rig) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with listening(echo) as port, listening(deaf) as silent:
        async with streams.spdy_client(await rig.forward(), [PROTOCOL], honest=True) as client:
            _, stuck = await pair(client, silent, "0")
            writing = asyncio.ensure_future(stuck.write(b"x" * 30_000_000))
            _, stream = await pair(client, port, "1")
            await stream.write(b"through", fin=True)
            assert await stream.read_all() == b"through<end>"
            assert not writing.done()
            writing.cancel()


async def test_nobody_listens(rig: Rig) -> None:
    port = free_port()
    async with streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:
        error, stream = await pair(client, port, "0")
        assert f"error forwarding port {port}".encode() in await error.read_all()
        assert await stream.read_all() == b""
        await stream.write(b"late", fin=True)
        await client.ping()


@pytest.mark.parametrize("gone", [False, True])
async def test_pod_that_is_stopped_or_gone(rig: Rig, gone: bool) -> None:
    import dataclasses

    url = await rig.forward(80)
    (pod,) = rig.node.pods
    if gone:
        rig.node.pods.remove(pod.id)
    else:
        rig.node.pods.put(dataclasses.replace(pod, ready=False))
    async with streams.spdy_client(url, [PROTOCOL]) as client:
        error, _ = await pair(client, 80, "0")
        assert (b"not found" if gone else b"not ready") in await error.read_all()


async def test_streams_without_a_request_are_paired_by_number(rig: Rig) -> None:
    async with listening(echo) as port, streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:
        await client.stream(streamType="error", port=str(port))
        stream = await client.stream(streamType="data", port=str(port))
        await stream.write(b"old", fin=True)
        assert await stream.read_all() == b"old<end>"


@pytest.mark.parametrize(
    "headers",
    [
        {"streamType": "data", "requestID": "1"},
        {"streamType": "data", "requestID": "1", "port": "0"},
        {"streamType": "data", "requestID": "1", "port": "65536"},
        {"streamType": "data", "requestID": "1", "port": "http"},
        {"streamType": "stdin", "requestID": "1", "port": "80"},
    ],
)
async def test_streams_that_make_no_sense_are_reset(rig: Rig, headers: dict[str, str]) -> None:
    async with streams.spdy_client(await rig.forward(80), [PROTOCOL]) as client:
        stream = await client.stream(**headers)
        assert await stream.read() == b""
        assert stream.reset == spdy.PROTOCOL_ERROR


async def test_pairs_that_do_not_fit_are_reset(rig: Rig) -> None:
    async with streams.spdy_client(await rig.forward(80), [PROTOCOL]) as client:
        one = await client.stream(streamType="data", requestID="1", port="80")
        two = await client.stream(streamType="error", requestID="1", port="81")
        three = await client.stream(streamType="data", requestID="2", port="80")
        four = await client.stream(streamType="data", requestID="2", port="80")
        for stream in (one, two, three, four):
            assert await stream.read() == b""
            assert stream.reset == spdy.PROTOCOL_ERROR


async def test_a_stream_that_stays_single_is_reset(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycrio.api.streaming.portforward.PAIR_TIMEOUT", 0.05)
    async with streams.spdy_client(await rig.forward(80), [PROTOCOL]) as client:
        stream = await client.stream(streamType="error", requestID="1", port="80")
        assert await stream.read() == b""
        assert stream.reset == spdy.CANCEL


async def test_reset_of_the_client_ends_the_connection_in_the_pod(rig: Rig) -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async with listening(wait) as port, streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:
        _, stream = await pair(client, port, "0")
        await stream.write(b"x")
        await client.send(spdy.Reset(stream.ident, spdy.CANCEL))
        await ended.wait()


async def test_client_that_leaves_ends_every_connection_in_the_pod(rig: Rig) -> None:
    ended = asyncio.Semaphore(0)

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.release()

    async with listening(wait) as port:
        async with streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:
            for number in range(5):
                await pair(client, port, str(number))
            await client.ping()
            while len(rig.namespaces.asked) < 5:
                await client.ping()
        for _ in range(5):
            await ended.acquire()


async def test_pod_that_resets(rig: Rig) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with listening(reset) as port, streams.spdy_client(await rig.forward(port), [PROTOCOL]) as client:
        error, stream = await pair(client, port, "0")
        await stream.write(b"x" * 100_000)
        assert await stream.read_all() == b""
        assert await error.read_all() == b""


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""])
async def test_websocket_channels(rig: Rig, protocol: str) -> None:
    closed = free_port()
    async with listening(echo) as port:
        url = await rig.forward(port, closed)
        async with streams.websocket_client(url, *((protocol,) if protocol else ())) as client:
            little = [number.to_bytes(2, "little") for number in (port, port, closed, closed)]
            assert [await client.read(channel) for channel in range(4)] == little
            await client.send(0, b"over websocket")
            assert await client.read(0) == b"over websocket"
            assert b"error forwarding port" in await client.read(3)


async def test_websocket_ports_of_the_url(rig: Rig) -> None:
    async with listening(echo) as port:
        async with streams.websocket_client(f"{await rig.forward()}?port={port}", "v4.channel.k8s.io") as client:
            assert await client.read(0) == port.to_bytes(2, "little")


@pytest.mark.parametrize("query", ["", "?port=0", "?port=x", "?" + "&".join(["port=80"] * 128)])
async def test_websocket_without_good_ports(rig: Rig, query: str) -> None:
    with pytest.raises(streams.NotUpgraded) as refused:
        async with streams.websocket_client(f"{await rig.forward()}{query}", "v4.channel.k8s.io"):
            pass
    assert refused.value.status == 400


async def test_tunnel(rig: Rig) -> None:
    data = os.urandom(1_000_000)
    async with listening(echo) as port:
        async with streams.websocket_client(await rig.forward(port), f"SPDY/3.1+{PROTOCOL}") as socket:
            client = streams.Spdy(streams.Tunnelled(socket))
            error, stream = await pair(client, port, "0")
            await stream.write(data, fin=True)
            assert await stream.read_all() == data + b"<end>"
            assert await error.read_all() == b""
            await client.close()


async def test_tunnel_of_a_client_that_breaks_the_rules(rig: Rig) -> None:
    async with streams.websocket_client(await rig.forward(80), f"SPDY/3.1+{PROTOCOL}") as socket:
        await socket.send_bytes(b"\x80\x02" + bytes(50))
        await socket.ended.wait()
