"""The Runtime port by kind of handler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pycrio.drivers.kinds.shims import VM, Late, Runtime, Session
from pycrio.model.container import ExecResult
from pycrio.model.node import Handler
from pycrio.model.requests import ExecRequest


class RuntimeByKind:
    """See ``flows.ports.Runtime``."""

    def __init__(self, plain: Runtime, shims: Late) -> None:
        self._plain = plain
        self._shims = shims

    def _of(self, handler: Handler, container_id: str) -> Runtime:
        """What a shim runs is the shims' whatever the handler of that name is now: the configuration may have changed.
        What nobody knows is of the handler's kind."""
        shims = self._shims.used()
        known = shims is not None and shims.knows(container_id)
        return self._shims.get() if known or handler.type == VM else self._plain

    async def start(self, handler: Handler, container_id: str) -> None:
        """Start a created container."""
        await self._of(handler, container_id).start(handler, container_id)

    async def delete(self, handler: Handler, container_id: str) -> None:
        """Delete the container, killing what still runs."""
        await self._of(handler, container_id).delete(handler, container_id)

    async def state(self, handler: Handler, container_id: str) -> Mapping[str, Any] | None:
        """The runtime's state document; None for an unknown container."""
        return await self._of(handler, container_id).state(handler, container_id)

    async def update(self, handler: Handler, container_id: str, resources: Mapping[str, Any]) -> None:
        """Apply an OCI linux.resources document."""
        await self._of(handler, container_id).update(handler, container_id, resources)

    async def pause(self, handler: Handler, container_id: str, frozen: bool) -> None:
        """Freeze or thaw the container."""
        await self._of(handler, container_id).pause(handler, container_id, frozen)

    async def exec_sync(self, request: ExecRequest) -> ExecResult:
        """Run a process to its end without a monitor."""
        return await self._of(request.handler, request.container_id).exec_sync(request)

    async def exec_stream(self, request: ExecRequest, tty: bool, stdin: bool) -> Session:
        """Start a process with its stdio in our hands."""
        return await self._of(request.handler, request.container_id).exec_stream(request, tty, stdin)

    async def garbage(self) -> int:
        """Remove what execs of an earlier run left; number of things removed."""
        shims = self._shims.used()
        return await self._plain.garbage() + (await shims.garbage() if shims is not None else 0)
