"""What a test wants of the fakes: which calls fail or wait, and which were made."""

from __future__ import annotations

import asyncio


class Script:
    """Each fake tells its calls here as ``port.method``. ``fail`` names calls that raise, ``hold`` calls that wait."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.hold: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}

    def note(self, call: str) -> None:
        """A call that does not wait."""
        self.calls.append(call)
        if call in self.reached:
            self.reached[call].set()
        if call in self.fail:
            raise self.fail[call]

    async def at(self, call: str) -> None:
        """A call that may wait."""
        self.calls.append(call)
        if call in self.reached:
            self.reached[call].set()
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
