"""What a node's operator does to a running service: kill, stop, restart."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.system.node import linux
from tests.vm.guest.service import UNIT, Vm, eventually, sh, unit

PARENT = "kubepods-podrestart.slice"


def check_a_killed_daemon_comes_back_and_has_lost_nothing(node: Vm) -> None:
    pod = node.pod("restart", linux=linux(cgroup_parent=PARENT))
    box = node.start(pod, "sh", "-c", "while :; do echo tick; sleep 1; done", name="ticks")
    leaving = node.start(pod, "sh", "-c", "while [ ! -e /tmp/go ]; do sleep 1; done; exit 42", name="leaving")
    before = (node.pid_of(box), node.group_of(box))
    root = f"/proc/{node.pid_of(leaving)}/root"
    restarts, pid = int(unit(UNIT, "NRestarts")["NRestarts"]), node.pid
    os.kill(pid, signal.SIGKILL)
    pathlib.Path(f"{root}/tmp/go").touch()  # ends while nobody looks
    eventually(lambda: int(unit(UNIT, "NRestarts")["NRestarts"]) == restarts + 1)
    eventually(lambda: unit(UNIT, "ActiveState")["ActiveState"] == "active" and node.pid not in (0, pid))
    assert (node.pid_of(box), node.group_of(box)) == before
    assert node.ended(leaving).exit_code == 42
    ticks = len(node.log(box))
    eventually(lambda: len(node.log(box)) > ticks)
    assert node.exec(box, "echo", "alive").stdout == b"alive\n"


def check_stopping_the_service_leaves_containers_alone(node: Vm) -> None:
    (box,) = [c.id for c in node.cri.ListContainers().containers if c.metadata.name == "ticks"]
    before = (node.pid_of(box), node.group_of(box))
    log = node.status(box).log_path
    assert node.service.stop() == 0
    assert unit(UNIT, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    size = os.path.getsize(log)
    eventually(lambda: os.path.getsize(log) > size)
    assert os.path.isdir(f"/proc/{before[0]}")
    node.service.start()
    assert (node.pid_of(box), node.group_of(box)) == before
    assert node.status(box).state == pb.CONTAINER_RUNNING


def check_a_restart_of_the_service_leaves_containers_alone(node: Vm) -> None:
    (box,) = [c.id for c in node.cri.ListContainers().containers if c.metadata.name == "ticks"]
    before = node.pid_of(box)
    node.service.restart()
    assert node.pid_of(box) == before
    node.clear()


@pytest.mark.parametrize("command", ["systemctl daemon-reexec", "systemctl restart dbus.service"])
def check_pods_start_after_the_manager_or_the_bus_began_anew(node: Vm, command: str) -> None:
    """Monitors' scopes are asked for over a connection that such a restart breaks, or whose signals it may forget."""
    for _ in range(2):
        pod = node.pod(linux=linux(cgroup_parent=PARENT))
        box = node.start(pod, "sleep", "100000")
        assert f"/kubepods-podrestart.slice/crio-{box}.scope" in node.group_of(box)  # crun has one more inside
        node.remove_pod(pod)
        sh(command)
    pid = node.pid
    pod = node.pod(linux=linux(cgroup_parent=PARENT))
    assert node.sh(pod, "echo works") == "works\n"
    node.remove_pod(pod)
    assert node.pid == pid
    assert unit(UNIT, "ActiveState")["ActiveState"] == "active"
