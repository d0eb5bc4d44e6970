"""gRPC calls under asyncio: connections come in by descriptor, each call runs as a task, its answer goes back.

Everything happens on the loop's thread, from the socket to the handler and back: a call is handed over to no other
thread, which on a busy node costs more than the call.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import functools
import os
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pycrio._native.base import NativeError, count_handle
from pycrio._native.front import take
from pycrio._native.rpc import OVER, WANTS_WRITE, Connection

if TYPE_CHECKING:
    from pycrio._native.rpc import Event

CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 1, 2, 4, 8, 12, 14
HIGH, LOW = 1 << 20, 256 << 10
"""Bytes of one answer that may wait before its writer has to, and at which it goes on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one message each way; connections, and calls of one connection at a time; bytes of answers of one
    connection that wait for its client to read them (an answer that is larger has to wait alone)."""

    max_receive: int
    max_send: int
    max_connections: int = 4096
    max_calls: int = 1024
    max_unread: int = 256 << 20


class Ended(Exception):
    """Raised through a handler by ``Call.abort``."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text


class Call:
    """What a handler knows of its caller."""

    __slots__ = ("_deadline", "_link", "_metadata", "_stream", "expired")

    def __init__(self, link: Link, stream: int, timeout: float | None, metadata: bytes) -> None:
        self._link, self._stream, self._metadata = link, stream, metadata
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self.expired = False

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, not below 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def metadata(self) -> dict[str, str]:
        """What the caller sent beside the call, names in lower case; of equal names the last."""
        parts = self._metadata.split(b"\0")
        return {n.decode("latin-1"): v.decode("latin-1") for n, v in zip(parts[::2], parts[1::2], strict=False)}

    def abort(self, status: int, text: str) -> NoReturn:
        """End the call with a status other than OK (gRPC's numbers)."""
        raise Ended(status, text)

    async def write(self, message: bytes) -> None:
        """One message of an answer with several; waits while the caller is slow to take them."""
        await self._link.write(self._stream, message)


Handler = Callable[[bytes, Call], Coroutine[Any, Any, bytes | None]]
"""The request's bytes to the answer's; None when everything was written with ``Call.write``."""


class Begun(Coroutine[Any, Any, None]):
    """A coroutine whose first step was made without a task, for a task to go on with.

    A task, its turn of the loop and its deadline's timer cost as much as all of a call that is answered from memory.
    ``asyncio.current_task`` knows nothing of that first step. (Python 3.12 has eager tasks for this, which still are
    tasks.)
    """

    __slots__ = ("_context", "_coroutine", "_waits", "done")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._waits: list[Any] = []  # what the first step waits for, until the task knows of it
        self.done = False
        try:
            self._waits.append(self._context.run(coroutine.send, None))
        except (StopIteration, asyncio.CancelledError):
            self.done = True

    def send(self, value: Any) -> Any:
        """See ``Coroutine``."""
        return self._waits.pop() if self._waits else self._context.run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        """See ``Coroutine``."""
        self._waits.clear()
        return self._context.run(self._coroutine.throw, *error)

    def close(self) -> None:
        """See ``Coroutine``."""
        self._context.run(self._coroutine.close)

    def __await__(self) -> Generator[Any, Any, None]:
        step = functools.partial(self.send, None)
        while True:
            try:
                waits = step()
            except StopIteration:
                return
            try:
                step = functools.partial(self.send, (yield waits))
            except BaseException as e:
                step = functools.partial(self.throw, e)


