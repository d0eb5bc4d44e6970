"""HTTP/1.1 before the upgrade: one request, one answer, and what had come beyond the request."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

CHUNK = 64 << 10
HEAD_LIMIT = 128 << 10
"""Bytes of a request's head at most: what proxies pass on can be long."""
_BODY_LIMIT = 64 << 10


class Refused(Exception):
    """The request cannot be served; answered with ``status``, ``text`` and ``headers``."""

    def __init__(self, status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """A request to upgrade. ``headers``: names in lower case; ``early``: bytes that followed the request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: tuple[tuple[str, str], ...]
    early: bytes

    def values(self, name: str) -> list[str]:
        """Every value of a header, lists taken apart."""
        return [part.strip() for key, value in self.headers if key == name for part in value.split(",") if part.strip()]

    def wants(self, protocol: str) -> bool:
        """Whether the client asks for an upgrade to ``protocol``."""
        return "upgrade" in map(str.lower, self.values("connection")) and protocol.lower() in map(
            str.lower, self.values("upgrade")
        )


async def receive(reader: asyncio.StreamReader) -> Request | None:
    """The connection's request; None when the client left without one. Refused when it is malformed or too large."""
    import h11  # loaded with the first client: most daemons run for long without one

    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
    request: h11.Request | None = None
    body = 0
    try:
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(CHUNK))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += len(event.data)
                if body > _BODY_LIMIT:
                    raise Refused(413, "the request's body is too large")
            elif isinstance(event, h11.ConnectionClosed) or request is None:
                return None
            else:
                break
    except h11.RemoteProtocolError as e:
        raise Refused(e.error_status_hint, f"malformed request: {e}") from e
    except OSError:
        return None
    target = urllib.parse.urlsplit(request.target.decode("ascii", "replace"))
    return Request(
        request.method.decode("ascii"),
        target.path,
        urllib.parse.parse_qs(target.query, max_num_fields=1000),
        tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers),
        parser.trailing_data[0],
    )


_REASONS = {101: "Switching Protocols", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 408: "Request Timeout"}
_REASONS |= {405: "Method Not Allowed", 413: "Content Too Large", 429: "Too Many Requests", 431: "Fields Too Large"}


def head(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    """The head of an answer."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def refusal(refused: Refused) -> bytes:
    """The whole answer for a request that cannot be served."""
    body = f"{refused.text}\n".encode()
    fixed = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    return head(
        refused.status, [*fixed, *refused.headers, ("Content-Length", str(len(body))), ("Connection", "close")]
    ) + (body)
