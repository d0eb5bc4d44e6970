"""A gRPC server of our own boundary on a private socket, and clients for it."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import grpc
import pytest

from pycrio._native.calls import CallServer, Limits
from pycrio._native.front import Front
from pycrio.api.boundary import Boundary, Handler
from pycrio.api.methods import Service, handlers
from pycrio.api.server import MAX_MESSAGE

Serve = Callable[..., AbstractAsyncContextManager["tuple[grpc.aio.Channel, Boundary]"]]


@pytest.fixture
def serve(tmp_path: pathlib.Path) -> Serve:
    """``async with serve(service, …) as (channel, boundary)``."""

    numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def running(*services: Service) -> AsyncIterator[tuple[grpc.aio.Channel, Boundary]]:
        boundary = Boundary()
        table: dict[bytes, Handler] = {}
        for service in services:
            table |= handlers(service, boundary)
        calls = CallServer(table, Limits(MAX_MESSAGE, MAX_MESSAGE))
        path = str(tmp_path / f"{next(numbers)}.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(64)
            with Front(listener.fileno(), calls.start(), "@none"):
                try:
                    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                        yield channel, boundary
                finally:
                    await calls.stop(0)

    return running
