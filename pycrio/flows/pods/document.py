"""A pod as tools and runtimes are told of it: the annotations that CRI-O writes, the config of one without an init."""

from __future__ import annotations

import json
from typing import Any

from pycrio.flows.containers.capture import timestamp
from pycrio.flows.node_state import Node
from pycrio.flows.pods.options import pod_sysctls
from pycrio.model.ids import infra_name
from pycrio.model.pod import PodRecord
from pycrio.model.security import NamespaceMode
from pycrio.spec.linux import namespaces

PREFIX = "io.kubernetes.cri-o."
SPOOFED = "spoofed.crio.io"
"""On a pod without an infra process."""


def oci_annotations(pod: PodRecord) -> dict[str, str]:
    """Those of the infra container: the pod's own labels and annotations, and what CRI-O's tools look for."""
    config, meta = pod.config, pod.config.metadata
    modes = config.security.namespaces
    own = {
        "ContainerType": "sandbox",
        "ContainerID": pod.id,
        "ContainerName": infra_name(meta.name, meta.namespace, meta.uid, meta.attempt),
        "KubeName": "POD",
        "SandboxID": pod.id,
        "SandboxName": pod.name,
        "Name": pod.name,
        "Namespace": meta.namespace,
        "Metadata": json.dumps(
            {"name": meta.name, "uid": meta.uid, "namespace": meta.namespace, "attempt": meta.attempt}
        ),
        "Labels": json.dumps(config.labels),
        "Annotations": json.dumps(config.annotations),
        "Created": timestamp(pod.created_at),
        "CgroupParent": pod.cgroup_parent,
        "HostName": pod.hostname,
        "HostnamePath": f"{pod.run_dir}/hostname",
        "ResolvPath": f"{pod.run_dir}/resolv.conf",
        "ShmPath": pod.shm_path,
        "LogPath": pod.log_directory,
        "HostNetwork": str(modes.network is NamespaceMode.NODE).lower(),
        "NamespaceOptions": json.dumps(
            {"network": modes.network.value, "pid": modes.pid.value, "ipc": modes.ipc.value, "target_id": ""}
        ),
        "PortMappings": json.dumps(
            [
                {"protocol": p.protocol.value, "container_port": p.container_port, "host_port": p.host_port}
                | ({"host_ip": p.host_ip} if p.host_ip else {})
                for p in config.port_mappings
            ]
        ),
        "PrivilegedRuntime": str(pod.privileged).lower(),
        "RuntimeHandler": pod.requested_handler,
        "CNIResult": pod.cni_result,
        **{f"IP.{i}": ip for i, ip in enumerate(pod.ips)},
    }
    return {
        **config.labels,
        **config.annotations,
        "io.container.manager": "cri-o",
        **{PREFIX + key: value for key, value in own.items()},
    }


def of_none(node: Node, pod: PodRecord) -> dict[str, Any]:
    """What stands for the OCI config of a pod without an init: where it lives, and what it is."""
    sysctls = dict(pod_sysctls(pod.config, node.host.options, pod.gid_map))
    joined = [n for n in namespaces(pod.namespaces, NamespaceMode.NODE, "", False) if "path" in n]
    return {
        "hostname": pod.hostname,
        "annotations": {**oci_annotations(pod), SPOOFED: "true"},
        "linux": {
            "namespaces": joined,
            "cgroupsPath": node.host.cgroups.container_path(pod.cgroup_parent, pod.id),
            **({"sysctl": sysctls} if sysctls else {}),
        },
    }
