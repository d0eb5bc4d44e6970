"""Forbidden system calls of containers whose pod has the annotation ``seccomp-notifier-action.crio.io``: counted,
logged and, with the value ``stop``, the end of the container some seconds after the last one."""

from __future__ import annotations

import asyncio
import collections
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pycrio.errors import PycrioError
from pycrio.flows.containers import stop
from pycrio.flows.node_state import Node
from pycrio.flows.pods import options as pod_options
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making

log = obslog.get("seccomp")
ANNOTATION = "seccomp-notifier-action.crio.io"
REASON = "seccomp killed"
QUIET = 5.0  # seconds without a forbidden call after which the container is stopped


async def attach(node: Node, making: Making, document: dict[str, Any], undo: Undo) -> None:
    """Have the refusals of a new container's profile told, if its pod asks for that and may."""
    action = pod_options.value_of(making.annotations, ANNOTATION, making.config.metadata.name)
    profile = document["linux"].get("seccomp")
    if action is None or not profile:
        return
    document["linux"]["seccomp"] = node.host.notifier.profile(profile, making.ident)
    undo.push("forget seccomp notifier", node.host.notifier.forget, making.ident)
    await node.host.notifier.listen(making.ident, Offences(node, making.ident, making.name, action == "stop").add)


async def again(node: Node, container: ContainerRecord) -> None:
    """Listen again after a restart: execs of the container connect as well, and fail where nobody does."""
    pod = node.pods.get(container.pod_id)
    allowed = pod_options.allowed(pod.config, node.host.handlers.get(pod.handler), node.host.options)
    action = pod_options.value_of(allowed, ANNOTATION, container.config.metadata.name)
    if action is not None:
        await node.host.notifier.listen(
            container.id, Offences(node, container.id, container.name, action == "stop").add
        )


class Offences:
    """The forbidden calls of one container."""

    def __init__(self, node: Node, ident: str, name: str, stops: bool) -> None:
        self._node, self._ident, self._name, self._stops = node, ident, name, stops
        self._calls: collections.Counter[str] = collections.Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    def add(self, call: str) -> None:
        """Another one."""
        self._calls[call] += 1
        metrics.seccomp_notified(self._name, call)
        log.info(f"Seccomp blocked syscall '{call}' in container {self._ident}")
        if not self._stops or self._ending is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET, self._expired)

    def _expired(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        used = ", ".join(f"{call} ({count}x)" for call, count in sorted(self._calls.items()))
        try:
            async with self._node.turns.of(("container", self._ident)):
                container = self._node.containers.resolve(self._ident)
                if container is None or container.state is not ContainerState.RUNNING:
                    return
                message = f"Used forbidden syscalls: {used}"
                self._node.containers.put(replace(container, reason=REASON, message=message))
            log.warning("Stopping container because of forbidden system calls", id=self._ident, calls=used)
            await stop.stop(self._node, self._ident, 0)
        except PycrioError as e:
            log.error("Container with forbidden system calls not stopped", id=self._ident, error=str(e))
