"""Container events for any number of slow or fast listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pycrio.flows.views import EventView
from pycrio.model.event import Event
from pycrio.obs.metrics import metrics

if TYPE_CHECKING:
    from pycrio.flows.node_state import Node

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


async def subscribe(node: Node) -> AsyncIterator[EventView]:
    """Events with the pod and its containers as they are now; nothing unless ``enable_pod_events`` is on.

    The last event of a pod comes after its record went; it then carries the pod as it was.
    """
    if not node.host.options.enable_pod_events:
        return
    last: dict[str, EventView] = {}
    async for event in node.events.listen():
        pod = node.pods.resolve(event.pod_id)
        if pod is not None:
            view = EventView(event, pod, tuple(node.containers_of(pod.id)))
            last[pod.id] = view
        else:
            known = last.pop(event.pod_id, None)
            view = EventView(event, known.pod if known else None, known.containers if known else ())
        yield view
