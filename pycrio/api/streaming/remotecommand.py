"""Exec and attach between a client's channels and a process: copying, sizes, half-close, and how it ended.

The transports (``spdy_channels``, ``websocket``) provide the channels; what happens on them is the same for both and
follows the Kubernetes remote command protocol, versions 1 to 5: one channel per standard stream, one for terminal
sizes (version 3), and one for the outcome, as a plain text of failures up to version 3 and as a Status object after.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pycrio.api.streaming.link import Gone
from pycrio.errors import PycrioError
from pycrio.flows.containers import attach as attach_flow
from pycrio.flows.containers import exec as exec_flow
from pycrio.flows.containers.attach import Attachment
from pycrio.flows.descriptors import Reader, Writer
from pycrio.flows.node_state import Node
from pycrio.flows.ports import ExecSession
from pycrio.obs import log as obslog
from pycrio.obs.trace import Carrier

log = obslog.get("streaming")

T = TypeVar("T")

LATE_INPUT = 10.0
"""Seconds in which an attached process may still take the input of a client that has left."""
LAST_WORDS = 5.0
"""Seconds in which a client may be told why its session is ended."""
_SIZE_LIMIT = 4096


class Source(Protocol):
    """A channel from the client."""

    async def read(self) -> bytes:
        """The next bytes; b"" when the client has ended the channel."""


class Sink(Protocol):
    """A channel to the client."""

    async def write(self, data: bytes) -> None:
        """Send, waiting as long as the client is slow. ConnectionError when it has left."""

    async def close(self) -> None:
        """End the channel."""


@dataclass(slots=True)
class Channels:
    """What a client opened. ``version``: of the protocol, 1 to 5. ``gone`` is set when the client has left, or must."""

    error: Sink
    version: int
    stdin: Source | None = None
    stdout: Sink | None = None
    stderr: Sink | None = None
    resize: Source | None = None
    gone: Gone = field(default_factory=Gone)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session as asked for: the container, the command (none: attach) and the streams. ``trace``: the trace
    of who asked."""

    container_id: str
    argv: tuple[str, ...]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool
    trace: Carrier = field(default_factory=dict)


async def serve(node: Node, wanted: Wanted, channels: Channels) -> None:
    """One session from its channels' being there to its outcome's being sent."""
    try:
        if wanted.argv:
            status = await _exec(node, wanted, channels)
        else:
            status = await _attach(node, wanted, channels)
    except PycrioError as e:
        log.debug("Session failed", id=wanted.container_id, error=str(e))
        status = _failure(f"{'exec' if wanted.argv else 'attach'} failed: {e}")
    if status is not None:
        await _report(channels, status)
    elif channels.gone.why:
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):  # it need not be one that listens
            await asyncio.wait_for(_report(channels, _failure(channels.gone.why)), LAST_WORDS)


async def _report(channels: Channels, status: dict[str, Any]) -> None:
    """The outcome comes before the ends of the outputs: a client of version 1 looks no further than those."""
    with contextlib.suppress(ConnectionError):
        if channels.version >= 4:
            await channels.error.write(json.dumps(status).encode())
        elif text := status.get("message", ""):
            await channels.error.write(text.encode())
        for sink in (channels.error, channels.stdout, channels.stderr):
            if sink is not None:
                await sink.close()


def _success() -> dict[str, Any]:
    return {"metadata": {}, "status": "Success"}


