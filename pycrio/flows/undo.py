"""Compensation: each acquired thing registers its undo on the next line; a failed flow unwinds them in reverse.

    async with Undo("run pod") as undo:
        pins = await host.namespaces.create(request)
        undo.push("unpin namespaces", host.namespaces.remove, list(pins.values()))
        ...
        undo.release()          # success: nothing is undone

Unwinding is shielded from cancellation (a client that hangs up must not leave half a pod) and goes on past an undo that
fails. What made the flow fail often makes its undoing fail as well (no descriptors, no space, a lock that somebody
holds), so what failed is tried again later, in the same order; the next start of the daemon meets what is left then.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any

from pycrio.obs import log as obslog

log = obslog.get("undo")
AGAIN = (1.0, 5.0, 25.0, 125.0)
"""Seconds before each further attempt at what could not be undone."""

Step = tuple[str, Callable[..., Awaitable[Any] | Any], tuple[Any, ...]]
_later: set[asyncio.Task[None]] = set()


class Undo:
    """One stack per flow: entered once, released once."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self._steps: list[Step] = []
        self._once: set[str] = set()

    def push(self, what: str, undo: Callable[..., Awaitable[Any] | Any], *args: Any) -> None:
        """Register how to undo what was just done; ``undo`` may be a plain or an async callable. It may run again,
        later: it must touch nothing that the repeated request could have made by then."""
        self._steps.append((what, undo, args))

    def once(self, what: str, undo: Callable[..., Awaitable[Any] | Any], *args: Any) -> None:
        """As ``push``, for what bears a name that the caller gave: later it may be another's."""
        self._once.add(what)
        self.push(what, undo, *args)

    def release(self) -> None:
        """Success: forget every step."""
        self._steps.clear()

    async def unwind(self) -> None:
        """Undo everything now, newest first; what cannot be undone now is undone later."""
        left = await self._pass(reversed(self._steps))
        self._steps.clear()
        if left := [step for step in left if step[0] not in self._once]:
            task = asyncio.get_running_loop().create_task(self._again(left))
            _later.add(task)
            task.add_done_callback(_later.discard)

    async def _pass(self, steps: Iterable[Step]) -> list[Step]:
        """Run steps; those that failed."""
        left = []
        for step in steps:
            what, undo, args = step
            try:
                result = undo(*args)
                if inspect.isawaitable(result):
                    await result
            except Exception as e:
                log.warning("Undo step failed, going on", flow=self.flow, step=what, error=str(e))
                left.append(step)
        return left

    async def _again(self, left: list[Step]) -> None:
        for delay in AGAIN:
            await asyncio.sleep(delay)
            left = await self._pass(left)
            if not left:
                log.info("What could not be undone at once is undone", flow=self.flow)
                return
        log.error(
            "Not undone, the next start of the daemon removes it", flow=self.flow, steps=", ".join(s[0] for s in left)
        )

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
