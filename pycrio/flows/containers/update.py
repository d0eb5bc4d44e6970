"""Change the limits of a created or running container; all of them or none."""

from __future__ import annotations

from pycrio.errors import InvalidRequest, WrongState
from pycrio.flows.containers.tuning import with_shared
from pycrio.flows.node_state import Node
from pycrio.flows.plugins import set_limits
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.resources import Resources
from pycrio.spec.resources import limits, wanted_of


async def update(node: Node, ident: str, wanted: Resources) -> None:
    """NotFound when absent, WrongState unless created or running, InvalidRequest for limits that cannot hold."""
    async with node.turns.of(("container", node.containers.get(ident).id)):
        container = node.containers.get(ident)
        if container.state not in (ContainerState.CREATED, ContainerState.RUNNING):
            raise WrongState(
                f"container {container.id} is not running or created state: {container.state.name.lower()}"
            )
        asked = limits(wanted, node.host.cgroups.controllers())
        document = await node.plugins.update(container, asked)
        if document is not asked:
            wanted = wanted_of(document)
        await _check_memory(node, container, wanted)
        await set_limits(node, container, with_shared(container, document), wanted)
        await node.plugins.updated(node.containers.get(ident))


async def _check_memory(node: Node, container: ContainerRecord, wanted: Resources) -> None:
    if wanted.memory_limit < 0:
        raise InvalidRequest(f"memory limit {wanted.memory_limit} is negative")
    if not wanted.memory_limit:
        return
    stats = await node.host.tasks.stats(container.id, container.cgroup_path)
    used = stats.memory.usage if stats is not None and stats.memory is not None else 0
    if wanted.memory_limit < used:
        raise InvalidRequest(
            f"cannot decrease memory limit to {wanted.memory_limit} bytes: current usage is {used} bytes"
        )
