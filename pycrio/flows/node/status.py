"""Version and condition of the node."""

from __future__ import annotations

import json

from pycrio.flows.node_state import Node
from pycrio.flows.views import HandlerView, NodeStatusView
from pycrio.model.node import Condition, Handler, Identity


async def version(node: Node) -> Identity:
    """Who answers."""
    return node.host.identity


async def status(node: Node, verbose: bool) -> NodeStatusView:
    """Conditions, handlers (the unnamed one is the default) and features."""
    handlers = node.host.handlers.all()
    views = [_view("", handlers[0]), *(_view(h.name, h) for h in handlers)]
    return NodeStatusView(
        conditions=(Condition("RuntimeReady", True), node.host.network.condition()),
        handlers=tuple(views),
        info={"config": json.dumps(verbose_config(node))} if verbose else {},
        supplemental_groups_policy=True,
        user_namespaces_host_network=True,
        mount_options=True,
    )


def _view(name: str, handler: Handler) -> HandlerView:
    return HandlerView(name, handler.recursive_read_only, handler.idmap_mounts)


def verbose_config(node: Node) -> dict[str, object]:
    """What clients read from the verbose answer: ``.crio.Runtimes.<handler>``, in the capitals of CRI-O's fields."""
    runtimes = {
        h.name: {
            "RuntimePath": h.path,
            "RuntimeRoot": h.root,
            "RuntimeType": h.type,
            "MonitorPath": h.monitor_path,
            "MonitorCgroup": h.monitor_cgroup,
            "MonitorEnv": list(h.monitor_env),
            "AllowedAnnotations": list(h.allowed_annotations),
            "DefaultAnnotations": h.default_annotations,
            "PrivilegedWithoutHostDevices": h.privileged_without_host_devices,
        }
        for h in node.host.handlers.all()
    }
    return {
        "sandboxImage": node.host.options.pause_image,
        "crio": {
            "Runtimes": runtimes,
            "DefaultRuntime": node.host.handlers.get("").name,
            "CgroupManagerName": node.host.cgroups.driver(),
            "ContainerExitsDir": node.host.options.exits_dir,
            "DropInfraCtr": node.host.options.drop_infra_ctr,
            "PidsLimit": node.host.options.pids_limit,
        },
    }
