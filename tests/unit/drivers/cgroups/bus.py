"""A D-Bus peer that plays bus and systemd on a unix socket: it answers method calls as a test scripts them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

from dbus_fast import Message, MessageType
from dbus_fast._private.unmarshaller import Unmarshaller
from dbus_fast.unpack import unpack_variants

MANAGER = "org.freedesktop.systemd1.Manager"
PATH = "/org/freedesktop/systemd1"
Answer = Callable[["Peer", Message], Awaitable[None]]


class Peer:
    """One listening socket; ``answer`` has the last word on StartTransientUnit."""

    def __init__(self, path: str, answer: Answer) -> None:
        self.path = path
        self.answer = answer
        self.calls: list[tuple[str, Any]] = []
        self.refuse: dict[str, str] = {}
        self.connections = 0
        self._server: asyncio.AbstractServer | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._serial = 0

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self.drop()
        self._server.close()
        await self._server.wait_closed()

    def drop(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def methods(self) -> list[str]:
        """Members that were called."""
        return [member for member, _ in self.calls]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            await self._authenticate(reader, writer)
            while True:
                await self._handle(await self._message(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _authenticate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := (await reader.readuntil(b"\r\n")).lstrip(b"\0").strip()) != b"BEGIN":
            said = b"OK 1234deadbeef" if line.startswith(b"AUTH EXTERNAL") else b"ERROR"
            writer.write(said + b"\r\n")

    async def _message(self, reader: asyncio.StreamReader) -> Message:
        head = await reader.readexactly(16)
        body, fields = int.from_bytes(head[4:8], "little"), int.from_bytes(head[12:16], "little")
        rest = await reader.readexactly(-(-fields // 8) * 8 + body)
        message = Unmarshaller(io.BytesIO(head + rest)).unmarshall()
        assert message is not None
        return message

    async def _handle(self, message: Message) -> None:
        self.calls.append((str(message.member), unpack_variants(message.body)))
        if message.member in self.refuse:
            self.send(Message.new_error(message, "org.freedesktop.DBus.Error.Failed", self.refuse[message.member]))
        elif message.member == "Hello":
            self.send(Message.new_method_return(message, "s", [":1.1"]))
        elif message.member == "StartTransientUnit":
            await self.answer(self, message)
        else:
            self.send(Message.new_method_return(message))

    def send(self, message: Message) -> None:
        """To whoever is connected last."""
        self._serial += 1
        message.serial = self._serial
        self._writers[-1].write(bytes(message._marshall(False)))

    def started(self, message: Message, job: str) -> None:
        """The reply that names a job."""
        self.send(Message.new_method_return(message, "o", [job]))

    def ended(self, job: str, result: str, unit: str = "x.scope") -> None:
        """The signal that a job has ended."""
        self.send(
            Message(
                message_type=MessageType.SIGNAL,
                path=PATH,
                interface=MANAGER,
                member="JobRemoved",
                signature="uoss",
                body=[1, job, unit, result],
            )
        )
