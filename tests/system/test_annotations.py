"""Annotations that act, on a real daemon: those that no other file shows."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.isolation import Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
NAMES = ("seccomp-notifier-action.crio.io", "link-logs.crio.io", "disable-fips.crio.io")
NOTIFY = "seccomp-notifier-action.crio.io"


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    names = ", ".join(f'"{name}"' for name in NAMES)
    node = make_node(images, isolation, extra=f"allowed_annotations = [{names}]\n")
    yield node
    end_node(node)


# --- seccomp notifier -------------------------------------------------------------------------------------------------


def confined(path: str = "") -> object:
    kind = pb.SecurityProfile.Localhost if path else pb.SecurityProfile.RuntimeDefault
    return secured(seccomp=pb.SecurityProfile(profile_type=kind, localhost_ref=path))


def blocked(node: Node, ident: str) -> list[str]:
    return re.findall(f"Seccomp blocked syscall '(\\w+)' in container {ident}", node.daemon.log)


def test_forbidden_calls_are_told(node: Node) -> None:
    """Of the container and of its execs, which go on; and after a restart of the daemon as well."""
    pod = node.pod(annotations={NOTIFY: ""})
    ctr = node.start(pod, "sh", "-c", "swapoff /dev/null; exec sleep 1000", linux=confined())
    eventually(lambda: blocked(node, ctr) == ["swapoff"])
    done = node.exec(ctr, "sh", "-c", "for i in 1 2; do swapoff /dev/null; done; mount -t tmpfs x /mnt; echo on")
    assert (done.exit_code, bytes(done.stdout)) == (0, b"on\n")
    assert b"not implemented" in done.stderr
    eventually(lambda: blocked(node, ctr) == ["swapoff"] * 3 + ["mount"])
    node.restart()
    assert node.exec(ctr, "swapoff", "/dev/null").exit_code != 0
    eventually(lambda: blocked(node, ctr) == ["swapoff"] * 3 + ["mount", "swapoff"])
    assert node.status(ctr).state == pb.CONTAINER_RUNNING
    assert os.listdir(f"{node.dir}/seccomp") == [ctr]


def test_a_container_is_stopped_after_forbidden_calls(node: Node, tmp_path: pathlib.Path) -> None:
    profile = tmp_path / "profile.json"
    rules = [{"names": ["swapon", "chroot"], "action": "SCMP_ACT_KILL"}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    pod = node.pod(annotations={f"{NOTIFY}/told": "stop"})
    script = "for i in 1 2 3; do swapon /dev/null; done; chroot / true; exec sleep 1000"
    free = node.start(pod, "sleep", "1000", name="free", linux=confined())
    ctr = node.start(pod, "sh", "-c", script, name="told", linux=confined(str(profile)))
    status = node.ended(ctr)
    assert (status.exit_code, status.reason) == (137, "seccomp killed")
    assert status.message == "Used forbidden syscalls: chroot (1x), swapon (3x)"
    assert node.exec(free, "swapoff", "/dev/null").exit_code != 0
    assert blocked(node, free) == []


def test_without_permission_or_profile_nothing_is_told(node: Node) -> None:
    pod = node.pod(annotations={NOTIFY: "stop"})
    ctr = node.start(pod, "sleep", "1000")  # unconfined
    assert "listenerPath" not in json.dumps(node.spec(ctr)["runtimeSpec"])
    node.remove_pod(pod)
    handler = f'[crio.runtime.runtimes.runc]\nruntime_path = "{shutil.which("runc")}"\nruntime_root = "{node.dir}/rt"\n'
    with node.configured(handler):
        pod = node.pod(annotations={NOTIFY: "stop"})
        ctr = node.start(pod, "sleep", "1000", linux=confined())
        assert "listenerPath" not in json.dumps(node.spec(ctr)["runtimeSpec"])
        node.remove_pod(pod)
