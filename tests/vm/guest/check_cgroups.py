"""Cgroup v2 under the manager that the environment names: where processes are, what limits them, what is read."""

from __future__ import annotations

import json
import os
import pathlib
import time
from typing import Any

import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.system.node import linux, secured
from tests.vm.guest.service import CGROUPS, Vm, cgroup, eventually, sh, unit

MIB = 1 << 20
SYSTEMD = os.environ.get("MANAGER", "systemd") == "systemd"
HANDLER = os.environ.get("HANDLER", "runc")
PARENT = "kubepods-burstable-podvm.slice" if SYSTEMD else "/kubepods/burstable/podvm"
PARENT_PATH = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podvm.slice" if SYSTEMD else PARENT


def scope(ident: str) -> str:
    return f"{PARENT_PATH}/crio-{ident}" + (".scope" if SYSTEMD else "")


def inner(ident: str) -> str:
    """Where processes and limits are: under systemd crun makes a group of its own in the scope."""
    return scope(ident) + ("/container" if SYSTEMD and HANDLER == "crun" else "")


def resources(**more: Any) -> Any:
    return pb.LinuxContainerResources(**more)


@pytest.fixture(scope="module")
def pod(node: Vm) -> str:
    return node.pod("cgroups", handler=HANDLER, linux=linux(cgroup_parent=PARENT))


@pytest.fixture(scope="module")
def box(node: Vm, pod: str) -> str:
    """A container with every limit."""
    limits = resources(
        cpu_period=100_000,
        cpu_quota=50_000,
        cpu_shares=512,
        memory_limit_in_bytes=200 * MIB,
        memory_swap_limit_in_bytes=300 * MIB,
        cpuset_cpus="0",
        cpuset_mems="0",
        oom_score_adj=500,
        hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=4 * MIB)],
        unified={"memory.high": str(150 * MIB), "memory.oom.group": "1"},
    )
    return node.start(pod, "sleep", "100000", name="all", linux=secured(resources=limits))


def check_the_group_is_where_the_kubelet_looks_for_it(node: Vm, box: str) -> None:
    assert node.group_of(box) == inner(box)
    if SYSTEMD:
        shown = unit(f"crio-{box}.scope", "Slice", "ControlGroup", "Delegate", "ActiveState", "DefaultDependencies")
        assert shown == {
            "Slice": PARENT,
            "ControlGroup": scope(box),
            "Delegate": "yes",
            "ActiveState": "active",
            "DefaultDependencies": "no",
        }


