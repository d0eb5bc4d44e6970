"""Writing to a pipe from the event loop, as fast as its reader takes it."""

from __future__ import annotations

import asyncio
import os

from pycrio.drivers.registry.trouble import Trouble


class SinkClosed(Exception):
    """The reader of the pipe is gone."""


class Sink:
    """A descriptor, non-blocking while the block lasts; it stays open and the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._blocking = True

    async def __aenter__(self) -> Sink:
        self._blocking = os.get_blocking(self._fd)
        os.set_blocking(self._fd, False)
        return self

    async def __aexit__(self, *_: object) -> None:
        os.set_blocking(self._fd, self._blocking)

    async def write(self, data: bytes) -> None:
        """Write everything. SinkClosed when nobody reads any more, Trouble when the descriptor refuses."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._writable()
            except BrokenPipeError as error:
                raise SinkClosed from error
            except OSError as error:
                raise Trouble("bad", f"its content cannot be passed on: {error.strerror}") from error

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_writer(self._fd, settle)
        try:
            await ready
        finally:
            loop.remove_writer(self._fd)
