"""Talk to the service manager (man 3 sd_notify); silent where there is none."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass

from pycrio.errors import PycrioError
from pycrio.flows.node import status
from pycrio.flows.node_state import Node
from pycrio.flows.views import NodeStatusView
from pycrio.obs import log as obslog

log = obslog.get("notify")
# Everything that the manager says to the process that it started, and to no other.
Reach = Callable[[], Awaitable[None]]
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Manager:
    """Where the service manager listens ("": nowhere), and how long it waits for a sign of life (seconds; 0: it does
    not)."""

    address: str = ""
    patience: float = 0.0

    @staticmethod
    def take(environ: MutableMapping[str, str]) -> Manager:
        """What the environment says, which is taken out of it: an OCI runtime that inherits NOTIFY_SOCKET serves the
        container a socket of its own, which one half of the time (start, but not create) cannot be there."""
        said = {name: environ.pop(name, "") for name in VARIABLES}
        limit, pid = said["WATCHDOG_USEC"], said["WATCHDOG_PID"]
        ours = not pid or pid == str(os.getpid())
        return Manager(said["NOTIFY_SOCKET"], int(limit) / 1e6 if limit.isdecimal() and ours else 0.0)

    def send(self, text: str) -> None:
        """One notification; a manager that does not listen is none of our business."""
        if not self.address:
            return
        target = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(text.encode(), target)
            except OSError as e:
                log.debug("Service manager not reached", error=str(e))

    def ready(self) -> None:
        """Serving (also: reload done)."""
        self.send("READY=1\nSTATUS=Serving")

    def reloading(self) -> None:
        """A reload begins."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self.send("STOPPING=1")

    def watchdog_period(self) -> float:
        """Seconds between pings, half of what the manager allows; 0 without one or with one below a second, which
        nobody means."""
        return self.patience / 2 if self.patience > 1 else 0.0

    async def watchdog(self, node: Node, reach: Reach) -> None:
        """Ping as long as the node's own status can be told and says that the runtime is ready, and clients reach us:
        ``reach`` is one, and raises OSError or PycrioError when it does not. Until cancelled. What is to be done about
        a daemon that cannot tell it, the manager decides."""
        period = self.watchdog_period()
        while period:
            await asyncio.sleep(period)
            try:
                view = await asyncio.wait_for(_look(node, reach), period)
            except (PycrioError, OSError, asyncio.TimeoutError) as e:
                log.error("Health check failed, the service manager gets no sign of life", error=repr(e))
                continue
            if view.conditions and view.conditions[0].status:
                self.send("WATCHDOG=1")


async def _look(node: Node, reach: Reach) -> NodeStatusView:
    await reach()
    return await status.status(node, False)
