"""Exec, attach and port-forward over SPDY/3.1: the upgrade, and which stream of a connection is which channel."""

from __future__ import annotations

import asyncio
from typing import Any

from pycrio.api.streaming import spdy
from pycrio.api.streaming.http import Refused, Request, head
from pycrio.api.streaming.link import Gone
from pycrio.api.streaming.remotecommand import Channels, Wanted
from pycrio.api.streaming.spdy_session import Stream
from pycrio.obs import log as obslog

log = obslog.get("streaming")

UPGRADE = "SPDY/3.1"
VERSION_HEADER = "X-Stream-Protocol-Version"
ACCEPTED_HEADER = "X-Accepted-Stream-Protocol-Versions"
COMMAND_VERSIONS = {
    "v4.channel.k8s.io": 4,
    "v3.channel.k8s.io": 3,
    "v2.channel.k8s.io": 2,
    "channel.k8s.io": 1,
}
FORWARD_PROTOCOL = "portforward.k8s.io"
CREATION_TIMEOUT = 30.0
"""Seconds in which a client must have opened the streams that its session needs."""


def negotiate(request: Request, ours: list[str]) -> str:
    """The first protocol of the client's that we have; "" when it names none. Refused when we have none of them."""
    theirs = request.values(VERSION_HEADER.lower())
    for name in theirs:
        if name in ours:
            return name
    if not theirs:
        return ""
    raise Refused(
        403,
        f"none of the client's stream protocols is served: {', '.join(theirs)}; served are {', '.join(ours)}",
        [(ACCEPTED_HEADER, name) for name in ours],
    )


def accept(protocol: str) -> bytes:
    """The answer that makes the connection a SPDY one."""
    named = [(VERSION_HEADER, protocol)] if protocol else []
    return head(101, [("Connection", "Upgrade"), ("Upgrade", UPGRADE), *named])


class Gathering:
    """Collects the streams of an exec or attach session until all that the request wants are there."""

    def __init__(self, wanted: Wanted, version: int) -> None:
        names = {"error", *(n for n in ("stdin", "stdout", "stderr") if getattr(wanted, n))}
        if wanted.tty and version >= 3:
            names.add("resize")
        self._missing = names
        self._version = version
        self._found: dict[str, Stream] = {}
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refusing: set[asyncio.Task[None]] = set()

    def opened(self, stream: Stream) -> None:
        """A stream that the client has opened; one that the session has no use for is reset."""
        name = stream.headers.get("streamtype", "")
        if name not in self._missing:
            task = asyncio.get_running_loop().create_task(stream.reset(spdy.REFUSED_STREAM))
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)
            return
        self._missing.discard(name)
        self._found[name] = stream
        if not self._missing and not self._complete.done():
            self._complete.set_result(None)

    async def channels(self, gone: Gone) -> Channels | None:
        """The channels when they are complete; None when the client left or took too long before."""
        leaving = asyncio.get_running_loop().create_task(gone.wait())
        either: set[asyncio.Future[Any]] = {self._complete, leaving}
        try:
            await asyncio.wait(either, timeout=CREATION_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        if not self._complete.done():
            if not gone.is_set():
                log.info("Client did not open its streams in time", missing=", ".join(sorted(self._missing)))
            return None
        found = self._found
        return Channels(
            found["error"],
            self._version,
            found.get("stdin"),
            found.get("stdout"),
            found.get("stderr"),
            found.get("resize"),
            gone,
        )
