"""Host names for aiohttp, looked up in a pool of our own; imported together with aiohttp."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from pycrio._native.pools import offload


class PoolResolver(AbstractResolver):
    """getaddrinfo in the "lookup" pool: aiohttp's own resolver would use asyncio's default executor."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of a host, in the system's order."""
        found = await offload("lookup", socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


def make_resolver() -> AbstractResolver:
    """For ``Transport``, which is not to import aiohttp's classes."""
    return PoolResolver()
