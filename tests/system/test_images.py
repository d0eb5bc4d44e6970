"""Images and artifacts as a kubelet meets them: a real daemon, a real registry, runc, and podman for comparison."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from pycrio.drivers.artifacts.settings import Settings
from pycrio.drivers.artifacts.store import Artifacts
from tests.daemon import Daemon
from tests.fakes.registry import FakeRegistry, Reply, Request
from tests.fixtures_registry import Built, build_image, build_index, digest_of
from tests.isolation import Isolation, short_directory
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, linux, refused
from tests.unit.drivers.artifacts.test_store import put, remote

pytestmark = pytest.mark.system
PINNED = '[crio.image]\npinned_images = ["{}"]\n'
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
}


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    node = make_node(
        images,
        isolation,
        drop_in="[crio.runtime.runtimes.runc]\n"
        'allowed_annotations = ["seccomp-profile.crio.io"]\n'
        "[crio.image]\nauto_reload_registries = true\n",
    )
    yield node
    end_node(node)


def push_artifact(images: Pushed, name: str, files: dict[str, bytes], **more: Any) -> str:
    """Push an artifact; its full reference."""
    found = remote(name, files, **more)
    repository, _, tag = name.partition(":")
    for data in (found.config, *files.values()):
        images.registry.push_blob(repository, data)
    images.registry.push_manifest(repository, tag, found.manifest, found.manifest_type)
    return f"{images.registry.address}/{name}"


def pull(node: Node, name: str) -> str:
    return str(node.cri.PullImage(image={"image": name}).image_ref)


def status(node: Node, name: str) -> Any:
    return node.cri.ImageStatus(image={"image": name}).image


# --- artifacts ---


def test_an_artifact_is_pulled_listed_mounted_protected_and_removed(node: Node, images: Pushed) -> None:
    files = {"model.bin": b"\x00\x01" * 5000, "docs/readme.txt": b"read me", "docs/deep/x": b"x"}
    name = push_artifact(images, "art/model:1", files, annotations={"org.example": "yes"})
    ident = pull(node, name)
    assert pull(node, name) == ident
    shown = status(node, name)
    digest = f"{images.registry.address}/art/model@sha256:{ident}"
    assert (shown.id, list(shown.repo_tags), list(shown.repo_digests)) == (ident, [name], [digest])
    assert (shown.size, shown.pinned, dict(shown.spec.annotations)) == (10008, False, {"org.example": "yes"})
    assert ident in {i.id for i in node.cri.ListImages().images}
    for other in (ident, f"sha256:{ident}", ident[:12], digest):
        assert status(node, other).id == ident
    pod = node.pod()
    mounts = [
        {"container_path": "/all", "image": {"image": name}, "readonly": True},
        {"container_path": "/docs", "image": {"image": digest}, "readonly": True, "image_sub_path": "docs"},
        {
            "container_path": "/one.txt",
            "image": {"image": ident},
            "readonly": True,
            "image_sub_path": "docs/readme.txt",
        },
    ]
    box = node.start(pod, "sleep", "1000", mounts=mounts)
    assert [m.image.image_ref for m in node.status(box).mounts] == [ident] * 3
    read = node.exec(box, "cat", "/all/docs/readme.txt", "/docs/readme.txt", "/docs/deep/x", "/one.txt")
    assert read.stdout == b"read meread mexread me"
    assert node.exec(box, "wc", "-c", "/all/model.bin").stdout.split()[0] == b"10000"
    assert node.exec(box, "sh", "-c", "echo no > /all/model.bin").exit_code != 0
    for other in (name, ident):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "the image is in use by", box):
            node.cri.RemoveImage(image={"image": other})
    node.remove_pod(pod)
    node.cri.RemoveImage(image={"image": name})
    assert not status(node, name).id
    node.cri.RemoveImage(image={"image": name})
    blobs = pathlib.Path(node.dir, "root/artifacts/blobs/sha256")
    assert os.listdir(blobs) == []


def test_artifacts_count_as_images(node: Node, images: Pushed) -> None:
    (before,) = node.cri.ImageFsInfo().image_filesystems
    name = push_artifact(images, "art/heavy:1", {"heavy": os.urandom(3 << 20)})
    pull(node, name)
    (now,) = node.cri.ImageFsInfo().image_filesystems
    assert 3 << 20 <= now.used_bytes.value - before.used_bytes.value < 4 << 20
    assert now.inodes_used.value - before.inodes_used.value >= 3  # the file, its manifest and config
    node.cri.RemoveImage(image={"image": name})
    (last,) = node.cri.ImageFsInfo().image_filesystems
    assert last.used_bytes.value - before.used_bytes.value < 1 << 20


def test_wipe_takes_what_containers_were_made_of(images: Pushed, isolation: Isolation) -> None:
    daemon = Daemon(short_directory())
    daemon.insecure(images.registry.address)
    daemon.start()
    node = Node(daemon, isolation, images.busy)
    try:
        used, spare = (push_artifact(images, f"art/{n}:1", {n: n.encode()}) for n in ("used", "spare"))
        for name in (images.busy, images.app, used, spare):
            pull(node, name)
        box = node.start(
            node.pod(), "true", mounts=[{"container_path": "/a", "image": {"image": used}, "readonly": True}]
        )
        eventually(lambda: node.status(box).state == pb.CONTAINER_EXITED)
        assert daemon.stop() == 0
        wipe = [sys.executable, "-m", "pycrio", "-c", f"{daemon.dir}/crio.conf", "-d", f"{daemon.dir}/conf.d", "wipe"]
        subprocess.run([*wipe, "--force"], check=True, capture_output=True)
        daemon.start()
        left = {tag for i in node.cri.ListImages().images for tag in i.repo_tags}
        assert left == {images.app, spare}
    finally:
        node.cri.close()
        daemon.clean()


def test_sub_paths_and_writable_mounts_are_refused(node: Node, images: Pushed) -> None:
    name = push_artifact(images, "art/refused:1", {"a/b": b"1"})
    evil = push_artifact(images, "art/evil:1", {"../../etc/passwd": b"1"})
    for each in (name, evil):
        pull(node, each)
    pod = node.pod()
    for changes, words in (
        ({"image_sub_path": "nothing"}, 'sub path "nothing" does not exist in image volume'),
        ({"image": {"image": evil}}, "no path below a directory"),
        ({"image": {"image": "absent.test/x:1"}}, "does not exist locally"),
    ):
        mount = {"container_path": "/x", "image": {"image": name}, "readonly": True, **changes}
        with pytest.raises(grpc.RpcError) as failure:
            node.start(pod, "true", mounts=[mount])
        assert "ImageVolumeMountFailed" in failure.value.details()
        assert words in failure.value.details()
    node.remove_pod(pod)


def test_a_seccomp_profile_from_an_artifact(node: Node, images: Pushed) -> None:
    """It is pulled when it is needed; the pod's annotation for one container goes before that for all."""
    strict = push_artifact(images, "art/strict:1", {"profile.json": json.dumps(PROFILE).encode()})
    bad = push_artifact(images, "art/bad:1", {"profile.json": b'{"defaultAction": 7}'})
    pod = node.pod(annotations={"seccomp-profile.crio.io/guarded": strict, "seccomp-profile.crio.io/broken": bad})
    code, text = node.run(pod, "mkdir", "/tmp/x", name="guarded")
    assert code != 0
    assert "not supported" in text
    assert node.run(pod, "mkdir", "/tmp/x", name="free")[0] == 0
    with pytest.raises(grpc.RpcError, match="defaultAction"):
        node.start(pod, "true", name="broken")
    node.remove_pod(pod)


