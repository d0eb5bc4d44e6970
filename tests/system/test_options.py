"""Options that need a real daemon on one node: CPUs of containers, classes of service, encrypted images, pulls in a
control group of their own.

The machine's interrupts and idle states are stood in for by files that lie over the kernel's in the session's mount
namespace; control groups are those of this machine.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pycrio.api._pb import api_pb2 as pb
from tests.fixtures_registry import push_image
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
blockio_config_file = "{d}/blockio.yaml"
decryption_keys_path = "{d}/keys"
separate_pull_cgroup = "pulls"
[crio.runtime.workloads.own-cpus]
activation_annotation = "own-cpus"
allowed_annotations = [{names}]
"""
QUIET = {"own-cpus": "", "irq-load-balancing.crio.io": "disable", "cpu-c-states.crio.io": "disable"}
CLASSES = "/kubepods/classes"
KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
}


def conf(directory: str) -> str:
    pathlib.Path(directory, "irqbalance").write_text("IRQBALANCE_ARGS=\n")
    pathlib.Path(directory, "keys").mkdir()
    block_io(directory, "1M")
    return CONF.format(d=directory, names=", ".join(f'"{n}.crio.io"' for n in NAMES))


def block_io(directory: str, limit: str) -> None:
    pathlib.Path(directory, "blockio.yaml").write_text(
        f'Classes:\n  slow:\n    - Devices: ["{disk()[0]}"]\n      ThrottleReadBps: {limit}\n'
    )


def disk() -> tuple[str, str]:
    """A whole disk of this machine: its node and its number."""
    for line in pathlib.Path("/proc/partitions").read_text().splitlines()[2:]:
        major, minor, _, name = line.split()
        if os.path.exists(f"/sys/block/{name}") and os.path.exists(f"/dev/{name}"):
            return f"/dev/{name}", f"{major}:{minor}"
    raise AssertionError("this machine has no disk")


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


# --- CPUs -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.effect("crio.runtime.irqbalance_config_file")
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


@pytest.mark.effect("crio.runtime.shared_cpuset")
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


# --- classes --------------------------------------------------------------------------------------------------------


def limits(node: Node, pod: str, **more: object) -> str:
    """The read limits of a new container."""
    ident = node.start(pod, "sleep", "1000", **more)
    return pathlib.Path(f"{CGROUPS}/blkio{CLASSES}/crio-{ident}/blkio.throttle.read_bps_device").read_text().strip()


@pytest.mark.effect("crio.runtime.blockio_config_file")
def test_a_class_by_annotation_and_after_a_reload(node: Node) -> None:
    number = disk()[1]
    marks = {"blockio.resources.beta.kubernetes.io/container.slow": "slow"}
    pod = node.pod(annotations=marks, linux=linux(cgroup_parent=CLASSES))
    assert limits(node, pod, name="slow") == f"{number} 1000000"
    assert limits(node, pod, name="other") == ""
    assert limits(node, pod, name="own", annotations={"io.kubernetes.cri.blockio-class": "slow"}) == f"{number} 1000000"
    assert limits(node, pod, name="lost", annotations={"io.kubernetes.cri.blockio-class": "none"}) == ""
    block_io(node.dir, "2M")
    node.reload()
    assert limits(node, pod, name="again", annotations={"io.kubernetes.cri.blockio-class": "slow"}).endswith(" 2000000")
    node.remove_pod(pod)


def test_rdt_is_refused_on_a_host_without_it(node: Node) -> None:
    pod = node.pod(annotations={"rdt.resources.beta.kubernetes.io/pod": "gold"})
    with refused(grpc.StatusCode.UNIMPLEMENTED, "RDT class 'gold' is asked for", "no resctrl file system"):
        node.create(pod, "true")
    node.remove_pod(pod)


# --- encrypted images -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(KEYS))
def encrypted(
    request: pytest.FixtureRequest, images: Pushed, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """An image of the session's registry once more, for the owner of a key; its name and the kind of key."""
    kind = str(request.param)
    public = tmp_path_factory.mktemp("public") / "key.pem"
    public.write_bytes(
        KEYS[kind]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    name = f"{images.registry.address}/sys/{kind}:1"
    command = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    command += ["--encryption-key", f"jwe:{public}", f"docker://{images.app}", f"docker://{name}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return name, kind


@pytest.mark.effect("crio.runtime.decryption_keys_path")
def test_a_pull_needs_the_key(encrypted: tuple[str, str], node: Node) -> None:
    name, kind = encrypted
    keys = pathlib.Path(node.dir, "keys")
    for old in keys.iterdir():
        old.unlink()
    node.cri.RemoveImage(image={"image": node.image.replace("busy", "app")})
    with refused(grpc.StatusCode.PERMISSION_DENIED, "is encrypted, and there is no private key"):
        node.cri.PullImage(image={"image": name})
    private = KEYS[kind].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (keys / "key.pem").write_bytes(private)
    assert node.cri.PullImage(image={"image": name}).image_ref
    pod = node.pod()
    assert node.run(pod, "cat", "/srv/app", image=name) == (0, "app\n")
    node.remove_pod(pod)
    node.cri.RemoveImage(image={"image": name})


# --- pulls ----------------------------------------------------------------------------------------------------------


def used(group: str) -> int:
    """Nanoseconds of processor time of a group and all that were ever below it."""
    return int(pathlib.Path(f"{CGROUPS}/cpuacct{group}/cpuacct.usage").read_text())


@pytest.mark.effect("crio.runtime.separate_pull_cgroup")
def test_extraction_is_charged_to_the_group_of_pulls(node: Node, images: Pushed) -> None:
    before = used("/pulls")
    push_image(images.registry, "pulls/one:1", [{"blob": os.urandom(2 << 20)}])
    assert node.cri.PullImage(image={"image": f"{images.registry.address}/pulls/one:1"}).image_ref
    assert used("/pulls") > before
    assert not [d.name for d in pathlib.Path(f"{CGROUPS}/cpuacct/pulls").iterdir() if d.is_dir()]
