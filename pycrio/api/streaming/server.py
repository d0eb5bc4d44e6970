"""The streaming server: hands out one-time URLs and serves each to the client that comes for it.

A URL stands for one session that was checked when it was asked for. Whoever holds it may connect once, within a
minute, by SPDY/3.1 or WebSocket; nothing else is served here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.streaming import addresses, http, sessions, spdy_channels
from pycrio.api.streaming.http import Refused, Request
from pycrio.api.streaming.link import Connection
from pycrio.api.streaming.remotecommand import Wanted
from pycrio.api.streaming.sessions import Forward
from pycrio.api.streaming.tokens import Tokens
from pycrio.errors import ConfigError, InvalidRequest
from pycrio.flows.containers import attach as attach_flow
from pycrio.flows.node_state import Node
from pycrio.obs import log as obslog
from pycrio.obs import trace

log = obslog.get("streaming")

HEAD_TIMEOUT = 30.0
"""Seconds in which a connection must have become a session."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Where to listen and how. ``address`` "": an address of the host that others reach; ``port`` 0: any free one.
    With ``tls``: files in PEM form, ``ca`` to demand client certificates. ``idle_timeout`` in seconds, 0: none."""

    address: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    cert: str = ""
    key: str = ""
    ca: str = ""
    min_version: str = "VersionTLS12"
    ciphers: tuple[str, ...] = ()
    idle_timeout: float = 4 * 3600.0


class StreamServer:
    """See ``api.runtime.Streams`` for what the CRI's calls use."""

    def __init__(self, node: Node, settings: StreamSettings) -> None:
        self._node = node
        self._settings = settings
        self._tokens: Tokens[Wanted | Forward] | None = None
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._base = ""

    # --- life

    async def start(self) -> None:
        """Listen. ConfigError when the address, the port or the TLS files do not allow it."""
        s = self._settings
        context = self._context()
        address = s.address or addresses.choose()
        try:
            self._server = await asyncio.start_server(
                self._accepted,
                address,
                s.port,
                ssl=context,
                ssl_handshake_timeout=HEAD_TIMEOUT if context is not None else None,
                backlog=512,
            )
        except OSError as e:
            raise ConfigError([f"the streaming server cannot listen on {address} port {s.port}: {e.strerror}"]) from e
        loop = asyncio.get_running_loop()
        self._tokens = Tokens(loop.time)
        port = self._server.sockets[0].getsockname()[1]
        host = f"[{address}]" if ":" in address else address
        self._base = f"{'https' if s.tls else 'http'}://{host}:{port}"
        log.info("Streaming server listens", url=self._base)

    def _context(self) -> ssl.SSLContext | None:
        s = self._settings
        if not s.tls:
            return None
        from pycrio.obs.tls import ServerTls, TlsSettings

        return ServerTls(TlsSettings(s.cert, s.key, s.ca, s.min_version, s.ciphers)).context

    async def close(self) -> None:
        """Stop listening and end every session; commands that run in them are killed."""
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    # --- what the CRI's calls use

    async def exec(self, request: pb.ExecRequest) -> str:
        """See ``Streams``. NotFound for an unknown container."""
        container = self._node.containers.get(request.container_id)
        if not request.cmd:
            raise InvalidRequest("exec command cannot be empty")
        return self._url("exec", self._wanted(container.id, request, tuple(request.cmd)))

    async def attach(self, request: pb.AttachRequest) -> str:
        """See ``Streams``. NotFound for an unknown container."""
        container = self._node.containers.get(request.container_id)
        attach_flow.check(container, request.tty)
        return self._url("attach", self._wanted(container.id, request, ()))

    async def port_forward(self, request: pb.PortForwardRequest) -> str:
        """See ``Streams``. Whether there is such a pod is looked at when the client connects."""
        return self._url("portforward", Forward(request.pod_sandbox_id, tuple(request.port), trace.carrier()))

    def _wanted(self, ident: str, request: pb.ExecRequest | pb.AttachRequest, argv: tuple[str, ...]) -> Wanted:
        streams = (request.stdin, request.stdout, request.stderr, request.tty)
        return Wanted(ident, argv, *streams, trace.carrier())

    def _url(self, kind: str, session: Wanted | Forward) -> str:
        assert self._tokens is not None, "the server has been started"
        return f"{self._base}/{kind}/{self._tokens.issue(session)}"

    # --- clients

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            await self._client(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
            if self._server is not None and self._server.is_serving():
                raise
        except Exception:
            log.exception("Streaming session failed")
            writer.transport.abort()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await asyncio.wait_for(http.receive(reader), HEAD_TIMEOUT)
            if request is None:
                return writer.transport.abort()
            session = self._redeem(request)
            connection = Connection(reader, writer, self._settings.idle_timeout, request.early)
            await self._upgrade(request, session, connection)
        except (asyncio.TimeoutError, TimeoutError):
            await self._refuse(writer, Refused(408, "no request came in time"))
        except Refused as e:
            await self._refuse(writer, e)

    async def _refuse(self, writer: asyncio.StreamWriter, refused: Refused) -> None:
        with contextlib.suppress(OSError):
            writer.write(http.refusal(refused))
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    def _redeem(self, request: Request) -> Wanted | Forward:
        """What the URL stands for. Refused when it is none of ours, was used or has expired."""
        if request.method not in ("GET", "POST"):
            raise Refused(405, "only GET and POST are served", [("Allow", "GET, POST")])
        _, kind, *rest = [*request.path.split("/"), ""]
        found = self._tokens.redeem(rest[0]) if self._tokens is not None and rest and rest[1:] == [""] else None
        if found is None or kind != _kind(found):
            raise Refused(404, "no such streaming session: its URL is unknown, used or expired")
        return found

    async def _upgrade(self, request: Request, session: Wanted | Forward, connection: Connection) -> None:
        spdy, websocket = request.wants(spdy_channels.UPGRADE), request.wants("websocket")
        if not spdy and not websocket:
            raise Refused(400, "only an upgrade to SPDY/3.1 or WebSocket is served here")
        # In the trace of the CRI's call, not of this connection: a client behind the API server has none to tell.
        about = {"network.protocol.name": "spdy" if spdy else "websocket"}
        with trace.server(f"{_kind(session)} session", about, session.trace):
            if isinstance(session, Forward):
                serve = sessions.spdy_forward if spdy else sessions.websocket_forward
                await serve(self._node, request, session, connection)
            else:
                serve_command = sessions.spdy_command if spdy else sessions.websocket_command
                await serve_command(self._node, request, session, connection)


def _kind(session: Wanted | Forward) -> str:
    if isinstance(session, Forward):
        return "portforward"
    return "exec" if session.argv else "attach"
