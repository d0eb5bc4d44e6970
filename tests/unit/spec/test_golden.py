"""Whole OCI configs as the create flow writes them, against files that were read by a person.

After a wanted change: ``PYCRIO_GOLDEN=write pytest tests/unit/spec/test_golden.py``, then read the difference.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from typing import Any

import pytest

from pycrio.flows.containers import create
from pycrio.flows.pods.run import run
from pycrio.model.container import ContainerConfig
from pycrio.model.image import ImageConfig
from pycrio.model.mount import Device, Mount, Propagation
from pycrio.model.pod import PodConfig
from pycrio.model.resources import HugepageLimit, Resources
from pycrio.model.security import (
    Capabilities,
    ContainerSecurity,
    GroupsPolicy,
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    PodSecurity,
    UserNamespace,
)
from tests.fakes.node import container_config, fake_node, pod_config

GOLDEN = pathlib.Path(__file__).parent / "golden"
PID = NamespaceMode.CONTAINER
NODE = NamespaceMode.NODE
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1000:\naudio:x:29:app,other\nvideo:x:44:other\n"
IMAGE = ImageConfig(
    entrypoint=("/entry",),
    cmd=("serve",),
    env=("PATH=/img/bin", "IMG=1"),
    user="app",
    working_dir="srv",
    volumes=("/vol",),
)
IDS = (IdMapping(0, 100000, 65536),)

MINIMAL = (pod_config(), container_config(), ImageConfig(cmd=("sh",)), {})
EVERYTHING = (
    pod_config(
        hostname="web-0",
        labels={"app": "web"},
        annotations={"pod": "a"},
        cgroup_parent="/kubepods/pod1",
        security=PodSecurity(NamespaceOptions(pid=PID), supplemental_groups=(7,)),
    ),
    container_config(
        command=("/bin/app",),
        args=("--flag", "x"),
        working_dir="/work",
        envs=(("A", b"1"), ("IMG", b"2"), ("RAW", b"\xff")),
        mounts=(
            Mount("/data", "/srv/data", readonly=True, propagation=Propagation.HOST_TO_CONTAINER),
            Mount("/data/sub", "/srv/sub", propagation=Propagation.BIDIRECTIONAL, mount_options=("noexec",)),
            Mount("/rro", "/srv/rro", readonly=True, recursive_read_only=True),
            Mount("/dev/shm", "/srv/shm"),
        ),
        devices=(Device("/dev/null", "/dev/other", "r"),),
        labels={"l": "v"},
        annotations={"k": "v"},
        tty=True,
        stdin=True,
        resources=Resources(
            cpu_period=100000,
            cpu_quota=50000,
            cpu_shares=512,
            memory_limit=64 << 20,
            memory_swap_limit=128 << 20,
            oom_score_adj=500,
            cpuset_cpus="0-1",
            cpuset_mems="0",
            hugepages=(HugepageLimit("2MB", 4 << 20),),
            unified={"memory.high": "60000000"},
        ),
        security=ContainerSecurity(
            capabilities=Capabilities(add=("NET_ADMIN",), drop=("KILL",), add_ambient=("NET_BIND_SERVICE",)),
            run_as_user=1000,
            supplemental_groups=(5, 29),
            no_new_privs=True,
            masked_paths=("/proc/secret",),
            readonly_paths=("/proc/sys",),
            readonly_rootfs=True,
        ),
    ),
    IMAGE,
    {
        "default_env": ("EXTRA=1", "IMG=0"),
        "default_ulimits": (("RLIMIT_NOFILE", 1024, 2048),),
        "default_capabilities": ("CHOWN", "KILL", "NET_BIND_SERVICE"),
        "pids_limit": 100,
        "masked_paths": ("/sys/cpu/thermal_throttle",),
        "default_mounts": (("/srv/secrets", "/run/secrets"),),
    },
)
PRIVILEGED = (
    pod_config(security=PodSecurity(NamespaceOptions(pid=PID), privileged=True)),
    container_config(
        security=ContainerSecurity(privileged=True, masked_paths=("/proc/x",), readonly_paths=("/proc/y",)),
    ),
    ImageConfig(cmd=("sh",)),
    {},
)
HOST_NETWORK = (
    pod_config(hostname="node1", security=PodSecurity(NamespaceOptions(network=NODE, pid=NODE, ipc=NODE))),
    container_config(),
    ImageConfig(cmd=("sh",)),
    {},
)
USERNS = UserNamespace(NamespaceMode.POD, IDS, IDS)
USER_NAMESPACE = (
    pod_config(security=PodSecurity(NamespaceOptions(pid=PID, userns=USERNS))),
    container_config(),
    ImageConfig(cmd=("sh",)),
    {},
)
SYSTEMD = (pod_config(), container_config(command=("/usr/sbin/init",)), ImageConfig(), {})
READ_ONLY = (pod_config(), container_config(), ImageConfig(cmd=("sh",)), {"read_only": True})
STRICT = (
    pod_config(),
    container_config(security=ContainerSecurity(run_as_user=4242, run_as_group=77, groups_policy=GroupsPolicy.STRICT)),
    IMAGE,
    {"image_volumes": "ignore"},
)
CASES: dict[str, tuple[PodConfig, ContainerConfig, ImageConfig, dict[str, Any]]] = {
    "minimal": MINIMAL,
    "everything": EVERYTHING,
    "privileged": PRIVILEGED,
    "host-network": HOST_NETWORK,
    "user-namespace": USER_NAMESPACE,
    "systemd": SYSTEMD,
    "read-only": READ_ONLY,
    "unknown-user": STRICT,
}


async def written(name: str, directory: str) -> dict[str, Any]:
    """The config of a case, with the random ids replaced by names."""
    pod, container, image, options = CASES[name]
    async with fake_node(directory, **options) as (node, fake):
        fake.images.add(config=image)
        for path in ("/srv/data", "/srv/sub", "/srv/rro", "/srv/shm", "/srv/secrets"):
            fake.files.dirs.add(path)
        pod_id = await run(node, pod, "")
        original = fake.rootfs.mount

        async def mount(container_id: str) -> str:
            root = await original(container_id)
            fake.files.files |= {f"{root}/etc/passwd": PASSWD, f"{root}/etc/group": GROUP}
            return root

        fake.rootfs.mount = mount  # type: ignore[method-assign]
        ident = await create.create(node, pod_id, container, pod)
        text = fake.files.files[f"{node.containers.get(ident).bundle}/config.json"].decode()
        for known, label in (
            (ident, "CONTAINER"),
            (pod_id, "POD"),
            (ident[:12], "CONTAINER12"),
            (pod_id[:12], "POD12"),
        ):
            text = text.replace(known, label)
        document: dict[str, Any] = json.loads(text)
        return document


@pytest.mark.parametrize("name", sorted(CASES))
async def test_config(name: str, tmp_path: pathlib.Path) -> None:
    document = await written(name, str(tmp_path))
    created = document["annotations"].pop("io.kubernetes.cri-o.Created")
    assert datetime.datetime.fromisoformat(created.replace("Z", "+00:00")).tzinfo is not None
    file = GOLDEN / f"{name}.json"
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if os.environ.get("PYCRIO_GOLDEN") == "write":
        file.write_text(text)
    assert json.loads(file.read_text()) == document


def test_every_golden_file_has_its_case() -> None:
    assert {p.stem for p in GOLDEN.glob("*.json")} == set(CASES)
