"""Pages by HTTP/1.1, GET only; the status pages on the inner socket behind the front are such (facts: HTTP API)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import h11

from pycrio import errors
from pycrio.api import debug
from pycrio.flows.views import Inspection
from pycrio.obs import log as obslog
from pycrio.obs import steps

log = obslog.get("http")

HEADER_TIMEOUT = 5.0
"""Seconds that a client has for a request's header, and that a kept connection may idle."""
_READ = 65536

STATUS: dict[type[BaseException], HTTPStatus] = {
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Ambiguous: HTTPStatus.NOT_FOUND,
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.WrongState: HTTPStatus.CONFLICT,
    errors.Busy: HTTPStatus.CONFLICT,
}
"""Failure to HTTP status; every other one is 500."""

Query = Mapping[str, str]
"""The last value of each name."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the pages come from. ``config`` gives the effective configuration as TOML, ``info`` the object of /info;
    ``inspect``, ``pause`` and ``unpause`` take a container id. ``profiles`` gives what is below /debug/pprof, if that
    is served."""

    config: Callable[[], str]
    info: Callable[[], Mapping[str, object]]
    inspect: Callable[[str], Awaitable[Inspection]]
    pause: Callable[[str], Awaitable[None]]
    unpause: Callable[[str], Awaitable[None]]
    profiles: Callable[[str, Query], Awaitable[Page]] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One answer. ``filename``: what a browser shall call it when it saves it."""

    body: bytes
    type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    filename: str = ""


MISSING = Page(b"404 page not found\n", status=HTTPStatus.NOT_FOUND)


class PageServer:
    """Serves what ``find`` answers to paths without the first slash."""

    def __init__(self, find: Callable[[str, Query], Awaitable[Page]]) -> None:
        self._find = find
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, path: str) -> None:
        """Listen on a unix socket; OSError when that fails."""
        self._server = await asyncio.start_unix_server(self._accept, path)

    async def listen(self, host: str, port: int) -> int:
        """Listen on TCP instead; the port, OSError when that fails."""
        self._server = await asyncio.start_server(self._accept, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is None:
            return
        self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        self._server = None

    async def page(self, target: str) -> Page:
        """The answer to a GET of ``target``."""
        try:
            parts = urllib.parse.urlsplit(target)
            query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
            return await self._find(urllib.parse.unquote(parts.path).strip("/"), query)
        except errors.PycrioError as e:
            status = next((STATUS[k] for k in type(e).__mro__ if k in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
            return Page(f"{e}\n".encode(), status=status)
        except Exception as e:
            log.exception("Unforeseen failure", target=target)
            return Page(f"{type(e).__name__}: {e}\n".encode(), status=HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.TimeoutError):
            pass  # the client is gone or too slow: there is nobody to tell
        except asyncio.CancelledError:
            pass  # stop(): the connection is cut
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests on one connection until either side ends it."""
        connection = h11.Connection(h11.SERVER)
        while True:
            try:
                request = await asyncio.wait_for(_request(connection, reader), HEADER_TIMEOUT)
            except h11.RemoteProtocolError as e:
                # h11 leaves the status to us when the header could not be read
                page = Page(f"{e}\n".encode(), status=HTTPStatus(e.error_status_hint))
                return await _answer(connection, writer, page, head=False)
            if request is None:
                return None
            if request.method not in (b"GET", b"HEAD"):
                page = Page(b"405 method not allowed: only GET is\n", status=HTTPStatus.METHOD_NOT_ALLOWED)
            else:
                page = await self.page(request.target.decode("ascii", "replace"))
            await _answer(connection, writer, page, head=request.method == b"HEAD")
            if connection.our_state is h11.MUST_CLOSE or connection.their_state is not h11.DONE:
                return None
            connection.start_next_cycle()


class StatusServer(PageServer):
    """The status pages."""

    def __init__(self, pages: Pages) -> None:
        super().__init__(self._page)
        self._pages = pages

    async def _page(self, path: str, query: Query) -> Page:
        verb, _, ident = path.partition("/")
        pages = self._pages
        match verb, ident:
            case "config", "":
                return Page(pages.config().encode(), "application/toml")
            case "info", "":
                return _json(pages.info())
            case "containers", str() if ident:
                return _json(inspection(await pages.inspect(ident)))
            case "pause", str() if ident:
                await pages.pause(ident)
                return Page(b"200 OK", "text/html")
            case "unpause", str() if ident:
                await pages.unpause(ident)
                return Page(b"200 OK", "text/html")
            case "debug", "goroutines":
                return Page(debug.stacks().encode())
            case "debug", "timeline":
                return Page(json.dumps(steps.dump()).encode(), "application/json")
            case "debug", "heap":
                return Page(debug.heap().encode(), "application/octet-stream")
            case "debug", str() if pages.profiles is not None and (ident + "/").startswith("pprof/"):
                return await pages.profiles(path, query)
        return MISSING


def inspection(found: Inspection) -> dict[str, object]:
    """The object of /containers/{id}."""
    answer: dict[str, object] = {
        "name": found.name,
        "pid": found.pid,
        "image": found.image,
        "image_ref": found.image_ref,
        "created_time": found.created,
        "labels": dict(found.labels),
        "annotations": dict(found.annotations),
        "crio_annotations": dict(found.spec_annotations),
        "log_path": found.log_path,
        "root": found.root,
        "sandbox": found.pod_id,
        "ip_addresses": list(found.ips),
    }
    return answer | ({"host_network": True} if found.host_network else {})


def _json(value: Mapping[str, object]) -> Page:
    return Page(json.dumps(value).encode(), "application/json")


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request with its body read and dropped; None when the client has ended."""
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None


async def _answer(connection: h11.Connection, writer: asyncio.StreamWriter, page: Page, *, head: bool) -> None:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = [("Content-Type", page.type), ("Content-Length", str(len(page.body)))]
    if page.filename:
        headers.append(("Content-Disposition", f'attachment; filename="{page.filename}"'))
    events: list[h11.Event] = [
        h11.Response(status_code=page.status.value, reason=page.status.phrase.encode(), headers=headers),
        *([] if head else [h11.Data(data=page.body)]),
        h11.EndOfMessage(),
    ]
    for event in events:
        writer.write(connection.send(event) or b"")
    await writer.drain()
