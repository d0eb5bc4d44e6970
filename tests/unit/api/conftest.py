"""A gRPC server of our own boundary on a private socket, and clients for it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import grpc
import pytest

from pycrio.api.boundary import Boundary
from pycrio.api.methods import Service, handlers

Serve = Callable[..., AbstractAsyncContextManager["tuple[grpc.aio.Channel, Boundary]"]]


@pytest.fixture
def serve(tmp_path: pathlib.Path) -> Serve:
    """``async with serve(service, …) as (channel, boundary)``."""

    @contextlib.asynccontextmanager
    async def running(*services: Service) -> AsyncIterator[tuple[grpc.aio.Channel, Boundary]]:
        boundary = Boundary()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([handlers(s, boundary) for s in services])
        server.add_insecure_port(f"unix:{tmp_path}/grpc.sock")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/grpc.sock") as channel:
                yield channel, boundary
        finally:
            await server.stop(None)

    return running
