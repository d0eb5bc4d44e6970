"""A shim without containers: it answers calls as a test tells it, and its program does what shims' programs do."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.ttrpc.frames import Plain
from pycrio.ttrpc.link import UNIMPLEMENTED, CallError, Link

NOT_FOUND = 5
REQUESTS: dict[str, type[Message]] = {
    "Create": pb.CreateRequest,
    "Exec": pb.ExecRequest,
    "Kill": pb.KillRequest,
    "CloseIO": pb.CloseIORequest,
    "ResizePty": pb.ResizeRequest,
    "Update": pb.UpdateRequest,
    "Shutdown": pb.ShutdownRequest,
    **dict.fromkeys(("Start", "State", "Wait", "Delete"), pb.ProcessRequest),
    **dict.fromkeys(("Pause", "Resume", "Stats", "Connect"), pb.ContainerRequest),
}
Answer = Message | CallError | Callable[[Any], "Message | Awaitable[Message]"]

PROGRAM = """#!{python}
import os, sys
here = os.getcwd()
action = sys.argv[-1]
with open({log!r}, "a") as f:
    f.write(" ".join(sys.argv[1:]) + "\\n")
if action == "start":
    sys.stdout.write({answer!r})
elif action == "delete":
    sys.stderr.write({refusal!r})
    os.write(1, b"\\x08\\x07\\x10\\x89\\x01")  # DeleteResponse(pid=7, exit_status=137)
    sys.exit(3 if {refusal!r} else 0)
"""


class FakeShim:
    """``answers`` by method: a message, a status, or a function of the request. ``calls`` is what came, in order."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = str(directory / "shim.sock")
        self.log = directory / "program.log"
        self.answers: dict[str, Answer] = {}
        self.calls: list[tuple[str, Any]] = []
        self._links: list[Link] = []
        self._came = asyncio.Event()
        self._server: asyncio.AbstractServer | None = None

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]

    def got(self, method: str) -> Any:
        """The last request of a method."""
        return next(request for name, request in reversed(self.calls) if name == method)

    async def called(self, method: str) -> None:
        """Wait until a method has been called."""
        while method not in self.methods:
            self._came.clear()
            await self._came.wait()

    def program(self, directory: pathlib.Path, answer: str = "", refusal: str = "") -> str:
        """A shim's program that starts ``answer`` (this shim's address) and records its command lines."""
        path = directory / "containerd-shim-fake-v2"
        text = PROGRAM.format(
            python=sys.executable, log=str(self.log), answer=answer or f"unix://{self.path}", refusal=refusal
        )
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    async def open(self) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(self._accept, self.path)

    def _accept(self) -> Link:
        link = Link(self._serve, accepted=True, codec=Plain(), peer="client")
        self._links.append(link)
        return link

    async def _serve(self, service: str, method: str, payload: bytes) -> bytes:
        if service not in ("containerd.task.v2.Task", "containerd.task.v3.Task") or method not in REQUESTS:
            raise CallError(UNIMPLEMENTED, f"{service}/{method}")
        request = REQUESTS[method].FromString(payload)
        self.calls.append((method, request))
        self._came.set()
        answer = self.answers.get(method, Empty())
        if callable(answer):
            answer = answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, CallError):
            raise answer
        assert isinstance(answer, Message)
        return answer.SerializeToString()

    async def close(self) -> None:
        """As if it had been killed."""
        if self._server is not None:
            self._server.close()
            for link in self._links:
                link.close("the test ends")
                await link.wait_closed()
            await self._server.wait_closed()
            self._server = None


@contextlib.asynccontextmanager
async def fake_shim(directory: pathlib.Path) -> AsyncIterator[FakeShim]:
    """One that listens."""
    shim = FakeShim(directory)
    await shim.open()
    try:
        yield shim
    finally:
        await shim.close()
