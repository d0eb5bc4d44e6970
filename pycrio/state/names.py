"""Reservation of unique names: one name, one owner, from before the object exists until it is gone."""

from __future__ import annotations

from pycrio.errors import AlreadyExists


class Names:
    """Names of pods and containers with the id that holds each."""

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}

    def reserve(self, name: str, ident: str) -> None:
        """Take a name for an id; AlreadyExists when another id holds it."""
        owner = self._owner.setdefault(name, ident)
        if owner != ident:
            raise AlreadyExists(f"the name {name!r} is taken by {owner}")

    def release(self, name: str, ident: str) -> None:
        """Give a name back; harmless when ``ident`` does not hold it."""
        if self._owner.get(name) == ident:
            del self._owner[name]

    def owner(self, name: str) -> str | None:
        """The id that holds a name."""
        return self._owner.get(name)
