"""What a test wants of the fakes: which calls fail or wait, and which were made."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable


class Script:
    """Each fake tells its calls here as ``port.method``. ``fail`` names calls that raise, ``hold`` calls that wait;
    with ``jitter`` each call takes a random number of the loop's turns."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.hold: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}
        self.jitter: random.Random | None = None
        self._countdown = -1
        self._nth: Callable[[], Awaitable[None]] | Exception | None = None

    def arm(self, index: int, what: Callable[[], Awaitable[None]] | Exception) -> None:
        """At the call ``index`` from now (0: the next): raise ``what``, or await it before going on."""
        self._countdown, self._nth = index, what

    def disarm(self) -> bool:
        """Forget ``arm``; whether its call was ever reached."""
        reached = self._nth is not None and self._countdown < 0
        self._countdown, self._nth = -1, None
        return reached

    def _due(self) -> Callable[[], Awaitable[None]] | Exception | None:
        if self._countdown < 0:
            return None
        self._countdown -= 1
        return self._nth if self._countdown < 0 else None

    def note(self, call: str) -> None:
        """A call that does not wait."""
        self.calls.append(call)
        if call in self.reached:
            self.reached[call].set()
        due = self._due()
        if isinstance(due, Exception):
            raise due
        if call in self.fail:
            raise self.fail[call]

    async def at(self, call: str) -> None:
        """A call that may wait."""
        self.calls.append(call)
        if call in self.reached:
            self.reached[call].set()
        for _ in range(self.jitter.randrange(5) if self.jitter else 0):
            await asyncio.sleep(0)
        due = self._due()
        if isinstance(due, Exception):
            raise due
        if due is not None:
            await due()
        if call in self.hold:
            await self.hold[call].wait()
        if call in self.fail:
            raise self.fail[call]

    def stop_at(self, call: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Have a call wait: (it is there, it may go on)."""
        self.reached[call], self.hold[call] = asyncio.Event(), asyncio.Event()
        return self.reached[call], self.hold[call]

    def count(self, call: str) -> int:
        """How often a call was made."""
        return self.calls.count(call)
