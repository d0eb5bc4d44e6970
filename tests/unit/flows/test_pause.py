"""What runs as a pod's init: pycrio's own program, or what the operator wants of the pause image."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from pycrio.errors import InvalidRequest, RegistryError
from pycrio.flows.node_state import Node
from pycrio.flows.pods import run, stop
from pycrio.model.image import ImageConfig
from pycrio.model.security import NamespaceMode, NamespaceOptions, PodSecurity
from tests.fakes.node import FakeHost, pod_config

PAUSE = "registry.k8s.io/pause:3.10"
SHARED = PodSecurity(NamespaceOptions(pid=NamespaceMode.POD))


class Rig:
    def __init__(self, directory: pathlib.Path, command: str, image: ImageConfig | None = None) -> None:
        self.fake = FakeHost(pause_command=command, default_capabilities=("CHOWN", "KILL"))
        if image is not None:
            added = self.fake.images.add(PAUSE)
            self.fake.images.stored[added.id] = dataclasses.replace(added, config=image)
        self.node = Node(self.fake.host, str(directory))

    async def pod(self) -> tuple[str, dict[str, Any]]:
        """The pod's id and its init's config.json."""
        ident = await run.run(self.node, pod_config(security=SHARED), "")
        return ident, json.loads(self.fake.files.files[f"{self.node.pods.get(ident).run_dir}/config.json"])


async def test_the_usual_command_is_our_own_program(tmp_path: pathlib.Path) -> None:
    rig = Rig(tmp_path, "/pause")
    ident, document = await rig.pod()
    pod = rig.node.pods.get(ident)
    assert document["process"]["args"] == ["/pause"]
    assert document["process"]["capabilities"]["bounding"] == []
    assert document["root"] == {"path": f"{pod.run_dir}/pause-root", "readonly": True}
    assert {"/usr/libexec/pause"} <= {m["source"] for m in document["mounts"]}
    assert (pod.infra_rootfs, rig.fake.rootfs.kept) == ("", {})


@pytest.mark.parametrize(
    ("command", "args"), [("/bin/init", ["/bin/init"]), ("", ["/entry", "point", "and", "command"])]
)
async def test_another_command_runs_in_the_pause_image(tmp_path: pathlib.Path, command: str, args: list[str]) -> None:
    image = ImageConfig(env=("A=b",), entrypoint=("/entry", "point"), cmd=("and", "command"), working_dir="/w")
    rig = Rig(tmp_path, command, image)
    ident, document = await rig.pod()
    pod, process = rig.node.pods.get(ident), document["process"]
    assert (process["args"], process["cwd"]) == (args, "/w")
    assert process["env"][-1] == "A=b"
    assert process["env"][0].startswith("PATH=/usr/local/sbin:")
    assert process["capabilities"]["bounding"] == ["CAP_CHOWN", "CAP_KILL"]
    assert process["user"]["uid"] == 0
    assert document["root"] == {"path": f"/var/store/{pod.infra_rootfs}/merged", "readonly": True}
    assert "/usr/libexec/pause" not in {m.get("source") for m in document["mounts"]}
    kept = rig.fake.rootfs.kept[pod.infra_rootfs]
    assert (kept.metadata["pod-id"], kept.metadata["image-name"]) == (ident, PAUSE)

    await stop.stop(rig.node, ident, 1)
    assert (rig.node.pods.get(ident).infra_rootfs, rig.fake.rootfs.kept) == ("", {})
    await stop.stop(rig.node, ident, 1)


async def test_an_absent_pause_image_is_pulled(tmp_path: pathlib.Path) -> None:
    rig = Rig(tmp_path, "/own")
    with pytest.raises(RegistryError):
        await rig.pod()
    assert rig.fake.rootfs.kept == {}
    rig.fake.registry.offer(PAUSE)
    _, document = await rig.pod()
    assert document["process"]["args"] == ["/own"]


async def test_a_pause_image_without_a_command(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidRequest, match="neither entrypoint nor command: set pause_command"):
        await Rig(tmp_path, "", ImageConfig()).pod()
