"""HTTP to registries: one aiohttp session, TLS per host, proxies, bounded redirects, errors made comprehensible.

aiohttp is imported with the first request, in a pool: an idle daemon does not carry it.
"""

from __future__ import annotations

import email.utils
import errno
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from pycrio._native.pools import offload
from pycrio.drivers.registry import certs
from pycrio.drivers.registry.proxies import proxy_for
from pycrio.drivers.registry.settings import Settings
from pycrio.drivers.registry.trouble import Trouble
from pycrio.errors import ConfigError
from pycrio.obs import trace

if TYPE_CHECKING:
    import aiohttp

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRY_AFTER_MAX = 3600.0


def _imported() -> Any:
    import aiohttp

    return aiohttp


def describe_status(status: int, body: bytes) -> tuple[str, str]:
    """Error code and sentence of a refusal (distribution-spec error body); the code is "" when there is none."""
    try:
        first = json.loads(body)["errors"][0]
        code = str(first.get("code") or "").upper()
        said = str(first.get("message") or "").strip()[:300]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "", f"HTTP status {status}"
    return code, f"HTTP status {status}, {code or 'no error code'}" + (f": {said}" if said else "")


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for (delay or date), None without a usable one."""
    if not value:
        return None
    if value.strip().isdigit():
        return min(float(value[:9]), _RETRY_AFTER_MAX)
    try:
        when = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError):
        return None
    return min(max(when - now, 0.0), _RETRY_AFTER_MAX)


class Transport:
    """Connections to any number of registries, shared by all pulls so that they stay open between requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._directories: dict[str, str] = {}
        self.schemes: dict[str, str] = {}

    def forget(self) -> None:
        """Drop what was learned from certs.d and from registries; connections under way are not disturbed."""
        self._contexts.clear()
        self._directories.clear()
        self.schemes.clear()

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            aiohttp = await offload("lookup", _imported)
            if self._session is None:
                from pycrio.drivers.registry.resolver import make_resolver

                self._session = aiohttp.ClientSession(
                    # No limit here: a transfer may hold its connection for long while its reader is busy, and one
                    # that waits for a free connection could be the one that everybody waits for.
                    connector=aiohttp.TCPConnector(limit=0, resolver=make_resolver(), keepalive_timeout=30),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    read_bufsize=1 << 19,
                    max_line_size=16384,
                    max_field_size=32768,
                    headers={"User-Agent": self._settings.user_agent, "Accept-Encoding": "identity"},
                )
        session = self._session
        if session is None:
            raise Trouble("cut", "the registry driver was closed")
        return session

    async def _context(self, host: str, insecure: bool) -> ssl.SSLContext:
        """The context for a host. Hosts without certs.d directory share one: each holds all CAs of the system."""
        found = self._directories.get(host)
        if found is None:
            found = await offload("lookup", certs.directory, self._settings.certs_dirs, host)
            if len(self._directories) >= 1024:  # a registry may redirect to any number of hosts
                self._directories.clear()
            self._directories[host] = found
        context = self._contexts.get((found, insecure))
        if context is None:
            context = await offload("lookup", certs.context, found, insecure)
            self._contexts[found, insecure] = context
        return context

    @asynccontextmanager
    async def exchange(
        self, url: str, headers: Mapping[str, str], *, insecure: bool, form: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET (with ``form``: POST) and follow redirects; the answer's body is read by the caller inside the block.

        Authorization is not shown to another host. Raises Trouble, also for what goes wrong inside the block.
        """
        session = await self._opened()
        limits = self._settings.limits
        try:
            for _ in range(limits.redirects + 1):
                response = await self._send(session, url, headers, insecure, form)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS:
                    try:
                        yield response
                    finally:
                        # Reading on is left to the connection's keep-alive when the body was consumed.
                        response.release()
                    return
                response.close()
                if not location or form is not None:
                    raise Trouble("protocol", f"redirected ({response.status}) without a usable location")
                target = urljoin(url, location)
                url, headers = _redirected(url, target, headers, insecure)
            raise Trouble("protocol", f"more than {limits.redirects} redirects, the last one to {_short(url)}")
        except Trouble:
            raise
        except (OSError, ValueError, _imported().ClientError) as error:
            raise translate(error, url) from error

    async def _send(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        insecure: bool,
        form: Mapping[str, str] | None,
    ) -> aiohttp.ClientResponse:
        import aiohttp
        from yarl import URL

        limits = self._settings.limits
        parts = urlsplit(url)
        try:
            context = (
                await self._context(parts.netloc.rpartition("@")[2], insecure) if parts.scheme == "https" else None
            )
            proxy = proxy_for(url, self._settings.environ)
        except ConfigError as error:
            raise Trouble("tls", str(error)) from error
        method = "GET" if form is None else "POST"
        # Until the head of the answer is there. The query stays out: it may hold signatures.
        about = {"http.request.method": method, "server.address": parts.hostname or "", "url.path": parts.path}
        with trace.span(method, about, trace.CLIENT) as span:
            response = await session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=form,
                allow_redirects=False,
                ssl=context if context is not None else True,
                proxy=proxy,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=self.idle),
            )
            span.set("http.response.status_code", response.status)
            return response

    @property
    def idle(self) -> float:
        """Seconds without a byte after which a connection is given up."""
        progress = self._settings.pull_progress_timeout
        return min(self._settings.limits.idle, progress) if progress > 0 else self._settings.limits.idle


def _redirected(url: str, target: str, headers: Mapping[str, str], insecure: bool) -> tuple[str, Mapping[str, str]]:
    """Where a redirect leads and what may be sent there."""
    old, new = urlsplit(url), urlsplit(target)
    if new.scheme not in ("http", "https") or not new.hostname:
        raise Trouble("protocol", f"redirected to {_short(target)}, which is no HTTP address")
    if old.scheme == "https" and new.scheme == "http" and not insecure:
        raise Trouble(
            "protocol", f"redirected from TLS to plain HTTP at {new.netloc}, which only insecure registries may"
        )
    if (old.scheme, old.netloc) != (new.scheme, new.netloc):
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return target, headers


def _short(url: str) -> str:
    """An address for a message: without query, which may hold signatures."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:200]


async def read_bounded(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """A whole body of at most ``limit`` bytes; Trouble when it is longer."""
    too_long = Trouble("bad", f"{what} is longer than the {limit} bytes that are accepted")
    if (response.content_length or 0) > limit:
        response.close()
        raise too_long
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limit:
            response.close()
            raise too_long
        parts.append(chunk)
    return b"".join(parts)


async def refusal(response: aiohttp.ClientResponse, limit: int) -> Trouble:
    """What a status that is not a success means."""
    body = b""
    while len(body) < limit and (chunk := await response.content.readany()):
        body += chunk[: limit - len(body)]
    response.close()
    code, text = describe_status(response.status, body)
    delay = retry_after(response.headers.get("Retry-After"), time.time())
    return Trouble("status", text, status=response.status, code=code, delay=delay)


def translate(error: BaseException, url: str) -> Trouble:
    """aiohttp's failure in our terms."""
    import aiohttp

    where = urlsplit(url).netloc.rpartition("@")[2]
    rules: list[tuple[tuple[type[BaseException], ...], Callable[[], Trouble]]] = [
        (
            (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError),
            lambda: Trouble("tls", _tls_text(error, where)),
        ),
        (
            (aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError),
            lambda: Trouble("refused", f"the proxy for {where} cannot be used: {error}"),
        ),
        ((aiohttp.ConnectionTimeoutError,), lambda: Trouble("refused", f"connecting to {where} takes too long")),
        ((aiohttp.ClientConnectorError,), lambda: Trouble("refused", _connect_text(error, where))),
        ((aiohttp.ServerTimeoutError, TimeoutError), lambda: Trouble("stalled", f"{where} stopped sending")),
        ((aiohttp.InvalidURL,), lambda: Trouble("protocol", f"{_short(url)} is no valid address")),
        (
            (aiohttp.ServerConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientOSError),
            lambda: Trouble("cut", f"the connection to {where} ended early ({_cause(error)})"),
        ),
        ((aiohttp.ClientResponseError,), lambda: Trouble("protocol", f"{where} does not speak HTTP ({_cause(error)})")),
        ((ConnectionError,), lambda: Trouble("cut", f"the connection to {where} ended early ({_cause(error)})")),
    ]
    for kinds, make in rules:
        if isinstance(error, kinds):
            return make()
    return Trouble("protocol", f"talking to {where} failed ({_cause(error)})")


def _cause(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]


def _tls_text(error: BaseException, where: str) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {where} is not trusted: {inner.verify_message}; put its CA into certs.d or mark the "
            "registry insecure"
        )
    reason = getattr(inner, "reason", None) or str(inner)
    hint = "; it seems to speak plain HTTP, which only insecure registries may" if reason in _PLAIN else ""
    return f"no TLS connection to {where}: {reason}{hint}"


_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def _connect_text(error: BaseException, where: str) -> str:
    inner = getattr(error, "os_error", error)
    if isinstance(inner, socket.gaierror):
        return f"the host name of {where} cannot be resolved: {inner.strerror}"
    if getattr(inner, "errno", None) == errno.ECONNREFUSED:
        return f"{where} refuses connections"
    return f"{where} cannot be reached: {getattr(inner, 'strerror', None) or inner}"
