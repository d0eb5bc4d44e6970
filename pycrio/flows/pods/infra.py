"""The pause process of a pod: only where its containers share one pid namespace, which needs an init."""

from __future__ import annotations

import json
from dataclasses import replace

from pycrio.flows.node_state import Node
from pycrio.flows.pods import pause
from pycrio.flows.pods.document import PREFIX, oci_annotations
from pycrio.flows.ports import MonitorRequest, Options
from pycrio.flows.undo import Undo
from pycrio.model.mount import OciMount
from pycrio.model.node import Handler
from pycrio.model.pod import PodRecord
from pycrio.model.resources import Resources
from pycrio.model.security import Capabilities, LinuxUser, NamespaceMode, ProfileType, SecurityProfile
from pycrio.spec import capabilities
from pycrio.spec.build import Parts, build
from pycrio.spec.linux import namespaces as namespace_documents
from pycrio.spec.process import ProcessParts
from pycrio.spec.resources import limits

OOM_SCORE_ADJ = -998
CPU_SHARES = 2


def needed(pod: PodRecord, options: Options, handler: Handler) -> bool:
    """A pod needs an init when its containers share a pid namespace, when the configuration insists
    (``drop_infra_ctr = false``) or when the handler runs virtual machines."""
    if handler.type == "vm" or "kata" in handler.name:
        return True
    return not options.drop_infra_ctr or pod.config.security.namespaces.pid is NamespaceMode.POD


async def start(node: Node, pod: PodRecord, undo: Undo) -> PodRecord:
    """Run the pause program as the pod's infra container; the record with its pid."""
    host = node.host
    handler = host.handlers.get(pod.handler)
    pod, program = await pause.prepare(node, pod, undo)
    await host.files.write(f"{pod.run_dir}/config.json", json.dumps(document(node, pod, program)).encode(), 0o600)
    undo.push("forget exit", host.monitors.forget_exit, pod.id)
    undo.push("remove monitor's cgroup", host.cgroups.leave, pod.cgroup_parent, pod.id)
    undo.push("delete infra container", host.runtime.delete, handler, pod.id)
    report = await host.monitors.create(
        MonitorRequest(
            container_id=pod.id,
            name=pod.name,
            handler=handler,
            bundle=pod.run_dir,
            persist_dir=pod.run_dir,
            log_path=f"{pod.run_dir}/pause.log",
            cgroup_parent=pod.cgroup_parent,
            pod_id=pod.id,
        )
    )
    await host.runtime.start(handler, pod.id)
    return replace(pod, infra_pid=report.pid, infra_start_time=report.pid_start_time, infra_init_pid=report.init_pid)


def size_annotations(pod: PodRecord) -> dict[str, str]:
    """What a virtual machine for the pod must be large enough for: its overhead and the sum of its containers, as far
    as the request tells."""
    found: dict[str, str] = {}
    for name, limits_of in (("overhead", pod.config.overhead), ("resources", pod.config.resources)):
        text = json.dumps(_told(limits_of or Resources()))
        found |= {f"pod-linux-{name}.crio.io": text, f"{PREFIX}PodLinux{name.capitalize()}": text}
    return found


def _told(resources: Resources) -> dict[str, object]:
    """Resources by their names in the CRI; what was not given is left out."""
    r = resources
    found: dict[str, object] = {
        "cpu_period": r.cpu_period,
        "cpu_quota": r.cpu_quota,
        "cpu_shares": r.cpu_shares,
        "memory_limit_in_bytes": r.memory_limit,
        "oom_score_adj": r.oom_score_adj,
        "cpuset_cpus": r.cpuset_cpus,
        "cpuset_mems": r.cpuset_mems,
        "hugepage_limits": [{"page_size": h.page_size, "limit": h.limit} for h in r.hugepages],
        "unified": r.unified,
        "memory_swap_limit_in_bytes": r.memory_swap_limit,
    }
    return {name: value for name, value in found.items() if value}


def document(node: Node, pod: PodRecord, program: pause.Program) -> dict[str, object]:
    """The OCI config of the infra container: read-only root, nothing but the pause program."""
    host = node.host
    own = host.processes.oom_score_adj()
    score = OOM_SCORE_ADJ if host.processes.may_raise_limits() else max(OOM_SCORE_ADJ, own)
    handler = host.handlers.get(pod.handler)
    profile = pod.config.security.seccomp or SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    resources = limits(
        Resources(cpu_shares=CPU_SHARES, cpuset_cpus=host.options.infra_ctr_cpuset), host.cgroups.controllers()
    )
    return build(
        Parts(
            process=ProcessParts(
                args=program.args,
                env=program.env,
                cwd=program.cwd,
                user=LinuxUser(0, 0),
                capabilities=capabilities.sets(Capabilities(), list(program.capabilities), False),
                no_new_privileges=program.no_new_privileges,
                oom_score_adj=score,
                selinux=pod.selinux_process_label,
            ),
            rootfs=program.root,
            readonly_rootfs=True,
            hostname=pod.hostname,
            mounts=[
                OciMount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
                *program.mounts,
                # for the standard device nodes, which the root of a user namespace may not make on disk
                OciMount("/dev", "tmpfs", "tmpfs", ("nosuid", "noexec", "strictatime", "mode=755", "size=64k")),
            ],
            namespaces=namespace_documents(pod.namespaces, NamespaceMode.CONTAINER, "", host.cgroups.unified()),
            cgroup_path=host.cgroups.container_path(pod.cgroup_parent, pod.id),
            resources=resources,
            annotations={**oci_annotations(pod), **size_annotations(pod)},
            seccomp=host.security.seccomp(profile, False, handler),
            mount_label=pod.selinux_mount_label,
            uid_map=pod.uid_map if handler.wants_joined_maps else (),
            gid_map=pod.gid_map if handler.wants_joined_maps else (),
        )
    )