@pytest.mark.effect("crio.runtime.additional_artifact_stores")
def test_additional_artifact_stores(node: Node, images: Pushed, tmp_path: pathlib.Path) -> None:
    """Read-only, pinned, and reason enough not to ask a registry."""
    name = "nowhere.test/lab/model:1"
    given = asyncio.run(put(Artifacts(Settings(str(tmp_path))), name, {"a": b"given"}))
    with node.configured(f'[crio.runtime]\nadditional_artifact_stores = ["{tmp_path}"]\n'):
        assert pull(node, name) == given.image.id
        shown = status(node, name)
        assert (shown.id, shown.pinned) == (given.image.id, True)
        pod = node.pod()
        mount = {"container_path": "/x", "image": {"image": name}, "readonly": True}
        assert node.sh(pod, "cat /x/a", mounts=[mount]) == "given"
        node.remove_pod(pod)
        with refused(grpc.StatusCode.PERMISSION_DENIED, "additional artifact store"):
            node.cri.RemoveImage(image={"image": name})
        assert status(node, name).id
    assert not status(node, name).id


def test_artifacts_in_a_user_namespace_and_for_other_users(node: Node, images: Pushed) -> None:
    name = push_artifact(images, "art/users:1", {"a": b"for all"})
    pull(node, name)
    maps = [pb.IDMapping(container_id=0, host_id=200_000, length=65_536)]
    pod = node.pod(linux=linux(userns=pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)))
    mount = {"container_path": "/x", "image": {"image": name}, "readonly": True}
    assert node.sh(pod, "cat /x/a", mounts=[mount]) == "for all"
    node.remove_pod(pod)
    pod = node.pod()
    user = {"security_context": {"run_as_user": {"value": 1000}}}
    assert node.sh(pod, "id -u; cat /x/a", mounts=[mount], linux=user) == "1000\nfor all"
    node.remove_pod(pod)