class Link:
    """One connection on the loop."""

    def __init__(self, server: CallServer, connection: Connection, fd: int) -> None:
        self._server, self._connection, self._fd = server, connection, fd
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, tuple[asyncio.Task[None], asyncio.TimerHandle | None]] = {}
        self._writers: dict[int, asyncio.Future[None]] = {}
        self._open, self._writing, self._flushing = True, False, False
        self._batch = False  # calls begin: what they answer at once goes out together
        self._loop.add_reader(fd, self.ready)

    def ready(self) -> None:
        """Whatever the socket has and takes now."""
        if self._open:
            self._after(*self._connection.pump())

    def goaway(self) -> None:
        """No call begins here any more."""
        if self._open:
            self._connection.goaway()
            self._flush()

    def tasks(self) -> list[asyncio.Task[None]]:
        """The calls that run."""
        return [task for task, _ in self._tasks.values()]

    def close(self) -> None:
        """Close the socket; calls that still run are cancelled."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._connection.close()
        for stream in list(self._tasks):
            self._left(stream)
        self._server.forget(self)

    async def write(self, stream: int, message: bytes) -> None:
        """See ``Call.write``."""
        self._send(stream, message)
        self._flush()
        if self._open and self._connection.waiting(stream) > HIGH:
            self._writers[stream] = ready = self._loop.create_future()
            try:
                await ready
            finally:
                self._writers.pop(stream, None)

    def _after(self, flags: int, events: list[Event]) -> None:
        self._batch = True
        for stream, path, message, timeout, metadata in events:
            if path is None or message is None or metadata is None:
                self._left(stream)
            else:
                self._begin(stream, path, message, Call(self, stream, timeout, metadata))
        self._batch = False
        self._settle(flags)
        if self._flushing:
            if self._tasks:
                self._loop.call_soon(self._flush)  # with those that end in the next turn of the loop
            else:
                self._flush()

    def _settle(self, flags: int) -> None:
        if flags & OVER:
            self.close()
            return
        for stream, ready in self._writers.items():
            if not ready.done() and self._connection.waiting(stream) <= LOW:
                ready.set_result(None)
        wanted = bool(flags & WANTS_WRITE)
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._fd, self.ready)
            else:
                self._loop.remove_writer(self._fd)

    def _begin(self, stream: int, path: bytes, message: bytes, call: Call) -> None:
        handler = self._server.handlers.get(path)
        if handler is None:
            self._connection.finish(stream, UNIMPLEMENTED, b"unknown method " + path)
            self._flush_soon()
            return
        run = self._run(handler, message, stream, call)
        left = call.time_remaining()
        if path in self._server.quick and left != 0:
            begun = Begun(run)
            if begun.done:
                return
            run = begun
        timer = None if left is None else self._loop.call_later(left, self._expire, stream, call)
        self._tasks[stream] = (self._loop.create_task(run), timer)

    def _left(self, stream: int) -> None:
        """The caller is gone: so is its call."""
        task, timer = self._tasks.pop(stream, (None, None))
        if timer is not None:
            timer.cancel()
        if task is not None:
            task.cancel()

    def _expire(self, stream: int, call: Call) -> None:
        call.expired = True
        if self._open:
            self._connection.finish(stream, DEADLINE_EXCEEDED, b"Deadline Exceeded")
            self._flush_soon()
        self._left(stream)

    async def _run(self, handler: Handler, message: bytes, stream: int, call: Call) -> None:
        status, text = 0, ""
        try:
            answer = await handler(message, call)
            if answer is not None:
                self._send(stream, answer)
        except Ended as e:
            status, text = e.status, e.text
        except asyncio.CancelledError:
            status, text = UNAVAILABLE, "the call was cancelled because the daemon stops"
            raise
        except Exception as e:
            status, text = UNKNOWN, f"unforeseen failure: {type(e).__name__}: {e}"
            self._loop.call_exception_handler({"message": "a gRPC handler failed", "exception": e})
        finally:
            self._finish(stream, status, text)

    def _finish(self, stream: int, status: int, text: str) -> None:
        _, timer = self._tasks.pop(stream, (None, None))
        if timer is not None:
            timer.cancel()
        if self._open:
            self._connection.finish(stream, status, text.encode("utf-8", "replace"))
            if self._batch or self._tasks:
                self._flush_soon()  # with those that end in the same turn of the loop
            else:
                self._flush()

    def _send(self, stream: int, message: bytes) -> None:
        if len(message) > self._server.limits.max_send:
            limit = self._server.limits.max_send
            raise Ended(RESOURCE_EXHAUSTED, f"trying to send message larger than max ({len(message)} vs. {limit})")
        if not self._open:
            return
        try:
            self._connection.send(stream, message)
        except NativeError as e:
            if e.errno != errno.ENOBUFS:
                raise
            text = f"{self._server.limits.max_unread} bytes of answers wait for this client already: read them first"
            raise Ended(RESOURCE_EXHAUSTED, text) from e

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            if not self._batch:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._open:
            flags = self._connection.flush()
            if flags & OVER:
                self.ready()  # takes the events of what is over
            else:
                self._settle(flags)


class CallServer:
    """Runs the calls of connections that a front hands over. ``handlers``: path → handler. ``quick``: paths of calls
    that as a rule are answered without waiting for anything; their first step is made without a task."""

    def __init__(
        self, handlers: Mapping[bytes, Handler], limits: Limits, quick: frozenset[bytes] = frozenset()
    ) -> None:
        self.handlers, self.limits, self.quick = handlers, limits, quick
        self._links: set[Link] = set()
        self._read = self._write = -1
        self._stopping = False

    def start(self) -> int:
        """The descriptor for the front's hand-over; ours, closed by ``stop``."""
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        count_handle("CallServer", 1)
        asyncio.get_running_loop().add_reader(self._read, self._taken)
        return self._write

    def adopt(self, fd: int, head: bytes = b"") -> None:
        """Serve a connected non-blocking stream socket, which is the server's from then on."""
        if self._stopping or len(self._links) >= self.limits.max_connections:
            os.close(fd)
            return
        limit = self.limits.max_receive
        try:
            connection = Connection(
                fd,
                head,
                max_message=limit,
                max_held=2 * limit + (1 << 20),
                max_streams=self.limits.max_calls,
                max_unread=self.limits.max_unread,
            )
        except NativeError as e:
            os.close(fd)
            problem = {"message": "a gRPC connection was refused", "exception": e}
            asyncio.get_running_loop().call_exception_handler(problem)
            return
        link = Link(self, connection, fd)
        self._links.add(link)
        link.ready()  # its settings, and what was read already

    def forget(self, link: Link) -> None:
        """A connection has ended."""
        self._links.discard(link)

    def _taken(self) -> None:
        while (handed := take(self._read)) is not None:
            self.adopt(*handed)

    async def stop(self, grace: float) -> None:
        """No call begins; those that run have ``grace`` seconds, then they are cancelled; then all is closed.
        The front must have stopped accepting. Idempotent."""
        if self._read < 0:
            return
        self._taken()
        self._stopping = True
        for link in list(self._links):
            link.goaway()
        if running := [task for link in self._links for task in link.tasks()]:
            _, late = await asyncio.wait(running, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for link in list(self._links):
            link.close()
        asyncio.get_running_loop().remove_reader(self._read)
        os.close(self._read)
        os.close(self._write)
        self._read = self._write = -1
        count_handle("CallServer", -1)
