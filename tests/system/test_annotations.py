"""Annotations that act, on a real daemon: those that no other file shows."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.isolation import Isolation, covered, mount, unmount
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, refused, secured

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


# --- logs in the pod --------------------------------------------------------------------------------------------------

VOLUMES = "/var/lib/kubelet/pods"


@pytest.fixture
def volume() -> Iterator[pathlib.Path]:
    """What a kubelet prepares for the pod ``talker``, whose volume is a mount itself."""
    with covered("/var/lib/kubelet"):
        path = pathlib.Path(VOLUMES, "uid-talker/volumes/kubernetes.io~empty-dir/logs")
        path.mkdir(parents=True)
        mount("memory", path, "tmpfs")
        yield path
        unmount(path)


def shown(node: Node, volume: pathlib.Path) -> str:
    """What the daemon sees mounted there last."""
    lines = pathlib.Path(f"/proc/{node.pid}/mountinfo").read_text().splitlines()
    return [words[3] for words in map(str.split, lines) if words[4] == str(volume)][-1]


def test_logs_are_linked_into_a_volume(node: Node, volume: pathlib.Path) -> None:
    directory = f"{node.dir}/pods/default_talker_uid-talker"
    pod = node.pod("talker", annotations={"link-logs.crio.io": "logs"}, log_directory=directory)
    assert shown(node, volume).endswith("/default_talker_uid-talker")
    bind = pb.Mount(host_path=str(volume), container_path="/mnt")
    first = node.start(pod, "sh", "-c", "echo said; exec sleep 1000", name="one", log_path="one/0.log")
    node.wait_log(first, "said")
    script = f"cat /mnt/{first}.log /mnt/one/0.log; touch /mnt/x"
    second = node.start(pod, "sh", "-c", script, name="two", log_path="two/0.log", mounts=[bind])
    assert node.ended(second).exit_code == 1
    first_line, again, refusal = node.output(second).splitlines()
    assert first_line == again
    assert "stdout F said" in first_line
    assert "Read-only" in refusal
    assert sorted(n for n in os.listdir(directory) if n.endswith(".log")) == sorted(f"{i}.log" for i in (first, second))
    node.cri.RemoveContainer(container_id=second)
    assert [n for n in os.listdir(directory) if n.endswith(".log")] == [f"{first}.log"]
    node.restart()
    assert shown(node, volume).endswith("/default_talker_uid-talker")
    node.remove_pod(pod)
    assert shown(node, volume) == "/"  # the kubelet's own mount is still there


def test_linked_logs_of_a_pod_that_is_gone(node: Node, volume: pathlib.Path, tmp_path: pathlib.Path) -> None:
    logs = tmp_path / "default_talker_uid-talker"
    logs.mkdir()
    node.daemon.kill()
    mount(str(logs), volume, flags=4096)  # MS_BIND, as a daemon left it that was killed before it had a record
    node.daemon.start()
    eventually(lambda: shown(node, volume) == "/")


@pytest.mark.parametrize(
    ("name", "word"), [("../logs", "is not the name of a volume"), ("absent", "there is no volume")]
)
def test_volumes_that_cannot_be(node: Node, volume: pathlib.Path, name: str, word: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, word):
        node.pod("talker", annotations={"link-logs.crio.io": name})
