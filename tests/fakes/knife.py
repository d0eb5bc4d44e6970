"""Cut a flow off at any of its steps: a step is one call of a port, or one write or removal of a record.

``Knife`` puts itself between a node and its host. It counts the steps, and at one of them, before it or after it,

kill    the daemon is gone: neither this flow nor an undo nor anything else of that node touches the host any more;
cancel  the task that makes the call is cancelled, as an ending daemon does with whatever still runs (after the step:
        it was done, but its result is lost, unless the port undoes it then);
fail    the call is refused (before it does anything: what a port did by half is the port's own to undo).
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import inspect
from collections.abc import Callable
from typing import Any, Literal

from pycrio.errors import RuntimeFailure
from pycrio.flows.node_state import Node
from pycrio.flows.ports import Host

Way = Literal["kill", "cancel", "fail"]
NOT_PORTS = frozenset({"identity", "options", "handlers"})
# What they made is not lost when their caller is cancelled: they undo it then, or their caller gets it first.
OWN_UNDO = frozenset(
    ["rootfs.create", "rootfs.mount", "rootfs.mount_image", "network.add", "monitors.create", "namespaces.create"]
)
# These run in tasks of their own, which end with them: what is cancelled then is the call itself, before its end.
OWN_TASK = frozenset({"layers.unpack", "artifacts.receive"})


class Killed(BaseException):
    """The daemon does not live on after this; nothing that handles failures may handle it."""


class Knife:
    """``at``: the step to cut at, counted from ``arm``; -1: none, only count. ``steps`` are their names."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.dead = False
        self.end = asyncio.Event()
        self.struck = ""
        self._armed = False
        self._at, self._after = -1, False
        self._way: Way = "kill"

    def node(self, host: Host, state_dir: str) -> Node:
        """A node on the host whose every step goes by here."""
        names = [f.name for f in dataclasses.fields(host) if f.name not in NOT_PORTS]
        between = Host(**{f.name: getattr(host, f.name) for f in dataclasses.fields(host)})
        for name in names:
            setattr(between, name, Between(self, name, getattr(host, name)))
        node = Node(between, state_dir)
        for name in ("pods", "containers"):
            table: Any = getattr(node, name)
            table._files = Between(self, name, table._files)
        return node

    def arm(self, way: Way = "kill", at: int = -1, *, after: bool = False) -> None:
        """Count from now on."""
        self._armed, self._way, self._at, self._after = True, way, at, after
        self.steps.clear()

    def disarm(self) -> None:
        """Count no more."""
        self._armed = False

    def step(self, name: str) -> bool:
        """Note a step; whether it is the one. Killed for whatever a dead daemon tries."""
        if self.dead:
            raise Killed(name)
        if not self._armed:
            return False
        self.steps.append(name)
        return len(self.steps) == self._at + 1

    def cut(self, after: bool, waits: bool) -> None:
        """At the step: this side of it?"""
        if after != self._after or (self._way != "kill" and not waits) or (self._way == "fail" and after):
            return
        if self._way == "cancel" and after and self.steps[self._at] in OWN_TASK:
            return
        self.struck = self.steps[self._at]
        if self._way == "kill":
            self.dead = True
            self.end.set()
            raise Killed(self.struck)
        if self._way == "fail":
            raise RuntimeFailure("this call fails")
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    def refuse_record(self) -> None:
        """A disk that is full."""
        if self._way == "fail":
            self.struck = self.steps[self._at]
            raise OSError(errno.ENOSPC, "No space left on device")


class Between:
    """Stands for a port or a directory of records."""

    def __init__(self, knife: Knife, name: str, target: Any) -> None:
        self._knife, self._name, self._target = knife, name, target

    def __iter__(self) -> Any:
        return iter(self._target)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found) or inspect.isasyncgenfunction(found):
            return found
        label = f"{self._name}.{name}"
        return self._waiting(label, found) if inspect.iscoroutinefunction(found) else self._plain(label, found)

    def _plain(self, label: str, found: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            due = self._knife.step(label)
            if due:
                self._knife.cut(False, False)
                if label in ("pods.write", "containers.write"):
                    self._knife.refuse_record()
            result = found(*args, **kwargs)
            if due:
                self._knife.cut(True, False)
            return result

        return call

    def _waiting(self, label: str, found: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            due = self._knife.step(label)
            if due:
                self._knife.cut(False, True)
                await asyncio.sleep(0)
            result = await found(*args, **kwargs)
            if due:
                self._knife.cut(True, True)
                if label not in OWN_UNDO:
                    await asyncio.sleep(0)
            elif self._knife.dead:
                raise Killed(label)
            return result

        return call
