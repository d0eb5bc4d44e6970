"""AppArmor: our default profile, a node's own, none, one that is not there."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.system.node import linux, refused, secured
from tests.vm.guest.service import Vm, sh

HANDLER = os.environ.get("HANDLER", "runc")
OWN = """
#include <tunables/global>
profile vm-no-tmp flags=(attach_disconnected) {
  #include <abstractions/base>
  file,
  deny /tmp/** w,
}
"""


def profile(kind: str, name: str = "") -> Any:
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.ProfileType.Value(kind), localhost_ref=name)


@pytest.fixture(scope="module")
def pod(node: Vm) -> str:
    path = pathlib.Path("/run/vm-no-tmp")
    path.write_text(OWN)
    sh(f"apparmor_parser -Kr {path}")
    return node.pod("apparmor", handler=HANDLER, linux=linux())


def confined(node: Vm, ident: str) -> tuple[str, str]:
    """What the kernel says about the first process, and what an exec sees of itself."""
    first = pathlib.Path(f"/proc/{node.pid_of(ident)}/attr/current").read_text().strip("\n\0")
    return first, node.exec(ident, "cat", "/proc/self/attr/current").stdout.decode().strip("\n\0")


def check_the_daemon_has_loaded_its_profile(node: Vm) -> None:
    assert "crio-default (enforce)" in sh("cat /sys/kernel/security/apparmor/profiles")


def check_containers_get_the_default_profile(node: Vm, pod: str) -> None:
    box = node.start(pod, "sleep", "100000")
    assert confined(node, box) == ("crio-default (enforce)",) * 2
    explicit = node.start(pod, "sleep", "100000", linux=secured(apparmor=profile("RuntimeDefault")))
    assert confined(node, explicit) == ("crio-default (enforce)",) * 2
    old_style = node.start(pod, "sleep", "100000", linux=secured(apparmor_profile="runtime/default"))
    assert confined(node, old_style) == ("crio-default (enforce)",) * 2


def check_the_default_profile_fences_the_host(node: Vm, pod: str) -> None:
    """Even with the capability: no mounts, nothing in /sys/kernel; but signals inside work, and so does the end."""
    more = {
        "capabilities": pb.Capability(add_capabilities=["SYS_ADMIN"]),
        "seccomp": profile("Unconfined"),
    }
    script = "mkdir -p /tmp/m; mount -t tmpfs none /tmp/m; echo mount $?; sleep 1000 & kill $!; echo kill $?; wait"
    _, text = node.run(pod, "sh", "-c", script, linux=secured(**more))
    assert "mount 0" not in text, text
    assert "kill 0" in text, text
    _, text = node.run(pod, "sh", "-c", script, linux=secured(apparmor=profile("Unconfined"), **more))
    assert "mount 0" in text, text
    assert "kill 0" in text, text


def check_stopping_works_under_the_profile(node: Vm, pod: str) -> None:
    box = node.start(pod, "sh", "-c", "trap 'echo bye; exit 7' TERM; while :; do sleep 1; done")
    node.cri.StopContainer(container_id=box, timeout=200)
    status = node.status(box)
    # before its start runc 1.1 says something about /dev/char where the module tun is not loaded
    assert (status.exit_code, node.log(box)[-1].text) == (7, "bye")


def check_a_profile_of_the_node(node: Vm, pod: str) -> None:
    box = node.start(pod, "sleep", "100000", linux=secured(apparmor=profile("Localhost", "vm-no-tmp")))
    assert confined(node, box) == ("vm-no-tmp (enforce)",) * 2
    assert node.exec(box, "sh", "-c", "echo x > /tmp/x").exit_code != 0
    assert node.exec(box, "sh", "-c", "echo x > /root/x").exit_code == 0
    old_style = node.start(pod, "sleep", "100000", linux=secured(apparmor_profile="localhost/vm-no-tmp"))
    assert confined(node, old_style) == ("vm-no-tmp (enforce)",) * 2


def check_unconfined(node: Vm, pod: str) -> None:
    box = node.start(pod, "sleep", "100000", linux=secured(apparmor=profile("Unconfined")))
    assert confined(node, box) == ("unconfined",) * 2
    old_style = node.start(pod, "sleep", "100000", linux=secured(apparmor_profile="unconfined"))
    assert confined(node, old_style) == ("unconfined",) * 2


def check_a_privileged_container_is_unconfined(node: Vm) -> None:
    pod = node.pod(handler=HANDLER, linux=linux(privileged=True))
    box = node.start(pod, "sleep", "100000", linux=secured(privileged=True))
    assert confined(node, box) == ("unconfined",) * 2
    node.remove_pod(pod)


def check_a_profile_that_is_not_loaded_is_refused(node: Vm, pod: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "AppArmor profile", "vm-absent", "not loaded"):
        node.create(pod, "true", linux=secured(apparmor=profile("Localhost", "vm-absent")))


def check_the_status_tells_the_profile(node: Vm, pod: str) -> None:
    box = node.start(pod, "sleep", "100000")
    assert node.spec(box)["runtimeSpec"]["process"]["apparmorProfile"] == "crio-default"


def check_a_flushed_profile_is_loaded_again_at_the_next_start(node: Vm, pod: str) -> None:
    """An operator's ``aa-teardown`` removes all profiles: a restart of the daemon brings ours back."""
    node.remove_pod(pod)
    sh("printf crio-default > /sys/kernel/security/apparmor/.remove")
    assert "crio-default" not in sh("cat /sys/kernel/security/apparmor/profiles")
    node.service.restart()
    assert "crio-default (enforce)" in sh("cat /sys/kernel/security/apparmor/profiles")
    again = node.pod(handler=HANDLER, linux=linux())
    assert confined(node, node.start(again, "sleep", "100000")) == ("crio-default (enforce)",) * 2
    node.remove_pod(again)
