"""What shims tell on their own: a socket for their events, and their logs.

Of the events only those of memory that ran out are of use: everything else a container's monitor tells. A shim sends
its events by itself, or runs ``pycrio publish``; while the daemon is away it tries again for some seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable

from pycrio.drivers.shim import names
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.errors import RuntimeFailure
from pycrio.obs import log as obslog
from pycrio.ttrpc.frames import Plain
from pycrio.ttrpc.link import UNIMPLEMENTED, CallError, Link

log = obslog.get("shim")
_LEVEL = re.compile(r"\blevel=\"?(error|fatal|panic)\b")
LINE = 4096


class Events:
    """The socket at ``path``; ``oom`` is called with the id of a container that ran out of memory."""

    def __init__(self, path: str, oom: Callable[[str], None]) -> None:
        self.path = path
        self._oom = oom
        self._server: asyncio.AbstractServer | None = None
        self._links: set[Link] = set()

    async def open(self) -> None:
        """Listen. Idempotent. RuntimeFailure when it is not possible."""
        if self._server is not None:
            return
        try:
            with contextlib.suppress(FileNotFoundError):  # of a daemon that was killed
                os.unlink(self.path)
            self._server = await asyncio.get_running_loop().create_unix_server(self._accept, self.path)
            os.chmod(self.path, 0o600)
        except OSError as e:
            raise RuntimeFailure(f"socket {self.path} for events of shims cannot be opened: {e}") from e

    def _accept(self) -> Link:
        link = Link(self._serve, accepted=True, codec=Plain(), peer="shim")
        self._links.add(link)
        link.closed.add_done_callback(lambda _: self._links.discard(link))
        return link

    async def _serve(self, service: str, method: str, payload: bytes) -> bytes:
        if (service, method) != (names.EVENTS, "Forward"):
            raise CallError(UNIMPLEMENTED, f"{service}/{method} is not served here")
        envelope = pb.ForwardRequest.FromString(payload).envelope
        if envelope.topic == names.OOM_TOPIC:
            self._oom(pb.TaskOOM.FromString(envelope.event.value).container_id)
        return b""

    async def close(self) -> None:
        """Stop listening."""
        if self._server is None:
            return
        self._server.close()
        for link in list(self._links):
            link.close("the daemon stops")
            await link.wait_closed()
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class Log:
    """A shim's log: lines that it writes to a fifo. Nobody reads it while the daemon is away, which shims bear."""

    def __init__(self, path: str, pod: str) -> None:
        self._pod = pod
        self._rest = b""
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LINE:]
        for line in lines:
            text = line[:LINE].decode("utf-8", "replace")
            say = log.warning if _LEVEL.search(text) else log.debug
            say("Shim says", sandbox=self._pod, text=text)

    def close(self) -> None:
        """Read no more. Idempotent."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