def check_limits_are_in_the_files(node: Vm, box: str) -> None:
    found = {
        name: cgroup(inner(box), name)
        for name in (
            *("cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "memory.high", "memory.oom.group"),
            *("cpuset.cpus", "cpuset.mems", "hugetlb.2MB.max"),
        )
    }
    assert found == {
        "cpu.max": "50000 100000",
        "cpu.weight": "20",
        "memory.max": str(200 * MIB),
        "memory.swap.max": str(100 * MIB),
        "memory.high": str(150 * MIB),
        "memory.oom.group": "1",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "hugetlb.2MB.max": str(4 * MIB),
    }
    assert pathlib.Path(f"/proc/{node.pid_of(box)}/oom_score_adj").read_text().strip() == "500"
    assert cgroup(inner(box), "pids.max") == "max"


def check_the_container_sees_its_own_root(node: Vm, box: str) -> None:
    assert node.exec(box, "cat", "/proc/self/cgroup").stdout == b"0::/\n"
    assert node.exec(box, "cat", "/sys/fs/cgroup/memory.max").stdout == b"%d\n" % (200 * MIB)
    refused = node.exec(box, "sh", "-c", "echo max > /sys/fs/cgroup/memory.max")
    assert refused.exit_code != 0, "the cgroup files must not be writable"


def check_limits_change_and_stay_changed(node: Vm, box: str) -> None:
    wanted = resources(
        cpu_period=100_000,
        cpu_quota=20_000,
        cpu_shares=1024,
        memory_limit_in_bytes=160 * MIB,
        memory_swap_limit_in_bytes=160 * MIB,
        cpuset_cpus="0-1",
        unified={"memory.high": str(120 * MIB)},
    )
    node.cri.UpdateContainerResources(container_id=box, linux=wanted)
    names = ("cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "memory.high", "cpuset.cpus")
    expected = {
        "cpu.max": "20000 100000",
        "cpu.weight": "39",
        "memory.max": str(160 * MIB),
        "memory.swap.max": "0",
        "memory.high": str(120 * MIB),
        "cpuset.cpus": "0-1",
    }
    assert {n: cgroup(inner(box), n) for n in names} == expected
    # What systemd itself believes is what it writes back whenever it touches the unit.
    if SYSTEMD:
        sh("systemctl daemon-reload")
        # runc 1.1 sets no property for a swap limit of 0, so the old one comes back with systemd's next touch
        found = {n: cgroup(inner(box), n) for n in names}
        assert found | {"memory.swap.max": "0"} == expected
    status = node.status(box).resources.linux
    assert (status.cpu_quota, status.cpu_shares, status.memory_limit_in_bytes) == (20_000, 1024, 160 * MIB)


def check_a_limit_below_the_use_is_refused(node: Vm, pod: str) -> None:
    eater = node.start(pod, "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=20; sleep 100000")
    eventually(lambda: int(cgroup(scope(eater), "memory.current")) > 20 * MIB)
    with pytest.raises(Exception, match="cannot decrease memory limit"):
        node.cri.UpdateContainerResources(container_id=eater, linux=resources(memory_limit_in_bytes=8 * MIB))
    assert cgroup(inner(eater), "memory.max") == "max"
    node.cri.StopContainer(container_id=eater, timeout=0)
    node.cri.RemoveContainer(container_id=eater)


def check_the_pod_can_be_resized(node: Vm, pod: str) -> None:
    node.cri.UpdatePodSandboxResources(
        pod_sandbox_id=pod,
        overhead=resources(cpu_shares=10),
        resources=resources(memory_limit_in_bytes=512 * MIB, cpu_quota=70_000, cpu_period=100_000),
    )


def check_stats_have_pressure(node: Vm, pod: str, box: str) -> None:
    stats = node.cri.ContainerStats(container_id=box).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert 0 < stats.memory.working_set_bytes.value <= 160 * MIB
    assert stats.memory.available_bytes.value == 160 * MIB - stats.memory.working_set_bytes.value
    for part in (stats.cpu, stats.memory, stats.io):
        assert part.psi.HasField("Some"), part
    assert stats.swap.swap_usage_bytes.value == 0
    whole = node.cri.PodSandboxStats(pod_sandbox_id=pod).stats.linux
    assert whole.cpu.usage_core_nano_seconds.value >= stats.cpu.usage_core_nano_seconds.value
    assert whole.memory.psi.HasField("Some")
    assert whole.process.process_count.value >= 1
    assert [c.attributes.id for c in whole.containers] == [box]


def check_pod_metrics_have_pressure(node: Vm, pod: str) -> None:
    (metrics,) = [m for m in node.cri.ListPodSandboxMetrics().pod_metrics if m.pod_sandbox_id == pod]
    names = {m.name for c in metrics.container_metrics for m in c.metrics}
    assert {n for n in names if "pressure" in n} >= {
        "container_pressure_cpu_waiting_seconds_total",
        "container_pressure_memory_stalled_seconds_total",
        "container_pressure_io_waiting_seconds_total",
    }
    assert "container_oom_events_total" in names


def check_huge_pages_are_counted_and_limited(node: Vm, pod: str) -> None:
    limits = resources(hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=4 * MIB)])
    box = node.start(pod, "sleep", "100000", linux=secured(resources=limits))
    assert cgroup(inner(box), "hugetlb.2MB.max") == str(4 * MIB)
    node.cri.StopContainer(container_id=box, timeout=0)
    node.cri.RemoveContainer(container_id=box)


