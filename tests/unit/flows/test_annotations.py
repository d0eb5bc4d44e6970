"""What single annotations change in a container's config."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace

import pytest

from pycrio.flows.containers.create import create
from pycrio.flows.containers.volumes import FIPS
from pycrio.flows.pods.run import run
from tests.fakes.node import container_config, fake_node, pod_config

MARK, LABEL = "disable-fips.crio.io", {"FIPS_DISABLE": "true"}


@pytest.mark.parametrize(
    ("labels", "annotations", "allowed", "kernel", "hidden"),
    [
        (LABEL, {MARK: "true"}, (MARK,), True, True),
        (LABEL, {"io.kubernetes.cri-o.DisableFIPS": "true"}, (MARK,), True, True),
        (LABEL, {MARK: "true"}, (), True, False),
        (LABEL, {MARK: "false"}, (MARK,), True, False),
        ({}, {MARK: "true"}, (MARK,), True, False),
        (LABEL, {MARK: "true"}, (MARK,), False, False),
    ],
)
async def test_fips_mode_is_hidden(
    tmp_path: pathlib.Path,
    labels: dict[str, str],
    annotations: dict[str, str],
    allowed: tuple[str, ...],
    kernel: bool,
    hidden: bool,
) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.host.handlers.runc = replace(fake.host.handlers.get(""), allowed_annotations=allowed)  # type: ignore[attr-defined]
        fake.images.add()
        if kernel:
            fake.files.files[FIPS] = b"1\n"
        pod = pod_config(annotations=annotations, labels=labels)
        ident = await create(node, await run(node, pod, ""), container_config(), pod)
        bundle = node.containers.get(ident).bundle
        mounts = json.loads(fake.files.files[f"{bundle}/config.json"])["mounts"]
        found = [m for m in mounts if m["destination"] == FIPS]
        assert [m["source"] for m in found] == ([f"{bundle}/sysctl-fips"] if hidden else [])
        assert fake.files.files.get(f"{bundle}/sysctl-fips") == (b"0\n" if hidden else None)
