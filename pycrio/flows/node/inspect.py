"""What the HTTP status API asks: the node in short, one container, freeze and thaw."""

from __future__ import annotations

import json
from dataclasses import replace

from pycrio.errors import NotFound, WrongState
from pycrio.flows.node_state import Node
from pycrio.flows.views import Inspection
from pycrio.model.container import ContainerState
from pycrio.model.security import NamespaceMode


def info(node: Node, driver: str) -> dict[str, object]:
    """The object of ``/info``."""
    return {
        "storage_driver": driver,
        "storage_image": node.host.options.pause_image,
        "storage_root": node.host.options.storage_root,
        "cgroup_driver": node.host.cgroups.driver(),
        "default_id_mappings": {
            "uids": [{"container_id": 0, "host_id": 0, "size": (1 << 32) - 1}],
            "gids": [{"container_id": 0, "host_id": 0, "size": (1 << 32) - 1}],
        },
    }


async def inspect(node: Node, ident: str) -> Inspection:
    """One container; NotFound when it or its pod is unknown."""
    container = node.containers.resolve(ident)
    if container is None:
        raise NotFound("container", ident, "can't find the container with id")
    pod = node.pods.resolve(container.pod_id)
    if pod is None:
        raise NotFound("pod sandbox", container.pod_id, "can't find the sandbox for container")
    text = await node.host.files.read(f"{container.bundle}/config.json", 16 << 20)
    return Inspection(
        name=container.name,
        pid=container.first_pid,
        image=container.config.image.user_specified_image or container.image_name,
        image_ref=container.image_ref,
        created=container.created_at,
        labels=container.config.labels,
        annotations=container.config.annotations,
        spec_annotations=json.loads(text)["annotations"] if text else {},
        log_path=container.log_path,
        root=container.rootfs,
        pod_id=pod.id,
        ips=pod.ips,
        host_network=pod.config.security.namespaces.network is NamespaceMode.NODE,
    )


async def freeze(node: Node, ident: str, frozen: bool) -> None:
    """Pause or resume a container; WrongState when it is not in a state for that."""
    known = node.containers.resolve(ident)
    if known is None:
        raise NotFound("container", ident, "can't find the container with id")
    async with node.turns.of(("container", known.id)):
        container = node.containers.get(known.id)
        if frozen and (container.paused or container.state not in (ContainerState.RUNNING, ContainerState.CREATED)):
            raise WrongState(f"container {container.id} is not in running or created state, so it cannot be paused")
        if not frozen and not container.paused:
            raise WrongState(f"container {container.id} is not in paused state, so it cannot be unpaused")
        await node.host.runtime.pause(node.handler_of(container), container.id, frozen)
        node.containers.put(replace(container, paused=frozen))
