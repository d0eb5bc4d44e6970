"""Pipe ends, terminals and sockets of streaming sessions under asyncio: read and write without blocking the loop.

The descriptor stays its owner's: stop reading and writing (cancel the task that does) before it is closed. At most one
task reads and one writes a descriptor at a time.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

CHUNK = 64 << 10
"""Bytes of one transfer: what a pipe holds by default (pipe(7))."""
_ENDED = (errno.EIO, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE)  # EIO: the terminal's other side is closed


class Reader:
    """The reading side of a descriptor, which is made non-blocking; ``limit``: bytes of one read at most."""

    def __init__(self, fd: int, limit: int = CHUNK) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._limit = limit
        self._waiting: asyncio.Future[None] | None = None
        self._last = False

    async def read(self) -> bytes:
        """What is there, as soon as something is; b"" at the end.

        Lets the loop turn once per call, since a fast writer would else keep it from everybody else.
        """
        await asyncio.sleep(0)
        while (data := self.read_now()) is None:
            if self._last:
                return b""
            await self._readable()
        return data

    def read_now(self) -> bytes | None:
        """What is there now: None when nothing is, b"" at the end."""
        try:
            return os.read(self._fd, self._limit)
        except BlockingIOError:
            return None
        except OSError as e:
            if e.errno in _ENDED:
                return b""
            raise

    def finish(self) -> None:
        """What can be read without waiting is the rest, whoever still holds the other side open."""
        self._last = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        try:
            await _until(self._waiting, loop.add_reader, loop.remove_reader, self._fd)
        finally:
            self._waiting = None


class Writer:
    """The writing side of a descriptor, which is made non-blocking; ``piece``: bytes of one write at most."""

    def __init__(self, fd: int, piece: int = CHUNK) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._piece = piece

    async def write(self, data: bytes) -> bool:
        """All of ``data``, as fast as it is taken; False when nobody takes it any more."""
        loop = asyncio.get_running_loop()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest[: self._piece]) :]
            except BlockingIOError:
                await _until(loop.create_future(), loop.add_writer, loop.remove_writer, self._fd)
            except OSError as e:
                if e.errno in _ENDED:
                    return False
                raise
        return True


async def _until(
    ready: asyncio.Future[None],
    add: Callable[..., object],
    remove: Callable[[int], object],
    fd: int,
) -> None:
    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, settle)
    try:
        await ready
    finally:
        remove(fd)
