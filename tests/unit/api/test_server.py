"""The inner servers together: start, answer, end in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import stat
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from pycrio._native.calls import CallServer, Limits
from pycrio._native.front import Front
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.server import MAX_MESSAGE, Server, Targets
from pycrio.api.sockets import Listener
from pycrio.errors import Unavailable
from tests.unit.api import client
from tests.unit.api.test_boundary import Scripted
from tests.unit.api.test_http import Fake, get


async def echo(request: Any, remaining: float | None) -> Any:
    return pb.VersionResponse(version=request.version)


class Slow:
    """A handler that waits until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go, self.finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, request: Any, remaining: float | None) -> Any:
        self.begun.set()
        await self.go.wait()
        self.finished.set()
        return b""


def made(tmp_path: pathlib.Path, service: Any, max_receive: int = MAX_MESSAGE) -> Server:
    limits = Limits(max_receive, MAX_MESSAGE)
    return Server(
        str(tmp_path / "inner"), [service], Fake().pages(), lambda table, quick: CallServer(table, limits, quick)
    )


@contextlib.asynccontextmanager
async def reached(tmp_path: pathlib.Path, targets: Targets) -> AsyncIterator[grpc.aio.Channel]:
    """A channel through a front."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "reached.sock"))
        listener.listen(64)
        with Front(listener.fileno(), targets.grpc, targets.http):
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/reached.sock") as channel:
                yield channel


async def test_both_protocols(tmp_path: pathlib.Path) -> None:
    server = made(tmp_path, Scripted(echo))
    targets = await server.start()
    assert stat.S_IMODE(os.stat(os.path.dirname(targets.http)).st_mode) == 0o700
    async with reached(tmp_path, targets) as channel:
        assert (await client.call(channel, "Version", version="x")).version == "x"
        assert (await get(targets.http, "/info"))[0] == 200
        await server.stop(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(channel, "Version")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_stop_lets_running_calls_end(tmp_path: pathlib.Path) -> None:
    slow = Slow()
    server = made(tmp_path, Scripted(slow))
    targets = await server.start()
    async with reached(tmp_path, targets) as channel:
        running = asyncio.ensure_future(client.call(channel, "Version"))
        await slow.begun.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        slow.go.set()
        await running
        await stopping
    assert slow.finished.is_set()


async def test_stop_waits_for_flows_without_callers(tmp_path: pathlib.Path) -> None:
    slow = Slow()
    server = made(tmp_path, Scripted(slow))
    targets = await server.start()
    async with reached(tmp_path, targets) as channel:
        running = asyncio.ensure_future(client.call(channel, "RunPodSandbox"))
        await slow.begun.wait()
        running.cancel()
        asyncio.get_running_loop().call_soon(slow.go.set)
        await server.stop(10)
    assert slow.finished.is_set()


async def test_large_messages(tmp_path: pathlib.Path) -> None:
    server = made(tmp_path, Scripted(echo), max_receive=1 << 20)
    targets = await server.start()
    try:
        async with reached(tmp_path, targets) as channel:
            assert len((await client.call(channel, "Version", version="x" * 900_000)).version) == 900_000
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.call(channel, "Version", version="x" * 1_100_000)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        await server.stop(0)


def test_the_default_limit() -> None:
    assert MAX_MESSAGE == 83886080


async def test_a_place_that_cannot_be_listened_on(tmp_path: pathlib.Path) -> None:
    (tmp_path / "inner").mkdir(mode=0o700)
    (tmp_path / "inner" / "http.sock").write_text("in the way")
    server = made(tmp_path, Scripted(echo))
    with pytest.raises(Unavailable, match="cannot serve"):
        await server.start()
    await server.stop(0)


async def test_one_socket_for_both_behind_the_native_front(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "crio.sock")
    listener = Listener(path)
    server = made(tmp_path, Scripted(echo))
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
    server = made(tmp_path, service)
    targets = await server.start()
    async with reached(tmp_path, targets) as channel:
        events = client.stream(channel, "GetContainerEvents", deadline=None)
        await events.read()
        await asyncio.wait_for(server.stop(1000), 30)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert closed.is_set()
