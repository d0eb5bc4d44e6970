"""What can go wrong in an exchange with a registry, before it is known which image it was for."""

from __future__ import annotations

from dataclasses import dataclass, field

from pycrio.errors import BadImage, PycrioError, RegistryError, RegistryUnavailable, Timeout, Unsupported

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CODES = {
    400: "UNSUPPORTED",
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NOT_FOUND",
    405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
    503: "UNAVAILABLE",
}


@dataclass(eq=False)
class Trouble(Exception):
    """A failed exchange.

    ``kind``: refused (nobody there), tls, cut (the connection ended early), stalled (too slow), status (an HTTP
    status), protocol (nonsense), bad (not the content that was asked for), unsupported (beyond us).
    ``delay``: seconds the registry wants us to stay away, None when it did not say.
    """

    kind: str
    text: str
    status: int = 0
    code: str = ""
    delay: float | None = field(default=None)

    def __str__(self) -> str:
        return self.text

    @property
    def transient(self) -> bool:
        """True when the same request may well succeed a little later."""
        return self.kind in ("cut", "stalled") or self.status in _TRANSIENT

    def failure(self, image: str, label: str) -> PycrioError:
        """The domain's error for it; ``label`` names the registry."""
        message = f"image {image}: {label}: {self.text}"
        if self.kind == "refused":
            return RegistryUnavailable(message)
        if self.kind == "stalled":
            return Timeout(message)
        if self.kind == "bad":
            return BadImage(message)
        if self.kind == "unsupported":
            return Unsupported(message)
        return RegistryError.of(message, code=self.code or _CODES.get(self.status, ""), status=self.status)