@pytest.mark.effect("crio.image.oci_artifact_mount_support")
def test_artifact_mounts_can_be_switched_off(node: Node, images: Pushed) -> None:
    name = push_artifact(images, "art/off:1", {"a": b"1"})
    with node.configured("[crio.image]\noci_artifact_mount_support = false\n"):
        pull(node, name)
        pod = node.pod()
        with pytest.raises(grpc.RpcError, match="does not exist locally"):
            node.start(pod, "true", mounts=[{"container_path": "/x", "image": {"image": name}, "readonly": True}])
        node.remove_pod(pod)


# --- configuration that changes under way ---


def reload(node: Node) -> None:
    """SIGHUP, and wait until the daemon says that it is done."""
    before = node.daemon.log.count("Configuration reload completed")
    os.kill(node.pid, signal.SIGHUP)
    eventually(lambda: node.daemon.log.count("Configuration reload completed") > before)


@pytest.mark.effect("crio.image.pinned_images", "crio.image.pause_image")
def test_pinned_images_are_read_again_on_sighup(node: Node, images: Pushed) -> None:
    assert not status(node, images.busy).pinned
    path = pathlib.Path(node.dir, "conf.d", "60-pinned.conf")
    path.write_text(PINNED.format(f"{images.busy[:-2]}*"))
    reload(node)
    assert status(node, images.busy).pinned
    assert not status(node, images.app).pinned
    path.write_text(f'[crio.image]\npause_image = "{images.app}"\n')
    reload(node)
    assert not status(node, images.busy).pinned
    assert status(node, images.app).pinned  # the pause image always is
    path.unlink()
    reload(node)
    assert not status(node, images.app).pinned


@pytest.mark.effect("crio.image.auto_reload_registries")
def test_registries_are_read_again_on_sighup_and_when_they_change(node: Node, images: Pushed) -> None:
    conf = pathlib.Path(node.daemon.dir, "registries.conf")
    text = conf.read_text()
    alias = f"{images.registry.address}/sys/busy:1".removesuffix(":1")
    mark = "Registry configuration changed and was read again"
    seen = node.daemon.log.count(mark)
    conf.write_text(text + f'[aliases]\n"shorty" = "{alias}"\n')
    eventually(lambda: node.daemon.log.count(mark) > seen)
    assert pull(node, "shorty:1") == pull(node, images.busy)
    conf.write_text(text)
    reload(node)
    assert not status(node, "shorty:1").id
    with pytest.raises(grpc.RpcError):
        pull(node, "shorty:1")
    conf.write_text(text + "nonsense")
    eventually(lambda: "the old one stays in force" in node.daemon.log)
    assert pull(node, images.busy)
    conf.write_text(text)
    reload(node)


# --- the same as others ---


# What podman tells in another form than the CRI, and how the one becomes the other (docs/images.md).
def podman_view(shown: dict[str, Any]) -> dict[str, Any]:
    user, _, _ = shown["User"].partition(":")
    return {
        "id": shown["Id"],
        "repo_tags": sorted(shown["RepoTags"]),
        "repo_digests": sorted(shown["RepoDigests"]),
        "size": shown["Size"],
        "uid": int(user) if user.isdigit() else None,
        "username": "" if user.isdigit() else user,
        "labels": shown["Labels"] or {},
        "annotations": shown["Annotations"] or {},
        "config": {k: v for k, v in shown["Config"].items() if v},
        "layers": shown["RootFS"]["Layers"],
    }


