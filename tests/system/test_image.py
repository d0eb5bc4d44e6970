"""Images over the CRI: pulls by tag and digest, with logins, at once; lists, status, removal, disk use."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import threading

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.fixtures_registry import OCI_INDEX, RunningRegistry, build_index, push_image
from tests.system.conftest import Pushed, system_layer
from tests.system.node import Node, refused

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode


def known(node: Node, name: str) -> object:
    answer = node.cri.ImageStatus(image={"image": name})
    return answer.image if answer.HasField("image") else None


def test_pull_by_tag_and_by_digest(node: Node, images: Pushed) -> None:
    built = push_image(images.registry, "img/plain:1", [system_layer(), {"mark": os.urandom(8)}])
    tag, digest = (f"{images.registry.address}/img/plain{end}" for end in (":1", f"@{built.digest}"))
    assert node.cri.PullImage(image={"image": tag}).image_ref == built.image_id
    assert node.cri.PullImage(image={"image": digest}).image_ref == built.image_id
    for name in (tag, digest, built.image_id, built.image_id[:12], f"sha256:{built.image_id}"):
        found = known(node, name)
        assert found.id == built.image_id
        assert list(found.repo_tags) == [tag]
        assert list(found.repo_digests) == [digest]
        assert found.size > 0
    for name in (tag, digest):
        node.cri.RemoveImage(image={"image": name})
    assert known(node, built.image_id) is None


def test_the_image_of_this_platform(node: Node, images: Pushed) -> None:
    other = push_image(images.registry, "img/multi:other", [{"a": b"other"}], arch="s390x")
    mine = push_image(images.registry, "img/multi:mine", [{"a": b"mine"}])
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    index = build_index(
        [(other, {"os": "linux", "architecture": "s390x"}), (mine, {"os": "linux", "architecture": machine})]
    )
    images.registry.push_manifest("img/multi", "1", index, OCI_INDEX)
    name = f"{images.registry.address}/img/multi:1"
    assert node.cri.PullImage(image={"image": name}).image_ref == mine.image_id
    node.cri.RemoveImage(image={"image": name})


def test_concurrent_pulls_are_one(node: Node, images: Pushed) -> None:
    files = {f"d/{n}": os.urandom(50_000) for n in range(200)}
    built = push_image(images.registry, "img/crowd:1", [system_layer(), files])
    name = f"{images.registry.address}/img/crowd:1"
    gate = threading.Barrier(8)
    before = node.daemon.log.count('msg="Pulled image"')

    def pull(_: int) -> str:
        gate.wait()
        return str(node.cri.PullImage(image={"image": name}).image_ref)

    with concurrent.futures.ThreadPoolExecutor(8) as crowd:
        assert set(crowd.map(pull, range(8))) == {built.image_id}
    assert node.daemon.log.count('msg="Pulled image"') == before + 1
    node.cri.RemoveImage(image={"image": name})


class Held:
    """A line to a registry that lets so many bytes of answers through, then none until ``let_go``."""

    def __init__(self, target: str, allowed: int) -> None:
        host, _, port = target.rpartition(":")
        self._target, self._left = (host, int(port)), allowed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock, self._go = threading.Lock(), threading.Event()
        self.stalled = threading.Event()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(self._target)
                for source, sink, counted in ((ours, theirs, False), (theirs, ours, True)):
                    threading.Thread(target=self._pass, args=(source, sink, counted), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):  # a side that closed
            while data := source.recv(65536):
                if counted:
                    with self._lock:
                        self._left -= len(data)
                    if self._left < 0:
                        self.stalled.set()
                        self._go.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            if counted:
                end.close()

    def let_go(self) -> None:
        """Everything flows."""
        self._go.set()

    def close(self) -> None:
        self.let_go()
        self._listener.close()


def test_a_pull_that_everybody_gave_up_leaves_nothing(node: Node, images: Pushed) -> None:
    files = {f"d/{n}": os.urandom(100_000) for n in range(100)}
    push_image(images.registry, "img/large:1", [system_layer(), files])
    with contextlib.closing(Held(images.registry.address, 5_000_000)) as line:
        node.daemon.insecure(line.address)
        node.reload()
        node.registries.add(int(line.address.rpartition(":")[2]))
        name = f"{line.address}/img/large:1"
        with refused(Code.DEADLINE_EXCEEDED):
            node.cri.PullImage(image={"image": name}, deadline=5)
        assert line.stalled.is_set()  # in the middle of a layer
        line.let_go()
        assert node.cri.PullImage(image={"image": name}).image_ref
        node.cri.RemoveImage(image={"image": name})


def test_layers_are_shared(node: Node, images: Pushed) -> None:
    base = {"base": os.urandom(100_000)}
    for number in (1, 2):
        push_image(images.registry, f"img/shared:{number}", [base, {"top": b"%d" % number}])
    before = node.picture()["layers"]
    names = [f"{images.registry.address}/img/shared:{n}" for n in (1, 2)]
    for name in names:
        node.cri.PullImage(image={"image": name})
    assert len(node.picture()["layers"] - before) == 3
    node.cri.RemoveImage(image={"image": names[0]})
    assert len(node.picture()["layers"] - before) == 2
    node.cri.RemoveImage(image={"image": names[1]})


def test_logins(node: Node, private_registry: RunningRegistry) -> None:
    node.daemon.insecure(private_registry.address)
    node.reload()
    node.registries.add(int(private_registry.address.rpartition(":")[2]))
    built = push_image(private_registry, "secret/app:1", [{"a": os.urandom(8)}])
    name = f"{private_registry.address}/secret/app:1"
    with refused(Code.PERMISSION_DENIED, "secret/app"):
        node.cri.PullImage(image={"image": name})
    with refused(Code.PERMISSION_DENIED, "secret/app"):
        node.cri.PullImage(image={"image": name}, auth={"username": "puller", "password": "wrong"})
    assert "wrong" not in node.daemon.log
    token = base64.b64encode(f"{private_registry.username}:{private_registry.password}".encode()).decode()
    for auth in (
        {"username": private_registry.username, "password": private_registry.password},
        {"auth": token, "server_address": private_registry.address},
    ):
        assert node.cri.PullImage(image={"image": name}, auth=auth).image_ref == built.image_id
        node.cri.RemoveImage(image={"image": name})
    assert private_registry.password not in node.daemon.log


def test_removal_by_name_and_by_id(node: Node, images: Pushed) -> None:
    built = push_image(images.registry, "img/names:1", [{"a": os.urandom(8)}])
    images.registry.push(built, "img/names:2")
    names = [f"{images.registry.address}/img/names:{n}" for n in (1, 2)]
    for name in names:
        node.cri.PullImage(image={"image": name})
    assert sorted(known(node, built.image_id).repo_tags) == names
    node.cri.RemoveImage(image={"image": names[0]})
    assert list(known(node, built.image_id).repo_tags) == names[1:]
    for _ in range(2):
        node.cri.RemoveImage(image={"image": built.image_id})
        assert known(node, names[1]) is None


def test_images_in_use_stay(node: Node, images: Pushed) -> None:
    built = push_image(images.registry, "img/used:1", [system_layer(), {"mark": os.urandom(8)}])
    name = f"{images.registry.address}/img/used:1"
    node.cri.PullImage(image={"image": name})
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000", image=name)
    for each in (name, built.image_id):
        with refused(Code.FAILED_PRECONDITION, "in use", ctr):
            node.cri.RemoveImage(image={"image": each})
    node.remove_pod(pod)
    node.cri.RemoveImage(image={"image": name})


def test_list_and_what_images_say(node: Node, images: Pushed) -> None:
    listed = {tag: image for image in node.cri.ListImages().images for tag in image.repo_tags}
    assert {images.busy, images.app} <= set(listed)
    app = listed[images.app]
    assert (app.username, app.HasField("uid")) == ("user", False)
    assert [i.id for i in node.cri.ListImages(filter={"image": {"image": images.app}}).images] == [app.id]
    assert not node.cri.ListImages(filter={"image": {"image": "127.0.0.1/none:1"}}).images
    info = node.cri.ImageStatus(image={"image": images.app}, verbose=True).info["info"]
    assert '"made": "here"' in info


def test_pinned_images(node: Node, images: Pushed) -> None:
    with node.configured(f'[crio.image]\npinned_images = ["{images.app}"]\n'):
        pinned = {tag: image.pinned for image in node.cri.ListImages().images for tag in image.repo_tags}
    assert (pinned[images.app], pinned[images.busy]) == (True, False)


def test_disk_use(node: Node, images: Pushed) -> None:
    before = node.cri.ImageFsInfo()
    built = push_image(images.registry, "img/heavy:1", [{"heavy": os.urandom(5 << 20)}])
    name = f"{images.registry.address}/img/heavy:1"
    node.cri.PullImage(image={"image": name})
    after = node.cri.ImageFsInfo()
    (then,), (now,) = before.image_filesystems, after.image_filesystems
    assert os.path.isdir(now.fs_id.mountpoint)
    assert 5 << 20 <= now.used_bytes.value - then.used_bytes.value < 8 << 20
    assert now.inodes_used.value > then.inodes_used.value
    assert len(after.container_filesystems) == 1
    assert known(node, name).id == built.image_id
    node.cri.RemoveImage(image={"image": name})


def test_podman_and_skopeo_see_the_same_store(node: Node, images: Pushed) -> None:
    """The daemon runs meanwhile; what they read is what it wrote."""
    root, run = f"{node.dir}/root", f"{node.dir}/run"
    where = ["--root", root, "--runroot", run, "--storage-driver", "overlay"]
    podman = ["podman", *where, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "images", "--noheading"]
    listed = subprocess.run(podman, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "sys/busy" in listed
    assert "sys/app" in listed
    found = known(node, images.app)
    store = f"containers-storage:[overlay@{root}+{run}]{images.app}"
    command = ["skopeo", "--policy", f"{node.dir}/policy.json", "inspect", "--format", "{{.Digest}}", store]
    digest = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert found.repo_digests[0].endswith(digest)
    assert node.sh(node.pod(), "echo undisturbed") == "undisturbed\n"
    for left in ("libpod", "networks"):
        shutil.rmtree(pathlib.Path(root, left), ignore_errors=True)
    assert node.cri.ListPodSandbox().items[0].state == pb.SANDBOX_READY