def _failure(text: str) -> dict[str, Any]:
    details = {"causes": [{"message": text}]}
    status = {"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500}
    return {**status, "message": text, "details": details}


def _exited(code: int) -> dict[str, Any]:
    if code == 0:
        return _success()
    status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode"}
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    return {**status, "message": f"command terminated with non-zero exit code: {code}", "details": details}


# --- exec


async def _exec(node: Node, wanted: Wanted, channels: Channels) -> dict[str, Any] | None:
    """Run the command; None when the client left first: the command has been killed then."""
    stdin = wanted.stdin and channels.stdin is not None
    session = await exec_flow.exec_stream(node, wanted.container_id, wanted.argv, wanted.tty, stdin)
    try:
        code = await _converse(session, channels)
    finally:
        await _settled(session.close())
    return None if code is None else _exited(code)


async def _converse(session: ExecSession, channels: Channels) -> int | None:
    pty = session.pty_fd
    first = Reader(pty if pty >= 0 else session.stdout_fd)
    readers = [(first, channels.stdout)]
    if session.stderr_fd >= 0:
        readers.append((Reader(session.stderr_fd), channels.stderr))
    async with _tasks() as start:
        outputs = [start(_output(reader, sink)) for reader, sink in readers]
        if channels.stdin is not None and max(pty, session.stdin_fd) >= 0:
            start(_exec_input(session, channels.stdin))
        if channels.resize is not None:
            start(_sizes(channels.resize, session))
        gone, ended = start(channels.gone.wait()), start(session.wait())
        if not await _either(gone, ended):
            return None
        # What the command left behind may keep its outputs open for good; all that it wrote itself is in them now.
        for reader, _ in readers:
            reader.finish()
        return ended.result() if await _either(gone, *outputs) else None


async def _output(reader: Reader, sink: Sink | None) -> None:
    """Copy to the client. What nobody wants is read all the same, so that the command is not held up."""
    while data := await reader.read():
        if sink is not None:
            try:
                await sink.write(data)
            except ConnectionError:
                sink = None


async def _exec_input(session: ExecSession, source: Source) -> None:
    writer = Writer(max(session.pty_fd, session.stdin_fd))
    while (data := await source.read()) and await writer.write(data):
        pass
    if session.pty_fd < 0:
        session.close_stdin()
    await _drained(source)


async def _drained(source: Source) -> None:
    """Input that nobody takes must not hold up what the client sends on other channels."""
    while await source.read():
        pass


async def _sizes(source: Source, session: ExecSession) -> None:
    async for width, height in sizes(source):
        session.resize(width, height)


# --- attach


async def _attach(node: Node, wanted: Wanted, channels: Channels) -> dict[str, Any] | None:
    attachment = await attach_flow.attach(node, wanted.container_id, wanted.tty)
    try:
        async with _tasks() as start:
            output, gone = start(_attached_output(attachment, channels)), start(channels.gone.wait())
            ends: set[asyncio.Task[Any]] = {output, gone}
            if channels.stdin is not None:
                copying = start(_attached_input(attachment, channels.stdin))
                ends.add(start(_detached(copying, channels)))
            if channels.resize is not None:
                start(_attached_sizes(attachment, channels.resize))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if output.done():
                output.result()
                attachment.check_end()
            if not gone.done() or output.done():
                return _success()
            if channels.stdin is not None:
                await asyncio.wait({copying, output}, timeout=LATE_INPUT, return_when=asyncio.FIRST_COMPLETED)
            return None
    finally:
        attachment.close()


async def _detached(copying: asyncio.Task[bool], channels: Channels) -> None:
    """Return when the input's end is the session's: the client typed the keys, or wants no output."""
    if not await copying and not (channels.stdout is None and channels.stderr is None):
        await asyncio.get_running_loop().create_future()


async def _attached_output(attachment: Attachment, channels: Channels) -> None:
    sinks: dict[int, Sink | None] = {1: channels.stdout, 2: channels.stderr}
    async for number, data in attachment.output():
        sink = sinks[number]
        if sink is not None:
            try:
                await sink.write(data)
            except ConnectionError:
                sinks[number] = None


async def _attached_input(attachment: Attachment, source: Source) -> bool:
    """Copy to the process; whether the client asked to be detached."""
    while data := await source.read():
        if await attachment.write(data):
            return True
        if attachment.refused:
            await _drained(source)
            return False
    await attachment.end_input()
    return False


async def _attached_sizes(attachment: Attachment, source: Source) -> None:
    async for width, height in sizes(source):
        await attachment.resize(width, height)


# --- common


async def sizes(source: Source) -> AsyncIterator[tuple[int, int]]:
    """Terminal sizes ``(width, height)`` from JSON objects ``{"Width": …, "Height": …}``; others are passed over."""
    text, decoder = "", json.JSONDecoder()
    while data := await source.read():
        text = (text + data.decode("utf-8", "replace")).lstrip()
        while text:
            try:
                found, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                break
            text = text[end:].lstrip()
            if (size := _size(found)) is not None:
                yield size
        if len(text) > _SIZE_LIMIT:
            log.debug("Terminal sizes that are no JSON, ignoring the rest")
            await _drained(source)
            return


def _size(found: object) -> tuple[int, int] | None:
    if not isinstance(found, dict):
        return None
    named = {str(key).lower(): value for key, value in found.items()}
    width, height = named.get("width"), named.get("height")
    if isinstance(width, int) and isinstance(height, int) and 0 < width < 65536 and 0 < height < 65536:
        return width, height
    return None


@contextlib.asynccontextmanager
async def _tasks() -> AsyncIterator[Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]]]:
    """``start(coroutine)`` gives a task. When the block is left every task has ended, so that descriptors can go."""
    loop, started = asyncio.get_running_loop(), list[asyncio.Task[Any]]()

    def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = loop.create_task(work)
        started.append(task)
        return task

    try:
        yield start
    finally:
        for task in started:
            task.cancel()
        for result in await asyncio.gather(*started, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("Part of a session failed", error=f"{type(result).__name__}: {result}")


async def _either(one: asyncio.Task[Any], *others: asyncio.Task[Any]) -> bool:
    """Wait until ``one`` has ended (False), or else all ``others`` have (True)."""
    waiting = set(others)
    while waiting and not one.done():
        done, _ = await asyncio.wait({one, *waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting -= done
    return not waiting


async def _settled(work: Coroutine[Any, Any, None]) -> None:
    """Await to the end, whatever happens to us meanwhile."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
