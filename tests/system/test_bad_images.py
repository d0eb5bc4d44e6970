"""Images that lie, leave their place, or cost too much, and disks that are full: the pull fails by name, nothing of it
is left, and nothing outside the layer was touched."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gzip
import io
import json
import os
import pathlib
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tests.daemon import Daemon
from tests.fakes import tars
from tests.fakes.registry import FakeRegistry, Reply
from tests.fixtures_registry import (
    OCI_INDEX,
    OCI_MANIFEST,
    Built,
    build_image,
    build_index,
    digest_of,
    pack,
    push_image,
)
from tests.isolation import Isolation, short_directory, unmount
from tests.system.conftest import Pushed, system_layer
from tests.system.node import Node, assert_nothing_new, refused

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks", "others_untouched")]
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def liar(node: Node) -> Iterator[FakeRegistry]:
    """A registry that can be told to lie, served by a thread of its own."""
    registry, ready, done = FakeRegistry(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with registry:
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(20)
    node.daemon.insecure(registry.address)
    node.reload()
    node.registries.add(int(registry.address.rpartition(":")[2]))
    yield registry
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()


@pytest.fixture(autouse=True)
def honest(liar: FakeRegistry) -> None:
    liar.rules.clear()


def fails(node: Node, name: str, *words: str) -> None:
    """The pull fails; the store knows nothing of the image."""
    with refused(Code.UNKNOWN, *words):
        node.cri.PullImage(image={"image": name})
    assert not node.cri.ImageStatus(image={"image": name}).HasField("image")


# --- manifests, configs, blobs ----------------------------------------------------------------------------------------


def changed(image: Built, change: Callable[[dict[str, Any]], None]) -> bytes:
    document = image.document
    change(document)
    return json.dumps(document).encode()


MANIFESTS: dict[str, bytes | Callable[[Built], bytes]] = {
    "not json": b"<html>sorry</html>",
    "not an object": b"[1]",
    "empty": b"",
    "cut": lambda i: i.manifest[:100],
    "no layers": lambda i: changed(i, lambda d: d.pop("layers")),
    "no config": lambda i: changed(i, lambda d: d.pop("config")),
    "layers of another type": lambda i: changed(i, lambda d: d.update(layers={"a": 1})),
    "fewer layers than diff ids": lambda i: changed(i, lambda d: d.update(layers=[])),
    "negative size": lambda i: changed(i, lambda d: d["layers"][0].update(size=-1)),
    "digest that is none": lambda i: changed(i, lambda d: d["layers"][0].update(digest="sha256:../../x")),
    "huge": lambda i: i.manifest + b" " * (9 << 20),
    "deep": b"[" * 100_000,
    "version 1": b'{"schemaVersion": 1, "fsLayers": []}',
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_manifests(node: Node, liar: FakeRegistry, what: str) -> None:
    image = build_image([{"a": b"x"}])
    name = liar.add(image, "lies/manifest:1")
    made = MANIFESTS[what]
    liar.put("lies/manifest", "1", made if isinstance(made, bytes) else made(image), OCI_MANIFEST)
    with pytest.raises(grpc.RpcError) as failure:
        node.cri.PullImage(image={"image": name})
    assert failure.value.code() in (Code.UNKNOWN, Code.UNIMPLEMENTED)
    assert "lies/manifest" in failure.value.details()
    assert not node.cri.ImageStatus(image={"image": name}).HasField("image")


def test_index_without_this_platform(node: Node, liar: FakeRegistry) -> None:
    image = build_image([{"a": b"x"}])
    liar.add(image, "lies/index:0")
    liar.put("lies/index", "1", build_index([(image, {"os": "plan9", "architecture": "mips"})]), OCI_INDEX)
    fails(node, f"{liar.address}/lies/index:1", "has no image for")


def test_manifest_of_another_digest(node: Node, liar: FakeRegistry) -> None:
    image, other = build_image([{"a": b"x"}]), build_image([{"b": b"y"}])
    liar.add(image, "lies/digest:1")
    liar.manifests["lies/digest", image.digest] = (other.manifest, OCI_MANIFEST)
    fails(node, f"{liar.address}/lies/digest@{image.digest}", image.digest)


BLOBS: dict[str, Callable[[bytes], Reply]] = {
    "cut": lambda data: Reply(body=data, cut=len(data) // 2),
    "shorter": lambda data: Reply(body=data[:-10]),
    "longer": lambda data: Reply(body=data + b"more"),
    "another content": lambda data: Reply(body=bytes(len(data))),
    "a changed byte": lambda data: Reply(body=data[:-1] + bytes([data[-1] ^ 1])),
    "absent": lambda data: Reply(404),
    "forbidden": lambda data: Reply(403),
    "a web page": lambda data: Reply(headers={"Content-Type": "text/html"}, body=b"<html>log in</html>"),
}


@pytest.mark.parametrize("what", BLOBS)
def test_layers_of_a_lying_registry(node: Node, liar: FakeRegistry, what: str) -> None:
    liar.ranges = False
    image = build_image([{"a": os.urandom(5000)}, {"b": os.urandom(5000)}])
    name = liar.add(image, "lies/blob:1")
    digest = image.document["layers"][1]["digest"]
    liar.on(digest, lambda request: BLOBS[what](image.blobs[digest]))
    with pytest.raises(grpc.RpcError) as failure:
        node.cri.PullImage(image={"image": name})
    codes = {"absent": Code.NOT_FOUND, "forbidden": Code.PERMISSION_DENIED}
    assert failure.value.code() is codes.get(what, Code.UNKNOWN), failure.value.details()
    assert digest in failure.value.details()
    assert not node.cri.ImageStatus(image={"image": name}).HasField("image")


def test_config_of_another_digest(node: Node, liar: FakeRegistry) -> None:
    image = build_image([{"a": b"x"}])
    name = liar.add(image, "lies/config:1")
    liar.blobs[image.config_digest] = b'{"rootfs":{}}'.ljust(len(image.blobs[image.config_digest]))
    fails(node, name, image.config_digest)


def test_wrong_diff_id(node: Node, images: Pushed) -> None:
    image = build_image([{"a": b"x"}])
    document = json.loads(image.blobs[image.config_digest])
    document["rootfs"]["diff_ids"] = ["sha256:" + "1" * 64]
    data = json.dumps(document).encode()

    def change(manifest: dict[str, Any]) -> None:
        manifest["config"].update(digest=digest_of(data), size=len(data))

    blobs = {**image.blobs, digest_of(data): data}
    name = images.registry.push(Built(changed(image, change), OCI_MANIFEST, blobs, ()), "lies/diff:1")
    fails(node, name, "diff ID")


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(node: Node) -> Iterator[pathlib.Path]:
    """A directory that no layer has any business in."""
    place = pathlib.Path(node.dir, "outside")
    place.mkdir()
    (place / "file").write_text("mine\n")
    yield place
    assert {p.name: p.read_text() for p in place.iterdir()} == {"file": "mine\n"}
    (place / "file").unlink()
    place.rmdir()


def link(name: bytes, target: bytes, kind: bytes = b"2") -> bytes:
    return tars.header(name, type=kind, link=target, mode=0o777)


ESCAPES: dict[str, Callable[[bytes], bytes]] = {
    "dots": lambda o: tars.file(b"../../../../../../../../../.." + o + b"/evil", b"x"),
    "dots in the middle": lambda o: tars.file(b"a/../../../../../../../../../../.." + o + b"/evil", b"x"),
    "absolute link": lambda o: link(b"way", o) + tars.file(b"way/evil", b"x"),
    "relative link": lambda o: link(b"way", b"../../../../../../../../.." + o) + tars.file(b"way/evil", b"x"),
    "link to a file": lambda o: link(b"way", o + b"/file") + tars.file(b"way", b"evil"),
    "hard link out": lambda o: (
        link(b"mine", b"../../../../../../../../.." + o + b"/file", b"1") + tars.file(b"mine", b"evil")
    ),
    "absolute hard link": lambda o: link(b"mine", o + b"/file", b"1") + tars.file(b"mine", b"evil"),
    "hard link through a link": lambda o: (
        link(b"way", o) + link(b"mine", b"way/file", b"1") + tars.file(b"mine", b"evil")
    ),
    "whiteout out": lambda o: tars.file(b"../../../../../../../../../.." + o + b"/.wh.file"),
    "whiteout through a link": lambda o: link(b"way", o) + tars.file(b"way/.wh.file"),
    "directory through a link": lambda o: link(b"way", o) + tars.directory(b"way", mode=0o777),
}


@pytest.mark.parametrize("what", ESCAPES)
def test_layers_that_want_out(node: Node, images: Pushed, outside: pathlib.Path, what: str) -> None:
    """Either refused, or it all happens inside the layer: ``outside`` checks that nothing else happened."""
    data = tars.seal(ESCAPES[what](str(outside).encode()))
    push_image(images.registry, "lies/escape:1", [system_layer(), data])
    name = f"{images.registry.address}/lies/escape:1"
    try:
        node.cri.PullImage(image={"image": name})
    except grpc.RpcError as e:
        assert e.code() is Code.UNKNOWN  # noqa: PT017
        assert "layer sha256:" in (e.details() or "")  # noqa: PT017
    else:
        node.sh(node.pod(), "ls /", image=name)
        node.clear_made()
        node.cri.RemoveImage(image={"image": name})


def test_absolute_names_mean_the_layer(node: Node, images: Pushed, outside: pathlib.Path) -> None:
    data = tars.seal(tars.file(str(outside).encode() + b"/file", b"inside\n"))
    push_image(images.registry, "lies/absolute:1", [system_layer(), data])
    name = f"{images.registry.address}/lies/absolute:1"
    node.cri.PullImage(image={"image": name})
    assert node.sh(node.pod(), f"cat {outside}/file", image=name) == "inside\n"
    node.clear_made()
    node.cri.RemoveImage(image={"image": name})


def test_device_files_open_nothing(node: Node, images: Pushed) -> None:
    disk = os.stat("/dev/loop0").st_rdev
    device = tars.header(b"disk", type=b"4", mode=0o666, device=(os.major(disk), os.minor(disk)))
    push_image(images.registry, "lies/device:1", [system_layer(), tars.seal(device)])
    name = f"{images.registry.address}/lies/device:1"
    node.cri.PullImage(image={"image": name})
    said = node.sh(node.pod(), "test -b /disk && echo there; head -c 1 /disk 2>&1 || true", image=name)
    assert said.startswith("there\n")
    assert "ot permitted" in said or "denied" in said
    node.clear_made()
    node.cri.RemoveImage(image={"image": name})


MALFORMED: dict[str, bytes] = {
    "cut in a header": tars.file(b"a", b"x")[:300],
    "cut in a file": tars.header(b"a", size=4 << 30) + b"x" * 5000,
    "bad checksum": tars.file(b"a", b"x").replace(b"ustar", b"vstar"),
    "no archive": os.urandom(4096),
    "long name": tars.file(b"/".join([b"d" * 200] * 40), b"x"),
    "deep": tars.file(b"d/" * 2040 + b"f", b"x"),
    "name with dots only": tars.file(b"..", b"x"),
    "unknown type": tars.header(b"a", type=b"Q"),
    "endless link loop": link(b"a", b"b") + link(b"b", b"a") + tars.file(b"a/x", b"x"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_layers(node: Node, images: Pushed, what: str) -> None:
    data = MALFORMED[what]
    push_image(images.registry, "lies/layer:1", [system_layer(), data if "cut" in what else data + tars.END])
    name = f"{images.registry.address}/lies/layer:1"
    if what in ("deep", "endless link loop"):
        with contextlib.suppress(grpc.RpcError):  # may also be held
            node.cri.PullImage(image={"image": name})
        node.cri.RemoveImage(image={"image": name})
    else:
        fails(node, name, "layer sha256:")


def test_damaged_compression(node: Node, images: Pushed) -> None:
    blob = gzip.compress(pack(system_layer()), 1)

    def image_of(data: bytes) -> Built:
        image = build_image([{"a": b"x"}])
        digest = image.document["layers"][0]["digest"]

        def change(manifest: dict[str, Any]) -> None:
            manifest["layers"][0].update(digest=digest_of(data), size=len(data))

        blobs = {k: v for k, v in image.blobs.items() if k != digest} | {digest_of(data): data}
        return Built(changed(image, change), OCI_MANIFEST, blobs, image.diff_ids)

    for data in (blob[:-20], blob[:10] + blob[11:], blob + b"tail", b"\x28\xb5\x2f\xfd" + os.urandom(200), b""):
        name = images.registry.push(image_of(data), "lies/gzip:1")
        fails(node, name, "layer sha256:")


def test_a_bomb_of_zeros_is_stopped_by_its_size_on_disk_only(node: Node, images: Pushed) -> None:
    """A sparse file may claim 4 GiB: it gets them, and they cost nothing."""
    sparse = tars.pax_sparse(b"huge", [(0, b"begin"), ((4 << 30) - 3, b"end")], 4 << 30, version="1.0")
    push_image(images.registry, "lies/sparse:1", [system_layer(), tars.seal(sparse)])
    name = f"{images.registry.address}/lies/sparse:1"
    free = os.statvfs(node.dir)
    node.cri.PullImage(image={"image": name})
    used = (free.f_bfree - os.statvfs(node.dir).f_bfree) * free.f_frsize
    assert used < 1 << 30
    said = node.sh(node.pod(), "stat -c '%s %b' /huge; head -c 5 /huge", image=name).split()
    assert (said[0], said[2]) == (str(4 << 30), "begin")
    assert int(said[1]) * 512 < 1 << 20
    node.clear_made()
    node.cri.RemoveImage(image={"image": name})


def test_a_million_entries_block_nobody(node: Node, images: Pushed) -> None:
    thousand = b"".join(tars.directory(b"d%d" % n) for n in range(1000))
    data = thousand * 1000 + tars.END
    push_image(images.registry, "lies/many:1", [system_layer(), data], compression="zstd")
    name = f"{images.registry.address}/lies/many:1"
    pod = node.pod()
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        pulling = other.submit(node.cri.PullImage, image={"image": name}, deadline=120)
        for _ in range(5):
            assert node.sh(pod, "echo meanwhile") == "meanwhile\n"
        pulling.result()
    assert node.sh(pod, "ls -d /d* | wc -l", image=name) == "1001\n"  # and /dev
    node.clear_made()
    node.cri.RemoveImage(image={"image": name})


# --- full disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    """A daemon whose store has 48 MiB and few inodes."""
    daemon = Daemon(short_directory())
    root = pathlib.Path(daemon.dir, "root")
    root.mkdir()
    disk = pathlib.Path(daemon.dir, "disk")
    with open(disk, "wb") as f:
        f.truncate(48 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-N", "3000", "-m", "0", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(root)], check=True)
    daemon.insecure(images.registry.address)
    daemon.start()
    node = Node(daemon, isolation, images.busy)
    node.cri.PullImage(image={"image": images.busy})
    node.warm_up()
    yield node
    try:
        node.clear()
        assert daemon.stop() == 0
        assert "Unforeseen failure" not in daemon.log
    finally:
        node.cri.close()
        unmount(root)
        daemon.clean()


def test_full_disk(small: Node, images: Pushed) -> None:
    """Pulls and containers fail by name and leave nothing; what runs goes on; with space again all is well."""
    node = small
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    files = {f"data/{n}": os.urandom(1 << 20) for n in range(60)}
    push_image(images.registry, "lies/large:1", [system_layer(), files], compression="none")
    many = io.BytesIO()
    with tarfile.open(fileobj=many, mode="w") as archive:
        for number in range(6000):
            archive.addfile(tarfile.TarInfo(f"n{number}"))
    push_image(images.registry, "lies/inodes:1", [system_layer(), many.getvalue()])
    before = node.picture()
    for name in ("large", "inodes"):
        with refused(Code.RESOURCE_EXHAUSTED, "no space left"):
            node.cri.PullImage(image={"image": f"{images.registry.address}/lies/{name}:1"})
    assert_nothing_new(node, before)
    ballast = pathlib.Path(node.dir, "root", "ballast")
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    with pytest.raises(grpc.RpcError) as failure:
        node.start(pod, "true")
    assert failure.value.code() in (Code.RESOURCE_EXHAUSTED, Code.UNKNOWN)
    assert "space" in failure.value.details()
    assert bytes(node.exec(ctr, "echo", "on").stdout) == b"on\n"
    assert_nothing_new(node, before)
    ballast.unlink()
    assert node.sh(pod, "echo well") == "well\n"
    node.cri.StopContainer(container_id=ctr, timeout=0)
    assert node.status(ctr).exit_code == 137


def test_pods_go_when_the_disk_is_full(small: Node) -> None:
    """Removal needs no space."""
    node = small
    before = node.picture()
    pod = node.pod()
    node.start(pod, "sleep", "1000")
    ballast = pathlib.Path(node.dir, "root", "ballast")
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    try:
        node.remove_pod(pod)
    finally:
        ballast.unlink()
    assert_nothing_new(node, before)
