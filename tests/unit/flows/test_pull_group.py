"""Where the layers of a pull are extracted: the pod's group, a group by name, or in the daemon."""

from __future__ import annotations

import pathlib

import pytest

from pycrio.flows.images.pull import pull
from pycrio.model.image import ImageSpec
from tests.fakes.node import fake_node, pod_config


@pytest.mark.parametrize(
    ("configured", "parent", "group"),
    [("", "/kubepods/p", ""), ("pod", "/kubepods/p", "/kubepods/p"), ("pod", None, ""), ("/pulls", None, "/pulls")],
)
async def test_the_group(configured: str, parent: str | None, group: str, tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path), separate_pull_cgroup=configured) as (node, fake):
        fake.registry.offer("docker.io/library/busybox:latest")
        pod = None if parent is None else pod_config(cgroup_parent=parent)
        await pull(node, ImageSpec("busybox"), None, pod)
        assert fake.layers.groups == {group}
