"""The inner servers together: start, answer, end in order."""

from __future__ import annotations

import asyncio
import os
import pathlib
import stat
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from pycrio._native.front import Front
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.server import MAX_MESSAGE, Server, Settings, _options
from pycrio.api.sockets import Listener
from pycrio.errors import Unavailable
from tests.unit.api import client
from tests.unit.api.test_boundary import Scripted
from tests.unit.api.test_http import Fake, get


async def echo(request: Any, remaining: float | None) -> Any:
    return pb.VersionResponse(version=request.version)


async def test_both_protocols(tmp_path: pathlib.Path) -> None:
    server = Server(Settings(str(tmp_path / "inner")), [Scripted(echo)], Fake().pages())
    targets = await server.start()
    assert stat.S_IMODE(os.stat(os.path.dirname(targets.grpc)).st_mode) == 0o700
    async with grpc.aio.insecure_channel(f"unix:{targets.grpc}") as channel:
        assert (await client.call(channel, "Version", version="x")).version == "x"
        assert (await get(targets.http, "/info"))[0] == 200
        await server.stop(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(channel, "Version")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_stop_lets_running_calls_end(tmp_path: pathlib.Path) -> None:
    begun, go, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(request: Any, remaining: float | None) -> Any:
        begun.set()
        await go.wait()
        finished.set()
        return b""

    server = Server(Settings(str(tmp_path / "inner")), [Scripted(wait)], Fake().pages())
    targets = await server.start()
    async with grpc.aio.insecure_channel(f"unix:{targets.grpc}") as channel:
        running = asyncio.ensure_future(client.call(channel, "Version"))
        await begun.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        go.set()
        await running
        await stopping
    assert finished.is_set()


async def test_stop_waits_for_flows_without_callers(tmp_path: pathlib.Path) -> None:
    begun, go, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(request: Any, remaining: float | None) -> Any:
        begun.set()
        await go.wait()
        finished.set()
        return b""

    server = Server(Settings(str(tmp_path / "inner")), [Scripted(wait)], Fake().pages())
    targets = await server.start()
    async with grpc.aio.insecure_channel(f"unix:{targets.grpc}") as channel:
        running = asyncio.ensure_future(client.call(channel, "RunPodSandbox"))
        await begun.wait()
        running.cancel()
        asyncio.get_running_loop().call_soon(go.set)
        await server.stop(10)
    assert finished.is_set()


async def test_large_messages(tmp_path: pathlib.Path) -> None:
    server = Server(Settings(str(tmp_path / "inner"), max_receive=1 << 20), [Scripted(echo)], Fake().pages())
    targets = await server.start()
    options = [("grpc.max_receive_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(f"unix:{targets.grpc}", options=options) as channel:
            assert len((await client.call(channel, "Version", version="x" * 900_000)).version) == 900_000
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.call(channel, "Version", version="x" * 1_100_000)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        await server.stop(0)


def test_limits() -> None:
    chosen = dict(_options(Settings("/x", max_send=0, max_receive=-1)))
    assert chosen["grpc.max_send_message_length"] == chosen["grpc.max_receive_message_length"] == MAX_MESSAGE
    assert MAX_MESSAGE == 83886080


async def test_a_place_that_cannot_be_listened_on(tmp_path: pathlib.Path) -> None:
    (tmp_path / "inner").mkdir(mode=0o700)
    (tmp_path / "inner" / "http.sock").write_text("in the way")
    server = Server(Settings(str(tmp_path / "inner")), [Scripted(echo)], Fake().pages())
    with pytest.raises(Unavailable, match="cannot serve"):
        await server.start()
    await server.stop(0)


async def test_one_socket_for_both_behind_the_native_front(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "crio.sock")
    listener = Listener(path)
    server = Server(Settings(str(tmp_path / "inner")), [Scripted(echo)], Fake().pages())
    targets = await server.start()
    with Front(listener.fileno(), targets.grpc, targets.http) as front:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert (await client.call(channel, "Version", version="x" * 1_000_000)).version == "x" * 1_000_000
            assert (await get(path, "/info"))[0] == 200
        front.drain()
        await server.stop(1)
    listener.close()
    assert sorted(os.listdir(tmp_path)) == ["inner"]


async def test_stop_ends_streams_at_once(tmp_path: pathlib.Path) -> None:
    closed = asyncio.Event()
    service = Scripted(echo)

    async def endless() -> AsyncIterator[Any]:
        try:
            yield pb.ContainerEventResponse(container_id="c")
            await asyncio.Event().wait()
        finally:
            closed.set()

    service.pieces = endless
    server = Server(Settings(str(tmp_path / "inner")), [service], Fake().pages())
    targets = await server.start()
    async with grpc.aio.insecure_channel(f"unix:{targets.grpc}") as channel:
        events = client.stream(channel, "GetContainerEvents", deadline=None)
        await events.read()
        await asyncio.wait_for(server.stop(1000), 30)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert closed.is_set()
