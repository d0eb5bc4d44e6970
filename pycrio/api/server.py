"""The two inner servers behind the native front: gRPC for the CRI, HTTP/1.1 for the status pages.

``daemon.py`` starts it as: ``listener = Listener(path)``, ``targets = await Server(…).start()``, then the native front
with the listener's descriptor and the targets. It ends in the opposite order: the front stops accepting, ``stop``
lets the running calls end, the front closes, the listener's file goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from pycrio.api.boundary import Boundary
from pycrio.api.http import Pages, StatusServer
from pycrio.api.methods import Service, handlers
from pycrio.api.sockets import private_directory
from pycrio.errors import Unavailable
from pycrio.obs import log as obslog

log = obslog.get("api")

MAX_MESSAGE = 80 << 20
"""Default limit in bytes for one message, each way."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``inner_dir`` holds the inner sockets and belongs to us alone; message limits in bytes, 0: the default."""

    inner_dir: str
    max_send: int = MAX_MESSAGE
    max_receive: int = MAX_MESSAGE


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the front hands connections to: paths of unix sockets."""

    grpc: str
    http: str


class Server:
    """Serves the given services and pages until ``stop``."""

    def __init__(self, settings: Settings, services: Iterable[Service], pages: Pages) -> None:
        self._settings = settings
        self._services = tuple(services)
        self._boundary = Boundary()
        self._http = StatusServer(pages)
        self._grpc: grpc.aio.Server | None = None

    async def start(self) -> Targets:
        """Listen inside; Unavailable when that fails."""
        inner = private_directory(self._settings.inner_dir)
        targets = Targets(os.path.join(inner, "grpc.sock"), os.path.join(inner, "http.sock"))
        server = grpc.aio.server(options=_options(self._settings))
        server.add_generic_rpc_handlers([handlers(service, self._boundary) for service in self._services])
        try:
            server.add_insecure_port(f"unix:{targets.grpc}")
            await server.start()
            self._grpc = server
            await self._http.start(targets.http)
        except (OSError, RuntimeError) as e:
            await self.stop(0)
            raise Unavailable(f"cannot serve on {inner}: {e}") from e
        return targets

    async def stop(self, grace: float) -> None:
        """End within about ``grace`` seconds: streams end and no call begins; running ones may finish, those left are
        cancelled; then flows that go on without a caller have as much time again."""
        if self._grpc is not None:
            self._boundary.end_streams()
            await self._grpc.stop(grace)
            self._grpc = None
        left = await self._boundary.drain(grace)
        if left:
            log.warning("Flows were still running at the end", count=left)
        await self._http.stop()


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Channel arguments of gRPC core (grpc_types.h): clients may ping an idle connection as often as they like, since
    a kubelet that does would else be cut off."""
    return [
        ("grpc.max_send_message_length", settings.max_send if settings.max_send > 0 else MAX_MESSAGE),
        ("grpc.max_receive_message_length", settings.max_receive if settings.max_receive > 0 else MAX_MESSAGE),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    ]
