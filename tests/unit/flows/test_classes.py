"""Classes of service: which annotation counts, and what becomes of it in the OCI config."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace

import pytest

from pycrio.errors import InvalidRequest
from pycrio.flows.containers.classes import asked
from pycrio.flows.containers.create import create
from pycrio.flows.pods.run import run
from tests.fakes.node import container_config, fake_node, pod_config

POD = "rdt.resources.beta.kubernetes.io/pod"
ONE = "rdt.resources.beta.kubernetes.io/container.app"
OWN = "io.kubernetes.cri.rdt-class"


def test_the_nearest_annotation_counts() -> None:
    pod = {POD: "all", ONE: "this"}
    assert asked("rdt", "app", {OWN: "own"}, pod) == ("own", False)
    assert asked("rdt", "app", {}, pod) == ("this", True)
    assert asked("rdt", "other", {}, pod) == ("all", True)
    assert asked("blockio", "app", {}, pod) == ("", True)


@pytest.mark.parametrize(
    ("pod", "container", "block", "rdt"),
    [
        ({"blockio.resources.beta.kubernetes.io/pod": "slow", POD: "slow"}, {}, {"weight": 10}, "slow-pod"),
        ({}, {"io.kubernetes.cri.blockio-class": "slow", OWN: "slow"}, {"weight": 10}, "slow-container"),
        ({"blockio.resources.beta.kubernetes.io/pod": "unknown"}, {}, None, None),
        ({}, {}, None, None),
    ],
)
async def test_the_config(
    pod: dict[str, str], container: dict[str, str], block: object, rdt: str | None, tmp_path: pathlib.Path
) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.images.add()
        handlers = fake.host.handlers
        handlers.runc = replace(handlers.get(""), allowed_annotations=(OWN,))  # type: ignore[attr-defined]
        config = pod_config(annotations=pod)
        ident = await create(node, await run(node, config, ""), container_config(annotations=container), config)
        linux = json.loads(fake.files.files[f"{node.containers.get(ident).bundle}/config.json"])["linux"]
        assert linux["resources"].get("blockIO") == block
        assert linux.get("intelRdt") == (None if rdt is None else {"closID": rdt})


async def test_a_class_that_is_not_allowed_to_act_and_one_that_is_not_there(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.images.add()
        plain = pod_config()
        pod = await run(node, plain, "")
        await create(node, pod, container_config(annotations={OWN: "none"}), plain)
        named = pod_config("other", annotations={POD: "none"})
        with pytest.raises(InvalidRequest, match="there is no RDT class 'none'"):
            await create(node, await run(node, named, ""), container_config(), named)
