"""Block I/O classes on the cgroups of this machine; RDT, which it lacks, is refused."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import grpc
import pytest

from tests.isolation import CGROUPS, Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, linux, refused

PARENT = "/kubepods/classes"


def disk() -> tuple[str, str]:
    """A whole disk of this machine: its node and its number."""
    for line in pathlib.Path("/proc/partitions").read_text().splitlines()[2:]:
        major, minor, _, name = line.split()
        if os.path.exists(f"/sys/block/{name}") and os.path.exists(f"/dev/{name}"):
            return f"/dev/{name}", f"{major}:{minor}"
    raise AssertionError("this machine has no disk")


def conf(directory: str, limit: str = "1M") -> str:
    pathlib.Path(directory, "blockio.yaml").write_text(
        f'Classes:\n  slow:\n    - Devices: ["{disk()[0]}"]\n      ThrottleReadBps: {limit}\n'
    )
    return f'[crio.runtime]\nblockio_config_file = "{directory}/blockio.yaml"\n'


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    found = make_node(images, isolation, prepare=conf)
    yield found
    end_node(found)


def limits(node: Node, pod: str, **more: object) -> str:
    """The read limits of a new container."""
    ident = node.start(pod, "sleep", "1000", **more)
    return pathlib.Path(f"{CGROUPS}/blkio{PARENT}/crio-{ident}/blkio.throttle.read_bps_device").read_text().strip()


def test_a_class_by_annotation_and_after_a_reload(node: Node) -> None:
    number = disk()[1]
    marks = {"blockio.resources.beta.kubernetes.io/container.slow": "slow"}
    pod = node.pod(annotations=marks, linux=linux(cgroup_parent=PARENT))
    assert limits(node, pod, name="slow") == f"{number} 1000000"
    assert limits(node, pod, name="other") == ""
    assert limits(node, pod, name="own", annotations={"io.kubernetes.cri.blockio-class": "slow"}) == f"{number} 1000000"
    assert limits(node, pod, name="lost", annotations={"io.kubernetes.cri.blockio-class": "none"}) == ""
    conf(node.dir, "2M")
    node.reload()
    assert limits(node, pod, name="again", annotations={"io.kubernetes.cri.blockio-class": "slow"}).endswith(" 2000000")
    node.remove_pod(pod)


def test_rdt_is_refused_on_a_host_without_it(node: Node) -> None:
    pod = node.pod(annotations={"rdt.resources.beta.kubernetes.io/pod": "gold"})
    with refused(grpc.StatusCode.UNIMPLEMENTED, "RDT class 'gold' is asked for", "no resctrl file system"):
        node.create(pod, "true")
    node.remove_pod(pod)
