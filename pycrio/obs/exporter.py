"""Serves ``/metrics`` over HTTP(S) on a TCP port and, where wanted, on a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycrio.errors import ConfigError
from pycrio.obs import log
from pycrio.obs.exposition import CONTENT_TYPE, Exposition
from pycrio.obs.metrics import Metrics

if TYPE_CHECKING:
    from pycrio.obs.tls import TlsSettings

HEAD_LIMIT = 16 << 10
IDLE = 30.0  # seconds that a client may take for a request's head
REFUSAL = 2.0  # seconds for a client that is one too many
MAX_CLIENTS = 64
_log = log.get("metrics")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
Offload = Callable[[Callable[[], bytes]], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ExporterSettings:
    """``socket`` "" for none; ``tls`` None for plain HTTP. Port 0 takes any free one."""

    host: str = "127.0.0.1"
    port: int = 9090
    socket: str = ""
    tls: TlsSettings | None = None


class Exporter:
    """The metrics endpoint. ``offload`` runs the rendering, which reads /proc, in a thread of the caller's pool."""

    def __init__(self, settings: ExporterSettings, metrics: Metrics, offload: Offload | None = None) -> None:
        self._settings = settings
        self._offload = offload
        self._exposition = Exposition(metrics, self._count_tasks)
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._tasks = 0
        self.port = 0

    def _count_tasks(self) -> int:
        return self._tasks

    async def start(self) -> None:
        """Listen. ConfigError names the address or file that cannot be used."""
        settings = self._settings
        context = None
        if settings.tls is not None:
            from pycrio.obs import tls

            if tls.make_missing(settings.tls.cert, settings.tls.key, [settings.host]):
                _log.info("Made a self-signed certificate for metrics", cert=settings.tls.cert)
            context = tls.ServerTls(settings.tls).context
        try:
            server = await asyncio.start_server(
                self._connected, settings.host or None, settings.port, ssl=context, limit=HEAD_LIMIT
            )
            self._servers.append(server)
            self.port = server.sockets[0].getsockname()[1]
            if settings.socket:
                _clear_stale(settings.socket)
                unix = await asyncio.start_unix_server(self._connected, settings.socket, ssl=context, limit=HEAD_LIMIT)
                self._servers.append(unix)
                os.chmod(settings.socket, 0o660)
        except OSError as error:
            await self.close()
            where = f"{settings.host}:{settings.port}" + (f" or {settings.socket}" if settings.socket else "")
            raise ConfigError([f"metrics cannot be served on {where}: {error.strerror or error}"]) from error
        _log.info("Serving metrics", host=settings.host, port=self.port, socket=settings.socket)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        for server in self._servers:
            server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        if self._settings.socket and len(self._servers) > 1:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._settings.socket)
        self._servers.clear()
        self._exposition.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > MAX_CLIENTS:
                await asyncio.wait_for(reader.read(HEAD_LIMIT), REFUSAL)  # unread, it would reset the answer
                await _reply(writer, 503, b"too many connections\n", False)
                self._exposition.answered["503"] += 1
            else:
                await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError, asyncio.TimeoutError):
            pass  # the client went, was too slow, or we are closing
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        while keep:
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE)
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await _reply(writer, 431, b"the request's head is too large\n", False)
                return
            request, headers = parse_head(head)
            keep = len(request) == 3 and request[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
            keep = keep and headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
            if len(request) != 3 or not request[2].startswith("HTTP/1."):
                await _reply(writer, 400, b"this is not an HTTP/1 request\n", False)
                return
            if request[1].partition("?")[0] != "/metrics":
                await _reply(writer, 404, b"404 page not found\n", keep)
            elif request[0] not in {"GET", "HEAD"}:
                await _reply(writer, 405, b"only GET\n", keep)
            else:
                await self._metrics(writer, request[0], "gzip" in headers.get("accept-encoding", ""), keep)

    async def _metrics(self, writer: asyncio.StreamWriter, method: str, squeeze: bool, keep: bool) -> None:
        self._tasks = len(asyncio.all_tasks())
        exposition = self._exposition
        exposition.in_flight += 1

        def render() -> bytes:
            text = exposition.render()
            if squeeze:
                import gzip

                return gzip.compress(text, compresslevel=1)
            return text

        try:
            body = await self._offload(render) if self._offload is not None else render()
        except Exception:  # whatever a collector of the library meets, the daemon serves on
            exposition.answered["500"] += 1
            _log.exception("Metrics could not be rendered, answering 500")
            await _reply(writer, 500, b"metrics could not be rendered\n", keep)
            return
        finally:
            exposition.in_flight -= 1
        exposition.answered["200"] += 1
        extra = f"Content-Type: {CONTENT_TYPE}\r\n" + ("Content-Encoding: gzip\r\n" if squeeze else "")
        await _reply(writer, 200, body, keep, extra, method == "HEAD")


def parse_head(head: bytes) -> tuple[list[str], dict[str, str]]:
    """Words of an HTTP request's first line, and its headers with names in lower case."""
    first, _, rest = head.decode("latin-1").partition("\r\n")
    headers: dict[str, str] = {}
    for line in rest.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return first.split(" "), headers


async def _reply(
    writer: asyncio.StreamWriter, code: int, body: bytes, keep: bool, extra: str = "", bare: bool = False
) -> None:
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\n{extra or 'Content-Type: text/plain; charset=utf-8' + chr(13) + chr(10)}"
        f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    writer.write(head.encode("latin-1") + (b"" if bare else body))
    await writer.drain()


def _clear_stale(path: str) -> None:
    """Remove the socket of a daemon that is gone; OSError when somebody answers there or it is no socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"{path} is there and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, f"{path} is served by another process")
    os.unlink(path)
