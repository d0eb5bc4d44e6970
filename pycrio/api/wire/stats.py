"""Usage readings. What the host does not offer is absent, never 0."""

from __future__ import annotations

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import containers, images, pods
from pycrio.api.wire.common import maybe_uint
from pycrio.flows.views import ContainerStatsView, PodStatsView
from pycrio.model.stats import CgroupStats, ContainerUsage, InterfaceStats, PodUsage, Pressure, PressureData

_POD_INTERFACE = "eth0"
"""What the CNI specification's users agree on as the name of a pod's interface."""


def encode_container(view: ContainerStatsView) -> pb.ContainerStats:
    """Readings of a container with what they belong to."""
    message = encode_readings(view.usage)
    message.attributes.CopyFrom(containers.encode_attributes(view.record))
    return message


def encode_readings(usage: ContainerUsage) -> pb.ContainerStats:
    """Readings of a container alone."""
    cgroup = usage.cgroup
    return pb.ContainerStats(
        cpu=_cpu(cgroup, usage.nano_cores),
        memory=_memory(cgroup),
        writable_layer=images.encode_disk_use(usage.writable_layer) if usage.writable_layer else None,
        swap=_swap(cgroup),
        io=_io(cgroup),
    )


def encode_pod(view: PodStatsView) -> pb.PodSandboxStats:
    """Readings of a pod and of its containers with what they belong to."""
    message = encode_pod_readings(view.usage)
    message.linux.containers.extend(encode_container(c) for c in view.containers)
    message.attributes.CopyFrom(pods.encode_attributes(view.record))
    return message


def encode_pod_readings(usage: PodUsage) -> pb.PodSandboxStats:
    """Readings of a pod alone."""
    return pb.PodSandboxStats(
        linux=pb.LinuxPodSandboxStats(
            cpu=_cpu(usage.cgroup, usage.nano_cores),
            memory=_memory(usage.cgroup),
            network=_network(usage.network, usage.timestamp),
            process=None
            if usage.process_count is None
            else pb.ProcessUsage(timestamp=usage.timestamp, process_count=maybe_uint(usage.process_count)),
            io=_io(usage.cgroup),
        )
    )


def _cpu(cgroup: CgroupStats | None, nano_cores: int | None) -> pb.CpuUsage | None:
    if cgroup is None or cgroup.cpu is None:
        return None
    return pb.CpuUsage(
        timestamp=cgroup.timestamp,
        usage_core_nano_seconds=maybe_uint(cgroup.cpu.total),
        usage_nano_cores=maybe_uint(nano_cores),
        psi=_psi(cgroup.cpu.pressure),
    )


def _memory(cgroup: CgroupStats | None) -> pb.MemoryUsage | None:
    """Memory; what is still available is the limit less the working set, as the kubelet reckons for evictions."""
    if cgroup is None or cgroup.memory is None:
        return None
    memory = cgroup.memory
    return pb.MemoryUsage(
        timestamp=cgroup.timestamp,
        working_set_bytes=maybe_uint(memory.working_set),
        available_bytes=None if memory.limit is None else maybe_uint(memory.limit - memory.working_set),
        usage_bytes=maybe_uint(memory.usage),
        rss_bytes=maybe_uint(memory.rss),
        page_faults=maybe_uint(memory.page_faults),
        major_page_faults=maybe_uint(memory.major_page_faults),
        psi=_psi(memory.pressure),
    )


def _swap(cgroup: CgroupStats | None) -> pb.SwapUsage | None:
    if cgroup is None or cgroup.memory is None or cgroup.memory.swap_usage is None:
        return None
    usage, limit = cgroup.memory.swap_usage, cgroup.memory.swap_limit
    return pb.SwapUsage(
        timestamp=cgroup.timestamp,
        swap_available_bytes=None if limit is None else maybe_uint(limit - usage),
        swap_usage_bytes=maybe_uint(usage),
    )


def _io(cgroup: CgroupStats | None) -> pb.IoUsage | None:
    if cgroup is None or cgroup.io_pressure is None:
        return None
    return pb.IoUsage(timestamp=cgroup.timestamp, psi=_psi(cgroup.io_pressure))


def _psi(pressure: Pressure | None) -> pb.PsiStats | None:
    if pressure is None:
        return None
    return pb.PsiStats(Full=_psi_data(pressure.full), Some=_psi_data(pressure.some))


def _psi_data(data: PressureData | None) -> pb.PsiData | None:
    if data is None:
        return None
    return pb.PsiData(Total=max(data.total, 0), Avg10=data.avg10, Avg60=data.avg60, Avg300=data.avg300)


def _network(links: tuple[InterfaceStats, ...], at: int) -> pb.NetworkUsage | None:
    """Interfaces. The default one is the pod's own: the kubelet takes it alone for the pod's traffic, so loopback
    will only do when there is nothing else."""
    if not links:
        return None
    chosen = next((i for i in links if i.name == _POD_INTERFACE), None)
    chosen = chosen or next((i for i in links if i.name != "lo"), links[0])
    return pb.NetworkUsage(
        timestamp=at,
        default_interface=_interface(chosen),
        interfaces=[_interface(i) for i in links if i is not chosen],
    )


def _interface(link: InterfaceStats) -> pb.NetworkInterfaceUsage:
    return pb.NetworkInterfaceUsage(
        name=link.name,
        rx_bytes=maybe_uint(link.rx_bytes),
        rx_errors=maybe_uint(link.rx_errors),
        tx_bytes=maybe_uint(link.tx_bytes),
        tx_errors=maybe_uint(link.tx_errors),
    )