def our_view(node: Node, name: str) -> dict[str, Any]:
    found = node.cri.ImageStatus(image={"image": name}, verbose=True)
    image, info = found.image, json.loads(found.info["info"])
    return {
        "id": image.id,
        "repo_tags": sorted(image.repo_tags),
        "repo_digests": sorted(image.repo_digests),
        "size": image.size,
        "uid": image.uid.value if image.HasField("uid") else None,
        "username": image.username,
        "labels": info["labels"],
        "annotations": dict(image.spec.annotations),
        "config": {k: v for k, v in info["imageSpec"]["config"].items() if v},
        "layers": info["imageSpec"]["rootfs"]["diff_ids"],
    }


def push_varied(images: Pushed) -> list[str]:
    """Images of other kinds: by an index, with a numeric user, with annotations, without any layer's content."""
    registry, layers = images.registry, [{"a": b"x" * 70_000, "b/c": b"y"}, {"a": b"z", "empty": b""}]
    plain = build_image(layers, config={"User": "1234:5678", "Labels": {"k": "v"}}, compression="none")
    noted = json.loads(plain.manifest) | {"annotations": {"org.example.note": "here", "other": ""}}
    body = json.dumps(noted).encode()
    varied = [
        dataclasses.replace(plain, manifest=body),
        build_image(layers, config={"User": "0"}, compression="zstd"),
        build_image(layers, config={"User": "someone:group", "ExposedPorts": {"80/tcp": {}}}, docker=True),
        build_image([{}], config={}),
    ]
    names = [registry.push(image, f"varied/image:{number}") for number, image in enumerate(varied)]
    index = build_index([(varied[0], {"os": "linux", "architecture": "amd64"})])
    registry.push_manifest("varied/image", "all", index, "application/vnd.oci.image.index.v1+json")
    return [*names, f"{registry.address}/varied/image:all"]


