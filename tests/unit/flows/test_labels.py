"""SELinux labels of containers: which one a volume gets, and which type a systemd."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace
from typing import Any

import pytest

from pycrio.drivers.security.selinux import SELinux
from pycrio.flows.containers.create import create
from pycrio.flows.pods.run import run
from pycrio.flows.ports import Labels
from pycrio.model.mount import Mount
from pycrio.model.security import ContainerSecurity, SELinuxOptions
from tests.fakes.node import container_config, fake_node, pod_config

FILE = "system_u:object_r:container_file_t:"
VOLUME = Mount("/data", "/volume", selinux_relabel=True)


@pytest.mark.parametrize(
    ("changes", "process", "relabelled"),
    [
        ({}, "system_u:system_r:container_t:s0:c1,c2", f"{FILE}s0:c1,c2"),
        ({"selinux": SELinuxOptions(level="s0:c5")}, "system_u:system_r:container_t:s0:c5", f"{FILE}s0:c5"),
        ({"selinux": SELinuxOptions(type="spc_t")}, "system_u:system_r:spc_t:s0:c1,c2", None),
        ({"command": ("/sbin/init",)}, "system_u:system_r:container_init_t:s0:c1,c2", f"{FILE}s0:c1,c2"),
        ({"privileged": True}, None, f"{FILE}s0:c1,c2"),
    ],
)
async def test_labels(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    process: str | None,
    relabelled: str | None,
) -> None:
    selinux = SELinux(False)
    selinux.enabled = True
    found: list[str] = []

    async def relabel(path: str, label: str, recursive: bool) -> None:
        found.append(label)

    def labels_of(pod: Labels, options: SELinuxOptions | None, init: bool = False) -> Labels:
        return Labels(*selinux.container_labels((pod.process, pod.mount), options, init))

    async with fake_node(str(tmp_path)) as (node, fake):
        fake.images.add()
        fake.files.dirs.add("/volume")
        security = fake.host.security
        of_pod = Labels("system_u:system_r:container_t:s0:c1,c2", f"{FILE}s0:c1,c2")
        monkeypatch.setattr(security, "labels", lambda *_: of_pod)
        monkeypatch.setattr(security, "container_labels", labels_of)
        monkeypatch.setattr(security, "relabel", relabel)
        config = pod_config()
        pod = await run(node, config, "")
        if changes.get("privileged"):
            node.pods.put(replace(node.pods.get(pod), privileged=True))
        command = changes.pop("command", ("true",))
        wanted = container_config(command=command, mounts=(VOLUME,), security=ContainerSecurity(**changes))
        ident = await create(node, pod, wanted, config)
        document = json.loads(fake.files.files[f"{node.containers.get(ident).bundle}/config.json"])
        assert document["process"].get("selinuxLabel") == process
        assert document["linux"]["mountLabel"] == (relabelled or f"{FILE}s0:c1,c2")
        assert found == ([] if relabelled is None else [relabelled])
