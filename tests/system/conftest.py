"""System tests live in namespaces of their own, with a registry of their own, on daemons of their own."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.fixtures_registry import BUSYBOX, RunningRegistry, busybox_layer, push_image
from tests.isolation import Isolation, short_directory
from tests.system.node import Node, assert_nothing_new


@pytest.fixture(scope="session", autouse=True)
def isolation() -> Iterator[Isolation]:
    """Private mount, network and cgroup namespaces for the whole session."""
    with Isolation() as inside:
        yield inside


@dataclass(frozen=True)
class Pushed:
    """References in the session's registry."""

    busy: str
    app: str
    registry: RunningRegistry


def system_layer() -> dict[str, bytes | str | None]:
    """busybox with all its applets, and places for mounts."""
    layer = busybox_layer()
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer.update({f"bin/{name}": "busybox" for name in applets if name != "busybox"})
    layer.update(dict.fromkeys(("mnt", "run", "var", "srv")))
    return layer


@pytest.fixture(scope="session")
def images(isolation: Isolation, docker_registry: RunningRegistry) -> Pushed:
    """Images that every system test may use."""
    push_image(docker_registry, "sys/busy:1", [system_layer()], docker=True)
    config = {
        "Entrypoint": ["echo", "entry"],
        "Cmd": ["cmd"],
        "Env": ["PATH=/bin", "FROM=image", "ONLY=image"],
        "User": "user",
        "WorkingDir": "/srv/work",
        "StopSignal": "SIGUSR1",
        "Volumes": {"/volume": {}},
        "Labels": {"made": "here"},
    }
    push_image(docker_registry, "sys/app:1", [system_layer(), {"srv/app": b"app\n"}], config=config, compression="zstd")
    return Pushed(f"{docker_registry.address}/sys/busy:1", f"{docker_registry.address}/sys/app:1", docker_registry)


def make_node(
    images: Pushed,
    isolation: Isolation,
    *,
    drop_in: str = "",
    prepare: Callable[[str], str] | None = None,
    **how: Any,
) -> Node:
    """A started daemon on scratch directories with its images pulled. ``drop_in`` is further configuration, or comes
    from ``prepare``, which is told the directory; ``how`` goes to Daemon."""
    daemon = Daemon(short_directory(), **how)
    daemon.insecure(images.registry.address)
    pathlib.Path(daemon.dir, "conf.d", "10-test.conf").write_text(prepare(daemon.dir) if prepare else drop_in)
    daemon.start()
    node = Node(daemon, isolation, images.busy)
    for image in (images.busy, images.app):
        node.cri.PullImage(image={"image": image})
    node.warm_up()
    return node


def end_node(node: Node) -> None:
    """Stop everything; a daemon that cannot end by itself is an error, and so is any failure that was not foreseen."""
    directory = pathlib.Path(node.dir)
    try:
        assert "Unforeseen failure" not in node.daemon.log
        node.clear()
        assert node.daemon.stop() == 0, node.daemon.log[-4000:]
    finally:
        node.cri.close()
        node.daemon.clean()
        assert not directory.exists()


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    """A running daemon, shared by the tests of a module."""
    node = make_node(images, isolation)
    yield node
    end_node(node)


@dataclass(frozen=True)
class Bystander:
    """A pod and a container that have nothing to do with what a test does wrong."""

    pod: str
    container: str
    status: object
    pod_status: object


@pytest.fixture(scope="module")
def bystander(node: Node) -> Bystander:
    pod = node.pod("bystander")
    ctr = node.start(pod, "sleep", "100000")
    pod_status = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status
    return Bystander(pod, ctr, node.status(ctr), pod_status)


@pytest.fixture
def others_untouched(node: Node, bystander: Bystander) -> Iterator[None]:
    """Whatever the test did: the daemon is the same process, and the bystander is as it was."""
    pid = node.pid
    yield
    assert node.pid == pid
    assert node.daemon.process is not None
    assert node.daemon.process.poll() is None
    assert "Unforeseen failure" not in node.daemon.log
    assert node.status(bystander.container) == bystander.status
    assert node.cri.PodSandboxStatus(pod_sandbox_id=bystander.pod).status == bystander.pod_status
    assert bytes(node.exec(bystander.container, "echo", "here").stdout) == b"here\n"


@pytest.fixture
def no_leaks(node: Node) -> Iterator[None]:
    """Every pod that the test made is removed, and then all is as it was before."""
    before = node.picture()
    yield
    known = before["files"]
    for item in node.cri.ListPodSandbox().items:
        if f"run/pycrio/state/pods/{item.id}.json" not in known:
            node.remove_pod(item.id)
    assert_nothing_new(node, before)
