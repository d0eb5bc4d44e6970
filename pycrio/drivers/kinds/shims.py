"""What the ports ask of the driver for shims, and that driver once it is needed: most nodes never do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pycrio.model.container import ExecResult
from pycrio.model.node import Handler
from pycrio.model.requests import ExecRequest, MonitorRequest
from pycrio.model.stats import CgroupStats

VM = "vm"


class Session(Protocol):
    """See ``flows.ports.ExecSession``."""

    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    pty_fd: int

    async def wait(self) -> int: ...

    def resize(self, width: int, height: int) -> None: ...

    def close_stdin(self) -> None: ...

    async def close(self) -> None: ...


class Runtime(Protocol):
    """See ``flows.ports.Runtime``."""

    async def start(self, handler: Handler, container_id: str) -> None: ...

    async def delete(self, handler: Handler, container_id: str) -> None: ...

    async def state(self, handler: Handler, container_id: str) -> Mapping[str, Any] | None: ...

    async def update(self, handler: Handler, container_id: str, resources: Mapping[str, Any]) -> None: ...

    async def pause(self, handler: Handler, container_id: str, frozen: bool) -> None: ...

    async def exec_sync(self, request: ExecRequest) -> ExecResult: ...

    async def exec_stream(self, request: ExecRequest, tty: bool, stdin: bool) -> Session: ...

    async def garbage(self) -> int: ...


class Shims(Runtime, Protocol):
    """See ``drivers/shim/shims.py``."""

    async def prepare(self, request: MonitorRequest) -> MonitorRequest: ...

    async def init_pid(self, ident: str) -> int: ...

    def knows(self, container_id: str) -> bool: ...

    async def kill(self, container_id: str, number: int) -> bool: ...

    async def end_rest(self, container_id: str) -> None: ...

    def oom_marked(self, container_id: str) -> bool: ...

    async def stats(self, container_id: str) -> CgroupStats | None: ...

    async def close(self) -> None: ...


class Late:
    """``make`` gives the driver; ``state_dir`` exists once it has been used on this host."""

    def __init__(self, make: Callable[[], Shims], state_dir: str) -> None:
        self._make = make
        self._state_dir = state_dir
        self._made: Shims | None = None

    def get(self) -> Shims:
        """The driver."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def used(self) -> Shims | None:
        """The driver, if there is, or was, anything for it."""
        return self.get() if self._made is not None or os.path.isdir(self._state_dir) else None

    async def close(self) -> None:
        """Close what was made."""
        if self._made is not None:
            await self._made.close()
