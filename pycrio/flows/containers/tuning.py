"""Containers with CPUs of their own: what annotations ask of the node for them, applied at the start, taken back at the
end.

Asked for by the annotations cpu-load-balancing, cpu-quota, irq-load-balancing, cpu-c-states, cpu-freq-governor and
cpu-shared (each ``.crio.io``), as far as the handler allows them. Only for containers of guaranteed pods that ask for
whole CPUs: others share theirs with everybody. A record says that something was applied before it is, so that whoever
finds the record, now or after a crash, takes it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pycrio.errors import InvalidRequest, PycrioError
from pycrio.flows.node_state import Node
from pycrio.flows.pods.options import value_of
from pycrio.model.container import ContainerRecord
from pycrio.model.cpus import CpuTuning, format_cpus, parse_cpus
from pycrio.model.resources import Resources
from pycrio.obs import log as obslog

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making

log = obslog.get("tuning")
HANDLER = "high-performance"
LOAD, QUOTA, INTERRUPTS = "cpu-load-balancing.crio.io", "cpu-quota.crio.io", "irq-load-balancing.crio.io"
IDLE, GOVERNOR, SHARED = "cpu-c-states.crio.io", "cpu-freq-governor.crio.io", "cpu-shared.crio.io"
OFF = ("disable", "true")  # the latter is what they were called at first
HOUSEKEEPING = "housekeeping"
WHOLE_CPU = 1024


async def plan(node: Node, making: Making, resources: Resources) -> CpuTuning | None:
    """What a new container with these limits asks for; None for nothing. InvalidRequest when it cannot be meant so."""
    annotations, name = making.annotations, making.config.metadata.name
    parent = making.pod.cgroup_parent
    if "burstable" in parent or "besteffort" in parent:
        return None
    if not resources.cpu_shares or resources.cpu_shares % WHOLE_CPU:
        return None
    shared = node.host.options.shared_cpuset if annotations.get(f"{SHARED}/{name}") == "enable" else ""
    if annotations.get(f"{SHARED}/{name}") == "enable" and not shared:
        raise InvalidRequest(f"container {name} asks for shared CPUs, but crio.runtime.shared_cpuset names none")
    try:
        cpus = format_cpus(parse_cpus(resources.cpuset_cpus) - parse_cpus(shared))
    except ValueError as e:
        raise InvalidRequest(f"the CPUs of container {name} are no list: {e}") from e
    interrupts = value_of(annotations, INTERRUPTS, name) or ""
    quiet = cpus if interrupts in (*OFF, HOUSEKEEPING) else ""
    if interrupts == HOUSEKEEPING and cpus:
        quiet = format_cpus(parse_cpus(cpus) - parse_cpus(await node.host.cpus.siblings(cpus)))
    wanted = CpuTuning(
        cpus=cpus,
        shared=shared,
        period=resources.cpu_period,
        isolated=value_of(annotations, LOAD, name) in OFF,
        unlimited=value_of(annotations, QUOTA, name) in OFF,
        quiet=quiet,
        latency=latency(annotations[IDLE]) if IDLE in annotations else "",
        governor=annotations.get(GOVERNOR, ""),
    )
    if not cpus and (shared or interrupts in (*OFF, HOUSEKEEPING) or wanted.latency or wanted.governor):
        raise InvalidRequest(f"container {name} has no CPUs of its own: the kubelet's CPU manager must be static")
    return None if wanted == CpuTuning(cpus, period=resources.cpu_period) else wanted


def latency(value: str) -> str:
    """What ``cpu-c-states.crio.io`` means in terms of the kernel's resume latency."""
    if value in ("enable", "disable"):
        return "0" if value == "enable" else "n/a"
    kind, _, number = value.partition(":")
    if kind == "max_latency" and number.isdecimal() and int(number) > 0:
        return str(int(number))
    raise InvalidRequest(f"annotation {IDLE} is {value!r}: it must be enable, disable or max_latency:<µs>")


