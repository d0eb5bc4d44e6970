"""Container events for any number of slow or fast listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pycrio.model.event import Event
from pycrio.obs.metrics import metrics

LIMIT = 1000


class Bus:
    """Fans events out. A listener that falls LIMIT events behind loses the oldest ones, which is counted."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Event]] = set()

    def publish(self, event: Event) -> None:
        """Hand an event to every listener; never waits."""
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
                metrics.event_dropped()
            queue.put_nowait(event)

    async def listen(self) -> AsyncIterator[Event]:
        """Events from now on."""
        queue: asyncio.Queue[Event] = asyncio.Queue(LIMIT)
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)
