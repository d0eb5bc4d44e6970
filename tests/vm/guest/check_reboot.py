"""Before and after a reboot, told apart by the environment: containers are gone, images stay."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from tests.system.node import linux
from tests.vm.guest.conftest import IMAGE
from tests.vm.guest.service import UNIT, Vm, sh, unit

AFTER = os.environ.get("REBOOT", "")
FOUND = pathlib.Path("/data/results/before-reboot.json")


@pytest.mark.skipif(AFTER != "", reason="this is after the reboot")
def check_leave_something_for_the_next_boot(node: Vm) -> None:
    pod = node.pod("survivor", linux=linux(cgroup_parent="kubepods-podsurvivor.slice"))
    box = node.start(pod, "sleep", "100000")
    FOUND.write_text(json.dumps({"pod": pod, "box": box, "boot": sh("cat /proc/sys/kernel/random/boot_id").strip()}))
    assert os.listdir("/var/lib/cni/networks/vm")


@pytest.mark.skipif(AFTER == "", reason="this is before the reboot")
def check_the_node_is_empty_and_the_images_are_there(node: Vm) -> None:
    before = json.loads(FOUND.read_text())
    assert before["boot"] != sh("cat /proc/sys/kernel/random/boot_id").strip()
    assert unit(UNIT, "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    assert not node.cri.ListPodSandbox().items
    assert not node.cri.ListContainers().containers
    image = node.cri.ImageStatus(image={"image": IMAGE})
    assert image.image.repo_tags == [IMAGE]
    addresses = [n for n in os.listdir("/var/lib/cni/networks/vm") if n.startswith("10.")]
    assert not addresses, "addresses of pods of the last boot are still taken"
    records = pathlib.Path("/var/lib/containers/storage/overlay-containers/containers.json")
    ids = [c["id"] for c in json.loads(records.read_text())] if records.exists() and records.stat().st_size else []
    assert not {before["box"], before["pod"]} & set(ids)
    print("JOURNAL", sh(f"journalctl -b -u {UNIT} -o cat --no-pager | head -30"))


@pytest.mark.skipif(AFTER == "", reason="this is before the reboot")
def check_the_same_pod_can_run_again(node: Vm) -> None:
    pod = node.pod("survivor", linux=linux(cgroup_parent="kubepods-podsurvivor.slice"))
    # logs are the kubelet's to remove: those of earlier boots stay, and pods of the same name write on
    assert node.sh(pod, "echo again").endswith("again\n")
    node.remove_pod(pod)