def test_images_are_what_podman_says(node: Node, images: Pushed, tmp_path: pathlib.Path) -> None:
    """The same images pulled by podman into a root of its own are the same in everything that readers use."""
    base = ["podman", "--root", f"{tmp_path}/r", "--runroot", f"{node.dir}/podman", "--storage-driver", "overlay"]

    def podman(*argv: str) -> str:
        done = subprocess.run([*base, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    policy = f"{node.dir}/policy.json"
    for name in (images.busy, images.app, *push_varied(images)):
        pull(node, name)
        podman("pull", "--tls-verify=false", "--signature-policy", policy, name)
        (shown,) = json.loads(podman("image", "inspect", name))
        assert our_view(node, name) == podman_view(shown)
    listed = {i["Id"]: sorted(i["Names"]) for i in json.loads(podman("images", "--format", "json"))}
    ours = {i.id: sorted(i.repo_tags) for i in node.cri.ListImages().images if i.id in listed}
    assert ours == listed
    subprocess.run(["umount", f"{tmp_path}/r/overlay"], check=False, capture_output=True)


# --- pulls that bring nothing ---


def test_a_present_image_is_pulled_without_the_registry(node: Node, images: Pushed) -> None:
    """By digest nothing is asked once this daemon was let at it; by tag only the manifest."""
    access = images.registry.directory / "log"
    digest = next(d for d in status(node, images.busy).repo_digests if d.startswith(images.registry.address))
    ident = pull(node, digest)

    def asked(name: str) -> list[str]:
        before = len(access.read_text().splitlines())
        assert pull(node, name) == ident
        images.registry.request("GET", "/v2/")  # the log has everything up to this
        lines = access.read_text().splitlines()[before:]
        return [line for line in lines if "/sys/busy/" in line and "User-Agent" not in line and '"GET ' in line]

    assert asked(digest) == []
    by_tag = asked(images.busy)
    assert all("/manifests/1" in line for line in by_tag)
    assert len(by_tag) == 1


class Stuck:
    """A registry in a thread of its own whose blobs stop in the middle until ``go`` is called."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.stuck = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.honest = False

    def __enter__(self) -> Stuck:
        self.thread.start()
        self.registry = FakeRegistry()
        self.call(self.registry.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.registry.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _hang(self) -> AsyncIterator[bytes]:
        self.stuck.set()
        await asyncio.Event().wait()
        yield b""

    def answer(self, request: Request) -> Reply | None:
        """Half of the blob, then silence; honest later."""
        if self.honest or digest_of(self.content) not in request.path:
            return None
        half = self.content[: len(self.content) // 2]
        return Reply(body=half, length=str(len(self.content)), stream=self._hang())


def large(artifact: bool) -> Built:
    """An image, or an artifact, with a blob of 3 MB."""
    content = random.Random(artifact).randbytes(3_000_000)
    if not artifact:
        return build_image([{"f": content}], compression="none")
    made = remote("x", {"f": content})
    return Built(made.manifest, made.manifest_type, {digest_of(content): content, made.config_digest: b"{}"}, ())


@pytest.mark.parametrize("artifact", [False, True])
def test_a_pull_that_is_given_up_leaves_nothing(node: Node, artifact: bool) -> None:
    """The client's deadline passes in the middle of a blob: no staged file, descriptor or connection stays."""
    built = large(artifact)
    blob = max(built.blobs.values(), key=len)
    with Stuck(blob) as stuck:
        name = stuck.registry.add(built, "stuck/it:1")
        stuck.registry.on("/blobs/", stuck.answer)
        node.daemon.insecure(stuck.registry.address)
        reload(node)
        before = node.picture()["descriptors"]
        with pytest.raises(grpc.RpcError) as failure:
            node.cri.PullImage(image={"image": name}, deadline=3)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert stuck.stuck.is_set()
        eventually(lambda: leavings(node) == [])
        # The connection to the registry is closed, too: what it would still send belongs to nobody.
        eventually(lambda: all(n <= before.get(k, 0) for k, n in node.picture()["descriptors"].items()))
        assert not status(node, name).id
        stuck.honest = True
        assert pull(node, name) == (built.digest.removeprefix("sha256:") if artifact else built.image_id)
        assert leavings(node) == []
        node.cri.RemoveImage(image={"image": name})


@pytest.mark.parametrize("artifact", [False, True])
def test_killed_in_the_middle_of_a_pull(node: Node, artifact: bool) -> None:
    """The next start removes what was staged, and the same pull succeeds."""
    built = large(artifact)
    with Stuck(max(built.blobs.values(), key=len)) as stuck:
        name = stuck.registry.add(built, "killed/it:1")
        stuck.registry.on("/blobs/", stuck.answer)
        node.daemon.insecure(stuck.registry.address)
        reload(node)
        with node.daemon.client() as client:
            pulling = client.channel.unary_unary(
                "/runtime.v1.ImageService/PullImage",
                request_serializer=pb.PullImageRequest.SerializeToString,
                response_deserializer=pb.PullImageResponse.FromString,
            ).future(pb.PullImageRequest(image=pb.ImageSpec(image=name)), timeout=60)
            assert stuck.stuck.wait(30)
            eventually(lambda: leavings(node) != [])
            node.daemon.kill()
            assert pulling.exception() is not None
        assert leavings(node) != []
        node.daemon.start()
        assert leavings(node) == []
        assert not status(node, name).id
        stuck.honest = True
        assert pull(node, name)
        assert leavings(node) == []
        node.cri.RemoveImage(image={"image": name})


def leavings(node: Node) -> list[str]:
    """Files of pulls that are under way."""
    root = pathlib.Path(node.dir, "root")
    places = ("overlay/tempdirs", "overlay-layers/tmp", "artifacts/.staging")
    return [str(p) for place in places for p in (root / place).glob("*")]


def libraries(node: Node) -> set[str]:
    """Compiled modules of other packages that the daemon has loaded."""
    text = pathlib.Path(f"/proc/{node.pid}/maps").read_text()
    return {part for part in ("aiohttp", "cryptography", "multidict", "yarl") if f"/{part}/" in text}


def test_idle_memory_does_not_know_what_pulling_needs(images: Pushed, isolation: Isolation) -> None:
    """What pulls need is imported by the first of them, not by a daemon that starts, lists and reloads."""
    daemon = Daemon(short_directory())
    daemon.insecure(images.registry.address)
    daemon.start()
    node = Node(daemon, isolation, images.busy)
    try:
        node.cri.ListImages()
        reload(node)
        assert not status(node, images.busy).id
        assert libraries(node) == set()
        pull(node, images.busy)
        assert "aiohttp" in libraries(node)
    finally:
        node.cri.close()
        daemon.clean()