def cpuset(wanted: CpuTuning | None, resources: Resources) -> Resources:
    """The limits with the shared CPUs among the container's."""
    if wanted is None or not wanted.shared:
        return resources
    return replace(resources, cpuset_cpus=_together(wanted))


def _together(wanted: CpuTuning) -> str:
    return format_cpus(parse_cpus(wanted.cpus) | parse_cpus(wanted.shared))


def environment(wanted: CpuTuning | None, making: Making) -> tuple[str, ...]:
    """Variables by which a process learns of its CPUs; the names are those that workloads know."""
    if wanted is None:
        return ()
    out: tuple[str, ...] = ()
    if wanted.shared:
        out = (f"OPENSHIFT_ISOLATED_CPUS={wanted.cpus}", f"OPENSHIFT_SHARED_CPUS={wanted.shared}")
    if value_of(making.annotations, INTERRUPTS, making.config.metadata.name) == HOUSEKEEPING:
        kept = format_cpus(parse_cpus(wanted.cpus) - parse_cpus(wanted.quiet))
        out = (*out, f"OPENSHIFT_HOUSEKEEPING_CPUS={kept}")
    return out


def exec_cpu(wanted: CpuTuning | None, making: Making, resources: Resources) -> str:
    """Where execs start with ``exec_cpu_affinity = "first"``: on the first shared CPU, else on the first one."""
    if making.handler.exec_cpu_affinity != "first":
        return ""
    cpus = parse_cpus((wanted.shared if wanted is not None else "") or resources.cpuset_cpus)
    return str(min(cpus)) if cpus else ""


def with_shared(container: ContainerRecord, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """New limits (OCI linux.resources) of a container keep its shared CPUs."""
    cpu = document.get("cpu") or {}
    if container.tuning is None or not container.tuning.shared or not cpu.get("cpus"):
        return document
    cpus = format_cpus(parse_cpus(cpu["cpus"]) | parse_cpus(container.tuning.shared))
    return {**document, "cpu": {**cpu, "cpus": cpus}}


async def apply(node: Node, container: ContainerRecord) -> ContainerRecord:
    """Before a container's process is let go (a restored one runs by then); the record as it is then. When this fails
    the container is removed, which takes back what was done."""
    wanted = container.tuning
    if wanted is None:
        return container
    container = replace(container, tuned=True)
    node.containers.put(container)
    async with node.turns.of(("cpus",)):
        await node.host.cpu_groups.apply(container.cgroup_path, wanted)
        await node.host.cpus.tune(container.id, wanted)
    return container


async def take_back(node: Node, container_id: str) -> None:
    """After a container's end, and again when it is removed: what could not be taken back then is tried once more."""
    container = node.containers.resolve(container_id)
    if container is None:
        return
    try:
        if node.host.options.unbalance_ended:
            await node.host.cpu_groups.unbalance(container.cgroup_path)
        if container.tuning is None or not container.tuned:
            return
        async with node.turns.of(("cpus",)):
            await node.host.cpus.restore(container.id)
            await node.host.cpu_groups.release(container.cgroup_path, _alone(node, container, container.tuning))
    except PycrioError as e:
        log.error("CPUs of ended container are not as they were, going on", id=container_id, error=str(e))
        return
    current = node.containers.resolve(container_id)
    if current is not None:
        node.containers.put(replace(current, tuned=False))


def _alone(node: Node, container: ContainerRecord, tuning: CpuTuning) -> CpuTuning:
    """The tuning for those CPUs that no other container isolates: a successor may have them already."""
    others: frozenset[int] = frozenset()
    for other in node.containers:
        if other.id != container.id and other.tuned and other.tuning is not None and other.tuning.isolated:
            others |= parse_cpus(other.tuning.cpus)
    return replace(tuning, cpus=format_cpus(parse_cpus(tuning.cpus) - others))
