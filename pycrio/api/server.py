"""The CRI socket's two servers behind the native front: gRPC for the CRI, HTTP/1.1 for the status pages.

``daemon.py`` starts it as: ``listener = Listener(path)``, ``targets = await Server(…).start()``, then the native front
with the listener's descriptor and the targets. It ends in the opposite order: the front stops accepting, ``stop``
lets the running calls end, the front closes, the listener's file goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pycrio.api.boundary import Boundary, Handler
from pycrio.api.http import Pages, StatusServer
from pycrio.api.methods import Service, handlers, quick
from pycrio.api.sockets import private_directory
from pycrio.errors import Unavailable
from pycrio.obs import log as obslog

log = obslog.get("api")

MAX_MESSAGE = 80 << 20
"""Default limit in bytes for one message, each way."""


class Calls(Protocol):
    """Runs handlers for the gRPC calls of connections that come in by descriptor."""

    def start(self) -> int:
        """Begin; the descriptor that takes connections."""

    async def stop(self, grace: float) -> None:
        """No call begins; those that run have ``grace`` seconds."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the front passes connections: gRPC's to a descriptor, the others to the path of a unix socket."""

    grpc: int
    http: str


class Server:
    """Serves the given services and pages until ``stop``."""

    def __init__(
        self,
        inner_dir: str,
        services: Iterable[Service],
        pages: Pages,
        make_calls: Callable[[Mapping[bytes, Handler], frozenset[bytes]], Calls],
    ) -> None:
        """``inner_dir`` holds the inner socket and belongs to us alone."""
        self._inner_dir = inner_dir
        self._boundary = Boundary()
        self._http = StatusServer(pages)
        table: dict[bytes, Handler] = {}
        waiting_for_nothing: frozenset[bytes] = frozenset()
        for service in services:
            table |= handlers(service, self._boundary)
            waiting_for_nothing |= quick(service)
        self._calls = make_calls(table, waiting_for_nothing)

    async def start(self) -> Targets:
        """Listen inside; Unavailable when that fails."""
        inner = private_directory(self._inner_dir)
        path = os.path.join(inner, "http.sock")
        try:
            await self._http.start(path)
            return Targets(self._calls.start(), path)
        except OSError as e:
            await self.stop(0)
            raise Unavailable(f"cannot serve on {inner}: {e}") from e

    async def stop(self, grace: float) -> None:
        """End within about ``grace`` seconds: streams end and no call begins; running ones may finish, those left are
        cancelled; then flows that go on without a caller have as much time again."""
        self._boundary.end_streams()
        await self._calls.stop(grace)
        left = await self._boundary.drain(grace)
        if left:
            log.warning("Flows were still running at the end", count=left)
        await self._http.stop()
