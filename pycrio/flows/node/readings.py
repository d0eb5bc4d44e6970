"""Readings that are answered again until they are a collection period old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar, cast

from pycrio.flows.turn import Joined

T = TypeVar("T")
Key = tuple[str, Hashable]  # the object's id ("" for all of them), and what is read of it


class Readings:
    """The last readings by key, with the loop's time of their beginning."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        """``known``: whether an object still exists. A reading may end after its object went."""
        self._known = known
        self._last: dict[Key, tuple[float, object]] = {}
        self._taking = Joined(abandon=True)

    async def get(self, key: Key, period: float, take: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The last reading unless it is older than ``period`` seconds, else a new one by ``take``.

        With a period of 0 every caller has a reading of its own; else callers at the same time share one.
        """
        if period <= 0:
            self._last.pop(key, None)
            return await take()
        known = self._last.get(key)
        if known is not None and asyncio.get_running_loop().time() - known[0] < period:
            return cast(T, known[1])
        return await self._taking.run(key, lambda: self._take(key, take))

    async def _take(self, key: Key, take: Callable[[], Coroutine[Any, Any, T]]) -> T:
        at = asyncio.get_running_loop().time()
        value = await take()
        if not key[0] or self._known(key[0]):
            self._last[key] = (at, value)
        return value

    def forget(self, ident: str) -> None:
        """Drop the readings of an object that is gone."""
        for key in [k for k in self._last if k[0] == ident]:
            del self._last[key]
