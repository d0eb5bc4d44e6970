"""Attach to a container's main process: its output as it comes, its input, its terminal's size.

Any number of clients may be attached; each has a connection of its own to the container's monitor, which hands the
output to all of them and closes the connections when the process has ended.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

from pycrio.errors import InvalidRequest, WrongState
from pycrio.flows.descriptors import CHUNK, Reader, Writer
from pycrio.flows.node_state import Node
from pycrio.model.container import ContainerRecord

DETACH = b"\x10\x11"
"""ctrl-p ctrl-q, typed at a terminal."""
_STREAMS = {2: 1, 3: 2}  # the monitor's packet types: standard output, standard error
_PACKET = 8192  # bytes of input per packet: every monitor's buffer takes as many


def check(container: ContainerRecord, tty: bool) -> None:
    """InvalidRequest unless the request's terminal is the container's: that cannot be changed any more."""
    if container.config.tty == tty:
        return
    has = "runs in a terminal: attach with tty" if container.config.tty else "has no terminal: attach without tty"
    raise InvalidRequest(f"container {container.id} {has}")


async def attach(node: Node, ident: str, tty: bool) -> Attachment:
    """Attach to a created or running container; the caller closes. NotFound when it is neither."""
    container = node.running(ident)
    check(container, tty)
    return Attachment(node, container, await node.host.monitors.attach(container.id, container.bundle))


class Attachment:
    """One client's connection to a container's monitor."""

    def __init__(self, node: Node, container: ContainerRecord, fd: int) -> None:
        self._node = node
        self._container = container
        self._fd = fd
        self._reader = Reader(fd, 4 * _PACKET + 1)  # read one at a time, and what does not fit would be lost
        self._writer = Writer(fd, _PACKET)
        self._keys = DetachKeys() if container.config.tty else None
        self.refused = False

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """``(1, bytes)`` for standard output and ``(2, bytes)`` for standard error, until the process has ended.

        Packets that are there already are put together, as far as they belong to the same stream.
        """
        other = b""
        while True:
            if other:
                await asyncio.sleep(0)  # as reading does: two busy streams must not keep the loop from everybody else
            packet, other = other or await self._reader.read(), b""
            if not packet:
                return
            parts, size = [packet[1:]], len(packet)
            while size < CHUNK and not other and (more := self._reader.read_now()):
                if more[0] == packet[0]:
                    parts.append(more[1:])
                    size += len(more)
                else:
                    other = more
            data = b"".join(parts)
            if data and packet[0] in _STREAMS:
                yield _STREAMS[packet[0]], data

    def check_end(self) -> None:
        """After the output's end: WrongState when that was not the process's own."""
        container = self._container
        if self._node.host.processes.alive(container.pid, container.pid_start_time):
            raise WrongState(
                f"container {container.id} still runs, but its monitor has ended this connection: output was not taken "
                "in time, or the monitor was killed; attach again"
            )

    async def write(self, data: bytes) -> bool:
        """Input for the process, as fast as it is taken; True when it contained the keys that detach.

        ``refused`` is set when nobody takes input any more.
        """
        detached = False
        if self._keys is not None:
            data, detached = self._keys.filter(data)
        if data and not await self._writer.write(data):
            self.refused = True
        return detached

    async def end_input(self) -> None:
        """The client has no more input. The monitor ends the process's own input if the container wants it so
        (``stdin_once``)."""
        if self._keys is not None and (rest := self._keys.rest()):
            await self._writer.write(rest)
        with socket.socket(fileno=os.dup(self._fd)) as sock:
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.refused = True  # the monitor has closed first

    async def resize(self, width: int, height: int) -> None:
        """Set the size of the container's terminal."""
        await self._node.host.monitors.resize(self._container.bundle, width, height)

    def close(self) -> None:
        """Detach. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DetachKeys:
    """Finds the detach keys in typed input, also when they come in different pieces."""

    def __init__(self) -> None:
        self._held = b""

    def filter(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were typed (what follows them is dropped)."""
        data = self._held + data
        self._held = b""
        before, found, _ = data.partition(DETACH)
        if found:
            return before, True
        if data.endswith(DETACH[:1]):
            self._held = data[-1:]
            data = data[:-1]
        return data, False

    def rest(self) -> bytes:
        """A first key that no second one followed."""
        held, self._held = self._held, b""
        return held
