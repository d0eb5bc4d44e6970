"""Container events for any number of slow or fast listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from pycrio.flows.views import EventView
from pycrio.model.event import Event
from pycrio.obs.metrics import metrics

if TYPE_CHECKING:
    from pycrio.flows.node_state import Node

LIMIT = 1000


class Bus:
    """Fans events out, each with what ``view`` says of its pod at that moment. A listener that falls LIMIT events
    behind loses the oldest ones, which is counted."""

    def __init__(self, view: Callable[[Event], EventView]) -> None:
        self._view = view
        self._listeners: set[asyncio.Queue[EventView]] = set()

    def publish(self, event: Event) -> None:
        """Hand an event to every listener; never waits."""
        if not self._listeners:
            return
        view = self._view(event)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
                metrics.event_dropped()
            queue.put_nowait(view)

    async def listen(self) -> AsyncIterator[EventView]:
        """Events from now on; every listener gets the same objects."""
        queue: asyncio.Queue[EventView] = asyncio.Queue(LIMIT)
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)


async def subscribe(node: Node) -> AsyncIterator[EventView]:
    """Events with the pod and its containers as they were then; nothing unless ``enable_pod_events`` is on."""
    if not node.host.options.enable_pod_events:
        return
    async for view in node.events.listen():
        yield view
