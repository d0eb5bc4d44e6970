"""Containers with CPUs of their own, on the cgroups of this machine. Its interrupts and idle states are stood in for by
files that lie over the kernel's in the session's mount namespace."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.isolation import CGROUPS, Isolation, mount, unmount
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, linux, refused, secured

AFFINITY = "/proc/irq/default_smp_affinity"
LATENCY = "/sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us"
NAMES = ("cpu-load-balancing", "cpu-quota", "irq-load-balancing", "cpu-c-states", "cpu-shared")
CONF = """
[crio.runtime]
irqbalance_config_file = "{d}/irqbalance"
irqbalance_config_restore_file = "disable"
shared_cpuset = "0"
[crio.runtime.workloads.own-cpus]
activation_annotation = "own-cpus"
allowed_annotations = [{names}]
"""
QUIET = {"own-cpus": "", "irq-load-balancing.crio.io": "disable", "cpu-c-states.crio.io": "disable"}


def conf(directory: str) -> str:
    pathlib.Path(directory, "irqbalance").write_text("IRQBALANCE_ARGS=\n")
    return CONF.format(d=directory, names=", ".join(f'"{n}.crio.io"' for n in NAMES))


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    stand_in = tmp_path_factory.mktemp("cpus")
    for path, text in ((AFFINITY, "3\n"), (LATENCY, "0\n")):
        mine = stand_in / os.path.basename(path)
        mine.write_text(text)
        mount(str(mine), path, flags=4096)  # MS_BIND
    try:
        found = make_node(images, isolation, prepare=conf)
        yield found
        end_node(found)
    finally:
        unmount(AFFINITY)
        unmount(LATENCY)


def state() -> tuple[str, str]:
    """Which CPUs serve interrupts, and the latency that CPU 1 must keep to."""
    affinity, latency = (pathlib.Path(p).read_text().strip() for p in (AFFINITY, LATENCY))
    return affinity.lstrip("0"), latency


def own_cpu(node: Node, annotations: dict[str, str], parent: str = "/kubepods/own") -> tuple[str, str]:
    """A container that asks for CPU 1 alone in a pod with these annotations; pod and container."""
    pod = node.pod(annotations=annotations, linux=linux(cgroup_parent=parent))
    resources = pb.LinuxContainerResources(cpu_shares=1024, cpuset_cpus="1", cpu_quota=100000, cpu_period=100000)
    return pod, node.create(pod, "sleep", "1000", linux=secured(resources=resources))


def cgroup(controller: str, name: str, path: str) -> str:
    return pathlib.Path(CGROUPS, controller, path.lstrip("/"), name).read_text().strip()


def test_interrupts_and_idle_states(node: Node) -> None:
    pod, ident = own_cpu(node, QUIET)
    assert state() == ("3", "0")
    node.cri.StartContainer(container_id=ident)
    assert state() == ("1", "n/a")
    assert "IRQBALANCE_BANNED_CPUS" in pathlib.Path(node.dir, "irqbalance").read_text()
    node.cri.StopContainer(container_id=ident, timeout=0)
    assert state() == ("3", "0")
    node.remove_pod(pod)


def test_they_come_back_after_an_end_that_nobody_saw(node: Node) -> None:
    pod, ident = own_cpu(node, QUIET)
    node.cri.StartContainer(container_id=ident)
    pid = node.pid_of(ident)
    node.daemon.kill()
    assert state() == ("1", "n/a")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    node.daemon.start()
    assert node.ended(ident).exit_code == 137
    assert state() == ("3", "0")
    node.remove_pod(pod)


def test_load_balancing_and_quota(node: Node) -> None:
    marks = {"own-cpus": "", "cpu-load-balancing.crio.io": "disable", "cpu-quota.crio.io": "disable"}
    pod, ident = own_cpu(node, marks)
    path = f"/kubepods/own/crio-{ident}"
    assert cgroup("cpu", "cpu.cfs_quota_us", path) == "100000"
    assert cgroup("cpuset", "cpuset.sched_load_balance", path) == "1"
    node.cri.StartContainer(container_id=ident)
    assert cgroup("cpu", "cpu.cfs_quota_us", path) == cgroup("cpu", "cpu.cfs_quota_us", "/kubepods/own") == "-1"
    assert cgroup("cpuset", "cpuset.sched_load_balance", path) == "0"
    other = node.start(pod, "sleep", "1000")
    node.cri.StopContainer(container_id=other, timeout=0)
    # What has ended keeps no CPU in load balancing while its group is still there.
    assert cgroup("cpuset", "cpuset.sched_load_balance", f"/kubepods/own/crio-{other}") == "0"
    node.remove_pod(pod)


def test_shared_cpus(node: Node) -> None:
    name = "shares"
    marks = {"own-cpus": "", f"cpu-shared.crio.io/{name}": "enable"}
    pod = node.pod(annotations=marks, linux=linux(cgroup_parent="/kubepods/shared"))
    resources = pb.LinuxContainerResources(cpu_shares=1024, cpuset_cpus="1", cpu_quota=100000, cpu_period=100000)
    ident = node.create(pod, "sleep", "1000", name=name, linux=secured(resources=resources))
    path = f"/kubepods/shared/crio-{ident}"
    assert cgroup("cpuset", "cpuset.cpus", path) == "0-1"
    node.cri.StartContainer(container_id=ident)
    assert cgroup("cpu", "cpu.cfs_quota_us", path) == "200000"
    told = node.exec(ident, "env").stdout.decode().split()
    assert {"OPENSHIFT_ISOLATED_CPUS=1", "OPENSHIFT_SHARED_CPUS=0"} <= set(told)
    node.remove_pod(pod)


def test_a_pod_that_shares_its_cpus_changes_nothing(node: Node) -> None:
    pod, ident = own_cpu(node, QUIET, "/kubepods/burstable/own")
    node.cri.StartContainer(container_id=ident)
    assert state() == ("3", "0")
    node.remove_pod(pod)


def test_a_refused_start_leaves_nothing(node: Node) -> None:
    pod, ident = own_cpu(node, QUIET)
    directory = os.path.dirname(LATENCY)
    mount("tmpfs", directory, "tmpfs")  # so that there is no such file
    try:
        with refused(grpc.StatusCode.UNKNOWN, "CPUs 1 of container", "cannot be tuned"):
            node.cri.StartContainer(container_id=ident)
    finally:
        unmount(directory)
    assert state() == ("3", "0")
    assert os.listdir(f"{node.dir}/run/pycrio/cpus") == []
    node.remove_pod(pod)
