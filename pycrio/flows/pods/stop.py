"""Stop a pod: its containers, its network, its init, its namespaces and mounts. Idempotent.

1. Mark it not ready, so that nothing new starts in it.
2. Stop the containers, all at once, in the time that the request leaves.
3. Tell NRI plugins, which may still want something of the namespaces.
4. Close host ports and detach the network. A plugin's failure is reported, but stops nothing else.
5. Stop the pause process.
6. Unpin the namespaces and unmount shm.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from functools import partial

from pycrio.errors import InvalidRequest, PycrioError
from pycrio.flows.containers import stop as stop_container
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods import linklogs, pause
from pycrio.flows.pods.run import network_request
from pycrio.model.container import ContainerState
from pycrio.model.event import Event, EventType
from pycrio.model.pod import PodRecord
from pycrio.obs import log as obslog

log = obslog.get("pod")
LONGEST = 10.0  # containers have had their grace period from StopContainer before a kubelet stops the pod


async def stop(node: Node, ident: str, deadline: float | None) -> None:
    """Stop a pod. ``deadline``: seconds that the request has left, None for no limit. Unknown: nothing to do."""
    if not ident:
        raise InvalidRequest("PodSandboxId should not be empty")
    pod = node.pods.resolve(ident)
    if pod is not None:
        failure = await stop_but_for_network(node, pod.id, deadline)
        if failure is not None:
            raise failure


async def stop_but_for_network(node: Node, ident: str, deadline: float | None) -> PycrioError | None:
    """Likewise, but the failure of the network alone is given back: everything else has been released then."""
    return await node.removing.run(("stop", ident), lambda: _stop(node, ident, deadline))


def grace(deadline: float | None) -> int:
    """Seconds for each container: what the request has left less one for the pod itself (halved when it is little), and
    ten at most: with a long deadline a process that ignores its stop signal would hold the pod for all of it."""
    total = LONGEST if deadline is None else deadline
    return max(0, int(min(LONGEST, total / 2 if total < 2 else total - 1)))


async def _stop(node: Node, ident: str, deadline: float | None) -> PycrioError | None:
    async with node.turns.of(("pod", ident)):
        pod = node.pods.resolve(ident)
        if pod is None:
            return None
        was_ready = pod.ready
        if was_ready:
            pod = replace(pod, ready=False, stopped_at=now())
            node.pods.put(pod)
        seconds = grace(deadline)
        living = [c for c in node.containers_of(ident) if c.state in (ContainerState.RUNNING, ContainerState.CREATED)]
        await asyncio.gather(*(stop_container.stop(node, c.id, seconds) for c in living))
        await node.plugins.stop_pod(pod)
        failure = await _release(node, pod)
        if was_ready:
            node.events.publish(Event(EventType.STOPPED, ident, ident, now()))
            log.info("Stopped pod sandbox", id=ident)
        return failure


async def _release(node: Node, pod: PodRecord) -> PycrioError | None:
    """Give back what the pod holds on the host; the network's failure, which the next stop tries again."""
    host = node.host
    failure: PycrioError | None = None
    await linklogs.hide(node, pod)
    if pod.network_ready:
        request = network_request(pod, pod.cgroup_parent)
        for release in (partial(host.hostports.remove, pod.id), partial(host.network.delete, request)):
            try:
                await release()
            except PycrioError as e:
                log.warning("Network of pod sandbox not torn down, going on", id=pod.id, error=str(e))
                failure = e
        if failure is None:
            pod = replace(pod, network_ready=False)
    if pod.infra_pid:
        handler = host.handlers.get(pod.handler)
        await host.tasks.kill(pod.id, pod.infra_pid, pod.infra_start_time, signal.SIGKILL)
        await host.processes.wait_gone(pod.infra_pid, pod.infra_start_time, 10)
        await host.runtime.delete(handler, pod.id)
        await host.monitors.forget_exit(pod.id)
        await host.cgroups.leave(pod.cgroup_parent, pod.id)
        pod = replace(pod, infra_pid=0, infra_start_time=0, infra_init_pid=0)
    pod = await pause.release(node, pod)
    if pod.namespaces:
        await host.namespaces.remove(list(pod.namespaces.values()))
        # The paths stay in the record until the network is down: the retry of a failed DEL names the namespace.
        if failure is None:
            pod = replace(pod, namespaces={})
    if pod.shm_path.startswith(pod.run_dir):
        await host.mounts.unmount(pod.shm_path)
    node.pods.put(pod)
    return failure
