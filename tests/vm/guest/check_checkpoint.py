"""Checkpoint and restore by CRIU itself, which a build machine's newer kernel does not let run."""

from __future__ import annotations

import pathlib

from tests.system.node import linux
from tests.vm.guest.service import Vm, eventually, sh

COUNT = 'trap "exit 7" TERM; while :; do n=$((n+1)); echo $n >/srv/n; sleep 0.2; done'


def count(node: Vm, ident: str) -> int:
    return int(node.exec(ident, "cat", "/srv/n").stdout or 0)


def check_a_container_goes_on_where_it_was(node: Vm, tmp_path: pathlib.Path) -> None:
    print("CRIU", sh("criu check 2>&1; criu --version"))
    parent = linux(cgroup_parent="kubepods-podsaved.slice")
    pod = node.pod("saved", handler="runc", linux=parent)
    box = node.start(pod, "sh", "-c", COUNT, name="counted")
    eventually(lambda: count(node, box) >= 20)
    archive = str(tmp_path / "counted.tar")
    node.cri.CheckpointContainer(container_id=box, location=archive)
    at = count(node, box)
    eventually(lambda: count(node, box) > at)
    node.remove_pod(pod)
    other = node.pod("restored", handler="runc", linux=parent)
    again = node.create(other, image=archive, name="counted")
    node.cri.StartContainer(container_id=again)
    # the shell's own variable: begun anew it would count from 1
    assert count(node, again) >= 20
    went_on = count(node, again)
    eventually(lambda: count(node, again) > went_on)
    node.cri.StopContainer(container_id=again, timeout=60)
    assert node.status(again).exit_code == 7
    node.remove_pod(other)