@pytest.mark.parametrize("who", ["first process", "child", "group"])
def check_out_of_memory_is_told(node: Vm, pod: str, who: str) -> None:
    """The container that the kernel killed says so. A child's death is not the container's."""
    more = {"unified": {"memory.oom.group": "1"}} if who == "group" else {}
    limits = resources(memory_limit_in_bytes=32 * MIB, memory_swap_limit_in_bytes=32 * MIB, **more)
    eat = "exec tail /dev/zero"
    script = eat if who == "first process" else f"sh -c '{eat}'; echo child $?; sleep 1; exit 3"
    box = node.start(pod, "sh", "-c", script, linux=secured(resources=limits))
    status = node.ended(box)
    if who == "child":
        assert "child 137" in node.output(box)
        assert status.exit_code == 3
    else:
        assert (status.reason, status.exit_code) == ("OOMKilled", 137)
    node.cri.RemoveContainer(container_id=box)


def check_the_monitor_has_a_place_of_its_own(node: Vm, box: str) -> None:
    monitors = [
        p.parent.name
        for p in pathlib.Path("/proc").glob("[0-9]*/cmdline")
        if box.encode() in _bytes(p) and b"pycrio-monitor" in _bytes(p)
    ]
    assert len(monitors) == 1
    group = pathlib.Path(f"/proc/{monitors[0]}/cgroup").read_text().strip()
    assert group.endswith(f"/crio-conmon-{box}.scope" if SYSTEMD else f"/crio-conmon-{box}"), group
    assert "crio.service" not in group


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def check_a_shared_pid_namespace_has_its_init_in_the_pods_slice(node: Vm) -> None:
    pod = node.pod(handler=HANDLER, linux=linux(cgroup_parent=PARENT, pid="POD"))
    box = node.start(pod, "sleep", "100000", linux=secured(pid="POD"))
    assert cgroup(inner(pod), "cgroup.procs").split()
    assert b"pause" in node.exec(box, "cat", "/proc/1/cmdline").stdout
    node.remove_pod(pod)
    eventually(lambda: not (CGROUPS / scope(pod).lstrip("/")).exists())


def check_a_privileged_container_sees_the_hosts_tree(node: Vm) -> None:
    pod = node.pod(handler=HANDLER, linux=linux(cgroup_parent=PARENT, privileged=True))
    box = node.start(pod, "sleep", "100000", linux=secured(privileged=True))
    assert node.exec(box, "cat", "/proc/1/cgroup").stdout.decode() == f"0::{inner(box)}\n"
    assert node.exec(box, "sh", "-c", "mkdir /sys/fs/cgroup/vm-inner && rmdir /sys/fs/cgroup/vm-inner").exit_code == 0
    node.remove_pod(pod)
    eventually(lambda: not (CGROUPS / scope(box).lstrip("/")).exists())


def check_nothing_stays_behind(node: Vm, pod: str, box: str) -> None:
    node.clear()  # also what checks that failed have left

    def left() -> list[str]:
        return [str(p) for p in CGROUPS.rglob("crio-*") if p.is_dir()]

    eventually(lambda: not left())
    if SYSTEMD:
        assert sh("systemctl list-units --all --no-legend --plain 'crio-*.scope'") == ""
        assert sh("systemctl list-units --failed --no-legend --plain") == ""


def check_how_long_a_pod_takes(node: Vm) -> None:
    """No judgement: the figure goes to the report."""
    times = []
    for _ in range(3):
        begin = time.monotonic()
        pod = node.pod(handler=HANDLER, linux=linux(cgroup_parent=PARENT))
        node.start(pod, "sleep", "100000")
        times.append(time.monotonic() - begin)
        node.remove_pod(pod)
    print("FIGURE", json.dumps({"manager": PARENT, "handler": HANDLER, "pod start s": [round(t, 2) for t in times]}))
