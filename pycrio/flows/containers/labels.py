"""SELinux labels of a new container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycrio.flows.node_state import Node
from pycrio.flows.ports import Labels
from pycrio.spec.process import arguments, is_systemd

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making

SUPER_PRIVILEGED = "spc_t"


def labels_of(node: Node, making: Making) -> Labels:
    """The pod's labels with what the request names; a systemd gets the type that lets it be one. A privileged container
    has no label of its own, its files have the pod's."""
    pod, config = making.pod, making.config
    known = Labels(pod.selinux_process_label, pod.selinux_mount_label)
    if config.security.privileged:
        return Labels("", known.mount)
    init = is_systemd(arguments(config, making.image.config))
    return node.host.security.container_labels(known, config.security.selinux, init)


def confined(labels: Labels) -> bool:
    """Whether labels of files matter to the container: a super-privileged one may use any, so that it must not take
    them from those whose they are."""
    return labels.process.split(":")[2:3] != [SUPER_PRIVILEGED]
