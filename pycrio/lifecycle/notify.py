"""Talk to the service manager (man 3 sd_notify); silent where there is none."""

from __future__ import annotations

import asyncio
import os
import socket
import time

from pycrio.flows.node import status
from pycrio.flows.node_state import Node
from pycrio.obs import log as obslog

log = obslog.get("notify")


def send(text: str) -> None:
    """One notification; a manager that does not listen is none of our business."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(text.encode(), target)
        except OSError as e:
            log.debug("Service manager not reached", error=str(e))


def ready() -> None:
    """Serving (also: reload done)."""
    send("READY=1\nSTATUS=Serving")


def reloading() -> None:
    """A reload begins."""
    send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The end begins."""
    send("STOPPING=1")


def watchdog_period() -> float:
    """Seconds between pings, half of what the manager allows; 0 without a watchdog for this process."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    period = int(text) / 1e6
    return period / 2 if period > 1 else 0.0


async def watchdog(node: Node) -> None:
    """Ping as long as the node's own status can be told; until cancelled."""
    period = watchdog_period()
    while period:
        await asyncio.sleep(period)
        view = await asyncio.wait_for(status.status(node, False), period)
        if view.conditions and view.conditions[0].status:
            send("WATCHDOG=1")
