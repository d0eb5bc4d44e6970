"""Classes of service that annotations put a container into: block I/O and RDT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pycrio.flows.node_state import Node
from pycrio.flows.pods import options as pod_options

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making


def asked(kind: str, name: str, container: Mapping[str, str], pod: Mapping[str, str]) -> tuple[str, bool]:
    """The class of a kind (``blockio``, ``rdt``) that a container is to be in ("": none), and whether its pod says so.
    The container's own annotation comes first, then the pod's for this container, then the pod's for all."""
    own = f"io.kubernetes.cri.{kind}-class"
    if own in container:
        return container[own], False
    base = f"{kind}.resources.beta.kubernetes.io"
    return pod.get(f"{base}/container.{name}", pod.get(f"{base}/pod", "")), True


async def apply(node: Node, making: Making, document: dict[str, Any]) -> None:
    """Write the classes into the OCI config. An RDT class that cannot be given is an error, as in CRI-O; a block I/O
    class that nobody configured is not."""
    pod, config, host = making.pod, making.config, node.host
    both = replace(pod.config, annotations={**pod.config.annotations, **config.annotations})
    acting = pod_options.allowed(both, making.handler, host.options)
    container = {k: v for k, v in config.annotations.items() if k in acting}
    block, _ = asked("blockio", config.metadata.name, container, pod.config.annotations)
    if block:
        found = await host.classes.block_io(block)
        if found:
            document["linux"]["resources"]["blockIO"] = dict(found)
    cache, by_pod = asked("rdt", config.metadata.name, container, pod.config.annotations)
    if cache:
        group = await host.classes.rdt(cache, by_pod)
        if group:
            document["linux"]["intelRdt"] = {"closID": group}
