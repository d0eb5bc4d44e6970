"""Pulls whose extraction is charged to a control group of its own."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.cri import pod as pod_config
from tests.fixtures_registry import push_image
from tests.isolation import CGROUPS, Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    found = make_node(images, isolation, drop_in='[crio.runtime]\nseparate_pull_cgroup = "pod"\n')
    yield found
    end_node(found)


def used(group: str) -> int:
    """Nanoseconds of processor time of a group and all that were ever below it."""
    return int(pathlib.Path(f"{CGROUPS}/cpuacct{group}/cpuacct.usage").read_text())


def below(group: str) -> list[str]:
    return [d.name for d in pathlib.Path(f"{CGROUPS}/cpuacct{group}").iterdir() if d.is_dir()]


def pushed(images: Pushed, name: str) -> str:
    """An image that nobody has pulled yet."""
    push_image(images.registry, name, [{"blob": os.urandom(2 << 20)}])
    return f"{images.registry.address}/{name}"


def pull(node: Node, image: str, group: str = "") -> None:
    config = pod_config("puller", linux=pb.LinuxPodSandboxConfig(cgroup_parent=group)) if group else None
    assert node.cri.PullImage(image={"image": image}, sandbox_config=config).image_ref


def test_in_the_pods_group(node: Node, images: Pushed) -> None:
    group = "/kubepods/puller"
    pull(node, pushed(images, "pulls/one:1"), group)
    assert used(group) > 0
    assert below(group) == []
    before = used(group)
    pull(node, pushed(images, "pulls/two:1"))  # without a pod: by the daemon itself
    assert used(group) == before


def test_in_a_group_by_name(node: Node, images: Pushed) -> None:
    with node.configured('[crio.runtime]\nseparate_pull_cgroup = "pulls"\n'):
        pull(node, pushed(images, "pulls/three:1"))
        assert used("/pulls") > 0
        assert below("/pulls") == []
