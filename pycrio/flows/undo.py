"""Compensation: each acquired thing registers its undo on the next line; a failed flow unwinds them in reverse.

    async with Undo("run pod") as undo:
        pins = await host.namespaces.create(request)
        undo.push("unpin namespaces", host.namespaces.remove, list(pins.values()))
        ...
        undo.release()          # success: nothing is undone

Unwinding is shielded from cancellation (a client that hangs up must not leave half a pod) and goes on past an undo that
fails, which is logged: the janitor meets what is left.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from pycrio.obs import log as obslog

log = obslog.get("undo")


class Undo:
    """One stack per flow: entered once, released once."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self._steps: list[tuple[str, Callable[..., Awaitable[Any] | Any], tuple[Any, ...]]] = []

    def push(self, what: str, undo: Callable[..., Awaitable[Any] | Any], *args: Any) -> None:
        """Register how to undo what was just done; ``undo`` may be a plain or an async callable."""
        self._steps.append((what, undo, args))

    def release(self) -> None:
        """Success: forget every step."""
        self._steps.clear()

    async def unwind(self) -> None:
        """Undo everything now, newest first."""
        while self._steps:
            what, undo, args = self._steps.pop()
            try:
                result = undo(*args)
                if inspect.isawaitable(result):
                    await result
            except Exception as e:
                log.warning("Undo step failed, going on", flow=self.flow, step=what, error=str(e))

    async def __aenter__(self) -> Undo:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._steps or kind is None:
            self._steps.clear()
            return
        task = asyncio.ensure_future(self.unwind())
        cancelled = False
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                cancelled = True  # remembered; the original error is already on its way
        if cancelled and not isinstance(error, asyncio.CancelledError):
            raise asyncio.CancelledError from error
