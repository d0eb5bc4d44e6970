"""The HTTP API (distribution-spec) of one place where an image may be: a registry or mirror, and a repository."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from pycrio.drivers.registry.login import Login
from pycrio.drivers.registry.mirrors import Source
from pycrio.drivers.registry.reference import api_host
from pycrio.drivers.registry.settings import Limits
from pycrio.drivers.registry.transport import Transport, read_bounded, refusal
from pycrio.drivers.registry.trouble import Trouble

if TYPE_CHECKING:
    import aiohttp


@dataclass(frozen=True, slots=True)
class Document:
    """A small answer: its bytes, media type (without parameters) and the digest that the registry claims."""

    body: bytes
    media_type: str
    claimed: str


class Endpoint:
    """Requests to one repository at one place."""

    def __init__(
        self, transport: Transport, login: Login, source: Source, limits: Limits, access: tuple[str, bool, str]
    ) -> None:
        self._transport = transport
        self._login = login
        self._limits = limits
        self.source = source
        # Who asks for what: equal values get equal answers, as far as permissions go.
        self.access = access

    @property
    def label(self) -> str:
        """Names the place in messages."""
        return self.source.label

    async def manifest(self, wanted: str, accept: str) -> Document:
        """A manifest by tag or digest."""
        return await self._small(f"manifests/{quote(wanted, safe=':')}", accept, self._limits.manifest, "the manifest")

    async def blob(self, digest: str, limit: int, what: str) -> bytes:
        """A small blob; its digest is not verified here."""
        return (await self._small(f"blobs/{digest}", "*/*", limit, what)).body

    async def _small(self, path: str, accept: str, limit: int, what: str) -> Document:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._timely(path, accept, limit, what)
            except Trouble as trouble:
                await self.pause(trouble, attempt)

    async def _timely(self, path: str, accept: str, limit: int, what: str) -> Document:
        try:
            return await asyncio.wait_for(self._read(path, accept, limit, what), self._limits.small)
        except (asyncio.TimeoutError, TimeoutError):
            raise Trouble("stalled", f"{what} did not arrive within {self._limits.small:g} s") from None

    async def _read(self, path: str, accept: str, limit: int, what: str) -> Document:
        async with self.open(path, {"Accept": accept}) as response:
            body = await read_bounded(response, limit, what)
            return Document(body, response.content_type, response.headers.get("Docker-Content-Digest", ""))

    async def pause(self, trouble: Trouble, attempt: int) -> None:
        """Wait before the next attempt, as long as the registry asks; raises the trouble when there shall be none."""
        limits = self._limits
        delay = trouble.delay if trouble.delay is not None else limits.retry_delay * 2 ** (attempt - 1)
        if not trouble.transient or attempt >= limits.attempts or delay > limits.retry_delay_max:
            raise trouble
        # Nodes of a cluster meet the same outage at the same time: they should not come back in step.
        jitter = random.uniform(0, limits.retry_delay)
        await asyncio.sleep(delay + jitter)

    @asynccontextmanager
    async def open(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """One GET below the repository that succeeded (200 or 206), authorized as the registry demands."""
        url = f"{await self._base()}/v2/{self.source.reference.path}/{path}"
        for _ in range(3):
            sent = await self._login.header()
            async with self._transport.exchange(
                url, {**headers, **({"Authorization": sent} if sent else {})}, insecure=self.source.insecure
            ) as response:
                if response.status in (200, 206):
                    yield response
                    return
                challenges = response.headers.getall("WWW-Authenticate", [])
                trouble = await refusal(response, self._limits.error)
            if trouble.status != 401 or not await self._login.accept(sent, challenges):
                raise trouble
        raise trouble

    async def _base(self) -> str:
        """Scheme and host. An insecure registry may speak plain HTTP, which is found out once."""
        domain = self.source.reference.domain
        host = api_host(domain)
        if not self.source.insecure:
            return f"https://{host}"
        scheme = self._transport.schemes.get(domain)
        if scheme is None:
            scheme = await self._probe(host)
            self._transport.schemes[domain] = scheme
        return f"{scheme}://{host}"

    async def _probe(self, host: str) -> str:
        first: Trouble | None = None
        for scheme in ("https", "http"):
            try:
                async with self._transport.exchange(f"{scheme}://{host}/v2/", {}, insecure=True):
                    return scheme
            except Trouble as trouble:
                if trouble.kind == "stalled":
                    raise
                first = first or trouble
        if first is None:
            raise AssertionError("unreachable: both attempts failed")
        raise Trouble(first.kind, f"{first.text}, and it does not speak plain HTTP either")
