"""One-time tokens: what a streaming URL carries from the CRI call that made it to the client that connects.

No I/O and no clock of its own, so that expiry is a matter of arithmetic. Tokens expire in the order in which they were
issued; whoever issues or redeems one sweeps the expired ones, so nothing runs in between.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Generic, TypeVar

from pycrio.errors import Exhausted

T = TypeVar("T")

TTL = 60.0
"""Seconds from issue to expiry."""
LIMIT = 1000
"""Tokens in flight at most: a client that asks for URLs and never connects costs no more memory than these."""
_BYTES = 6  # eight characters of URL-safe base64


class Tokens(Generic[T]):
    """Tokens in flight, each with what it stands for. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float], ttl: float = TTL, limit: int = LIMIT) -> None:
        self._clock = clock
        self._ttl = ttl
        self._limit = limit
        self._issued: dict[str, tuple[float, T]] = {}  # in the order of issue

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, value: T) -> str:
        """A fresh token for ``value``. Exhausted when too many are waiting for their client."""
        self._sweep()
        if len(self._issued) >= self._limit:
            raise Exhausted(
                f"{self._limit} streaming URLs wait for their clients: use them, or try again when they have expired "
                f"({self._ttl:.0f} s)"
            )
        while (token := secrets.token_urlsafe(_BYTES)) in self._issued:
            pass
        self._issued[token] = self._clock() + self._ttl, value
        return token

    def redeem(self, token: str) -> T | None:
        """What the token stands for, once; None when it is unknown, used or expired."""
        self._sweep()
        found = self._issued.pop(token, None)
        return None if found is None else found[1]

    def _sweep(self) -> None:
        now = self._clock()
        while self._issued:
            token = next(iter(self._issued))
            if self._issued[token][0] > now:
                return
            del self._issued[token]
