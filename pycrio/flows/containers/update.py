"""Change the limits of a created or running container; all of them or none."""

from __future__ import annotations

from dataclasses import fields, replace

from pycrio.errors import InvalidRequest, WrongState
from pycrio.flows.node_state import Node
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.resources import Resources
from pycrio.spec.resources import limits


async def update(node: Node, ident: str, wanted: Resources) -> None:
    """NotFound when absent, WrongState unless created or running, InvalidRequest for limits that cannot hold."""
    async with node.turns.of(("container", node.containers.get(ident).id)):
        container = node.containers.get(ident)
        if container.state not in (ContainerState.CREATED, ContainerState.RUNNING):
            raise WrongState(
                f"container {container.id} is not running or created state: {container.state.name.lower()}"
            )
        merged = merge(container.resources, wanted)
        await _check_memory(node, container, wanted)
        document = limits(wanted, node.host.cgroups.controllers())
        if document:
            await node.host.runtime.update(node.host.handlers.get(container.handler), container.id, document)
        node.containers.put(replace(container, resources=merged))


def merge(old: Resources, new: Resources) -> Resources:
    """New values above old ones; 0 and "" leave the old."""
    changed = {f.name: getattr(new, f.name) for f in fields(Resources) if getattr(new, f.name)}
    changed.pop("oom_score_adj", None)  # fixed at the start of the process
    if "unified" in changed:
        changed["unified"] = {**old.unified, **new.unified}
    return replace(old, **changed)


async def _check_memory(node: Node, container: ContainerRecord, wanted: Resources) -> None:
    if wanted.memory_limit < 0:
        raise InvalidRequest(f"memory limit {wanted.memory_limit} is negative")
    if not wanted.memory_limit:
        return
    stats = await node.host.cgroups.stats(container.cgroup_path)
    used = stats.memory.usage if stats is not None and stats.memory is not None else 0
    if wanted.memory_limit < used:
        raise InvalidRequest(
            f"cannot decrease memory limit to {wanted.memory_limit} bytes: current usage is {used} bytes"
        )
