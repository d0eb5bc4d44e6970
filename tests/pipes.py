"""Reading what a driver writes into a pipe."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from pycrio.drivers.registry.client import Registry
from pycrio.model.image import LayerDescriptor, RemoteImage


class Reader:
    """Drains the read end of a pipe in a thread, as the unpacker does."""

    def __init__(self) -> None:
        self.fd, self.sink = os.pipe()
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while part := os.read(self.fd, 1 << 16):
            self._parts.append(part)

    def finish(self) -> bytes:
        """Close the write end; everything that was written."""
        os.close(self.sink)
        self._thread.join()
        os.close(self.fd)
        return b"".join(self._parts)


async def collect(
    registry: Registry, image: RemoteImage, layer: LayerDescriptor, progress: Callable[[int], None] = lambda done: None
) -> bytes:
    """A layer's bytes; whatever fetch raises."""
    reader = Reader()
    try:
        await registry.fetch(image, layer, reader.sink, progress)
    finally:
        data = reader.finish()
    return data
