"""The store shared with podman, buildah and skopeo: what one writes the others read, run, change and remove."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pycrio._native import mounts, untar
from pycrio.drivers.layers.files import data_file
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from pycrio.errors import Exhausted, InUse
from pycrio.model.image import LayerDescriptor, StoredImage
from pycrio.model.security import IdMapping
from tests.fixtures_registry import RunningRegistry, build_index, push_image
from tests.system.crash_points import Puller
from tests.unit.drivers.layers.support import BUSY, EXTRA, Blob, Entry, digest, make_image, make_tar, oci_layout, pull

pytestmark = pytest.mark.system

NAME = "registry.test/lab/busy:1"
BOX = "b0" * 32
POLICY = '{"default":[{"type":"insecureAcceptAnything"}]}'


def busybox() -> bytes:
    """A base layer that runs, with owners, modes, links, times, a device and attributes worth comparing."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes = tarfile.DIRTYPE, mode: int = 0o755, **more: object) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, 1_500_000_000
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info)

        add("./", mode=0o700, uid=5)  # what the archive says of the root itself does not count
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "home"):
            add(name, mode=0o1777 if name == "tmp" else 0o755)
        tar.add("/bin/busybox", "bin/busybox", recursive=False)
        add("bin/sh", tarfile.SYMTYPE, linkname="busybox")
        add("bin/hard", tarfile.LNKTYPE, linkname="bin/busybox")
        add("home/user", uid=1000, gid=1001, mode=0o750, mtime=1_500_000_000.25)
        add("home/fifo", tarfile.FIFOTYPE, mode=0o640)
        add("home/dev", tarfile.CHRTYPE, mode=0o600, devmajor=1, devminor=3)
        info = tarfile.TarInfo("etc/attrs")
        info.size, info.mode = 5, 0o4755
        info.pax_headers = {"SCHILY.xattr.user.note": "kept", "mtime": "1500000000.123456789"}
        tar.addfile(info, io.BytesIO(b"hello"))
    return out.getvalue()


TARS = [busybox(), make_tar({"etc": None, "etc/new": b"2", "home": None, "home/.wh..wh..opq": b"", "home/x": b"x"})]


class Tools:
    """podman, buildah and skopeo on the same directories."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root, self.run = str(base / "root"), str(base / "run")
        policy = base / "policy.json"
        base.mkdir(exist_ok=True)
        policy.write_text(POLICY)
        self.policy = str(policy)
        self.transport = f"containers-storage:[overlay@{self.root}+{self.run}]"

    def call(self, *argv: str) -> str:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def podman(self, *argv: str) -> str:
        where = ("--root", self.root, "--runroot", self.run, "--storage-driver", "overlay")
        return self.call("podman", *where, "--cgroup-manager", "cgroupfs", "--events-backend", "file", *argv)

    def buildah(self, *argv: str) -> str:
        return self.call("buildah", "--root", self.root, "--runroot", self.run, "--storage-driver", "overlay", *argv)

    def skopeo(self, *argv: str) -> str:
        return self.call("skopeo", "--policy", self.policy, *argv)

    def run_argv(self, *argv: str) -> tuple[str, ...]:
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        return ("run", "--rm", "--network", "none", "--runtime", "runc", *limits, *argv)


def detach(root: str) -> None:
    """Take away whatever is mounted below a directory."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        target = line.split()[4]
        if target.startswith(root + "/"):
            mounts.umount(target)


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    # podman refuses run directories with paths of more than 50 characters
    base = Path(tempfile.mkdtemp(prefix="pcs-", dir="/tmp"))
    yield Tools(base)
    for place in (base, tmp_path):
        detach(str(place))
    shutil.rmtree(base)


def settings(tools: Tools, **more: object) -> Settings:
    return Settings(root=tools.root, run_root=tools.run, **more)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def store(tools: Tools) -> AsyncIterator[Store]:
    store = Store(settings(tools))
    await store.open()
    yield store
    await store.close()


def layout(directory: Path, name: str, tars: list[bytes]) -> str:
    """The same image for skopeo to read."""
    return oci_layout(directory, *make_image(name, tars, Cmd=["/bin/sh", "-c", "echo hi"]))


async def pulled(store: Store, name: str = NAME, tars: list[bytes] | None = None) -> StoredImage:
    image, blobs = make_image(name, TARS if tars is None else tars, Cmd=["/bin/sh", "-c", "echo hi"])
    return await pull(store, image, blobs)


# --- we write, they read ---


async def test_podman_lists_inspects_and_runs_our_image(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    (listed,) = json.loads(await asyncio.to_thread(tools.podman, "images", "--format", "json"))
    assert (listed["Id"], listed["Names"], listed["Size"]) == (image.id, [NAME], image.size)
    assert listed["Digest"] == image.digests[0]
    (seen,) = json.loads(await asyncio.to_thread(tools.podman, "image", "inspect", NAME))
    assert seen["RootFS"]["Layers"] == [digest(t) for t in TARS]
    assert seen["Size"] == image.size
    out = await asyncio.to_thread(
        tools.podman, *tools.run_argv(NAME, "/bin/sh", "-c", "cat /etc/attrs /etc/new /home/x")
    )
    assert out == "hello2x"


async def test_skopeo_exports_bit_for_bit(store: Store, tools: Tools, tmp_path: Path) -> None:
    image = await pulled(store)
    seen = json.loads(await asyncio.to_thread(tools.skopeo, "inspect", tools.transport + NAME))
    assert seen["Digest"] == image.digests[0]
    target = tmp_path / "out"
    await asyncio.to_thread(tools.skopeo, "copy", "--dest-decompress", tools.transport + NAME, f"dir:{target}")
    for tar in TARS:
        assert (target / digest(tar)[7:]).read_bytes() == tar


async def test_skopeo_reads_our_signatures(store: Store, tools: Tools, tmp_path: Path) -> None:
    image, _ = make_image(NAME, TARS)
    # Layers that nobody compresses: signed images are copied as they are or not at all.
    kind = "application/vnd.oci.image.layer.v1.tar"
    blobs = [Blob(t, LayerDescriptor(digest(t), len(t), kind, digest(t))) for t in TARS]
    layers = [{"mediaType": kind, "digest": digest(t), "size": len(t)} for t in TARS]
    manifest = json.dumps({**json.loads(image.manifest), "layers": layers}).encode()
    image = replace(image, manifest=manifest, manifest_digest=digest(manifest))
    signatures = (b"\x90one", b"\x90another")
    await pull(store, replace(image, signatures=signatures), blobs)
    target = tmp_path / "out"
    await asyncio.to_thread(tools.skopeo, "copy", tools.transport + NAME, f"dir:{target}")
    assert tuple((target / f"signature-{n}").read_bytes() for n in (1, 2)) == signatures
    # They come back as the records have them when skopeo makes these.
    theirs = Tools(tmp_path / "theirs")
    await asyncio.to_thread(theirs.skopeo, "copy", f"dir:{target}", theirs.transport + NAME)
    (ours,), (other,) = (
        json.loads(Path(each.root, "overlay-images/images.json").read_bytes()) for each in (tools, theirs)
    )
    assert json.loads(ours["metadata"]) == json.loads(other["metadata"])
    keys = {key for key in ours["big-data-names"] if key.startswith("signature")}
    assert keys == {key for key in other["big-data-names"] if key.startswith("signature")}
    for key in keys:
        assert ours["big-data-digests"][key] == other["big-data-digests"][key]
    other_store = Store(settings(theirs))
    await other_store.open()
    (found,) = await other_store.images.all()
    assert await other_store.images.signatures(found.id) == signatures
    await other_store.close()


async def test_tar_split_of_both_makes_agree(store: Store, tools: Tools, tmp_path: Path) -> None:
    """Our reader rebuilds the archive from their metadata as well as from ours."""
    await pulled(store)
    theirs = Tools(tmp_path / "theirs")
    await asyncio.to_thread(theirs.skopeo, "copy", layout(tmp_path / "oci", NAME, TARS), theirs.transport + NAME)
    for each in (tools, theirs):
        for record in json.loads(Path(each.root, "overlay-layers/layers.json").read_bytes()):
            split = os.open(f"{each.root}/overlay-layers/{record['id']}.tar-split.gz", os.O_RDONLY)
            diff = os.open(f"{each.root}/overlay/{record['id']}/diff", os.O_RDONLY | os.O_DIRECTORY)
            out = os.open("/dev/null", os.O_WRONLY)
            try:
                assert untar.assemble(split, diff, out).digest == record["diff-digest"]
            finally:
                for fd in (split, diff, out):
                    os.close(fd)


# --- the same image by us and by them ---

# The accepted differences, by record and field; everything else is equal.
#
# layer  created                    the time of the pull
# image  big-data-names             the order
# image  big-data-*, metadata       theirs have an empty item ``signature-<digest>`` where there are no signatures
# image  names-history              the order: ours is newest first, theirs turns round all names at each new one
LAYER_DIFFERENCES = frozenset({"created"})


def comparable(image: dict[str, Any]) -> dict[str, Any]:
    """An image record without the accepted differences."""
    empty = {key for key, size in image["big-data-sizes"].items() if key.startswith("signature-") and size == 0}
    out = {**image, "big-data-names": sorted(set(image["big-data-names"]) - empty)}
    out["names-history"] = sorted(image["names-history"])
    for field in ("big-data-sizes", "big-data-digests"):
        out[field] = {key: value for key, value in image[field].items() if key not in empty}
    metadata = json.loads(image["metadata"])
    sizes = {key: value for key, value in metadata.pop("signatures-sizes", {}).items() if value}
    return {**out, "metadata": {**metadata, **({"signatures-sizes": sizes} if sizes else {})}}


def load(each: Tools, name: str) -> list[dict[str, Any]]:
    """A list of a store, by id."""
    records: list[dict[str, Any]] = json.loads(Path(each.root, name).read_bytes())
    return sorted(records, key=lambda record: record["id"])


def assert_same_store(one: Tools, other: Tools) -> None:
    """Records, big data, layers' directories and contents are the same but for the accepted differences."""
    layers = [load(each, "overlay-layers/layers.json") for each in (one, other)]
    assert layers[0]
    for ours, theirs in zip(*layers, strict=True):
        assert {k: v for k, v in ours.items() if k not in LAYER_DIFFERENCES} == {
            k: v for k, v in theirs.items() if k not in LAYER_DIFFERENCES
        }
        assert tree(one.root, ours["id"]) == tree(other.root, theirs["id"])
        assert directory(one.root, ours["id"]) == directory(other.root, theirs["id"])
    images = [load(each, "overlay-images/images.json") for each in (one, other)]
    for ours, theirs in zip(*images, strict=True):
        assert comparable(ours) == comparable(theirs)
        for key in comparable(ours)["big-data-names"]:
            paths = [Path(e.root, "overlay-images", ours["id"], data_file(key)) for e in (one, other)]
            assert paths[0].read_bytes() == paths[1].read_bytes()
            assert len({stat.S_IMODE(path.stat().st_mode) for path in paths}) == 1


def directory(root: str, layer_id: str) -> dict[str, object]:
    """What is in a layer's directory of the driver's home; links by the layer that they lead to."""
    home = Path(root, "overlay")
    found: dict[str, object] = {p.name: oct(p.stat().st_mode) for p in (home / layer_id).iterdir()}
    links = [(home / layer_id / "link").read_text()]
    lower = home / layer_id / "lower"
    links += [entry.removeprefix("l/") for entry in lower.read_text().split(":")] if lower.exists() else []
    assert all(len(link) == 26 for link in links)
    found["links"] = [os.readlink(home / "l" / link) for link in links]
    return found


def tree(root: str, layer_id: str) -> dict[str, tuple[object, ...]]:
    """Everything that a reader can see of a layer's directory. The root's and devices' times are those of the pull."""
    top = Path(root, "overlay", layer_id, "diff")
    found: dict[str, tuple[object, ...]] = {}
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        content = b"" if path.is_dir() or not path.is_file() or path.is_symlink() else path.read_bytes()
        link = os.readlink(path) if path.is_symlink() else ""
        attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        whiteout = status.st_rdev == 0 and path.is_char_device()
        when = 0 if path == top or whiteout else status.st_mtime_ns
        size = 0 if path.is_dir() else status.st_size
        links = 0 if path.is_dir() else status.st_nlink
        found[str(path.relative_to(top))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_rdev, when, size, links, link, content,
            tuple(sorted(attributes.items())),
        )  # fmt: skip
    return found


async def test_records_and_trees_equal_those_of_skopeo(store: Store, tools: Tools, tmp_path: Path) -> None:
    await pulled(store)
    theirs = Tools(tmp_path / "theirs")
    await asyncio.to_thread(theirs.skopeo, "copy", layout(tmp_path / "oci", NAME, TARS), theirs.transport + NAME)

    assert_same_store(tools, theirs)


async def test_pulls_leave_what_those_of_podman_leave(
    tools: Tools, tmp_path: Path, docker_registry: RunningRegistry
) -> None:
    """The same images from a registry by the real pull and by podman: every compression, both formats, an index."""
    names = []
    for number, how in enumerate(
        ({"compression": "gzip"}, {"compression": "zstd"}, {"compression": "none"}, {"docker": True})
    ):
        tars = [*TARS, make_tar({f"one{number}": b"1" * number})]
        push_image(docker_registry, f"same/image{number}:1", tars, **how)  # type: ignore[arg-type]
        names.append(f"{docker_registry.address}/same/image{number}:1")
    built = push_image(docker_registry, "same/many:leaf", [busybox()])
    index = build_index(
        [(built, {"os": "linux", "architecture": "amd64"}), (built, {"os": "plan9", "architecture": "x"})]
    )
    docker_registry.push_manifest("same/many", "1", index, "application/vnd.oci.image.index.v1+json")
    names += [f"{docker_registry.address}/same/many:1", f"{docker_registry.address}/same/many@{built.digest}"]
    daemon = Puller(tmp_path, tools.base, docker_registry.address)
    await daemon.open()
    theirs = Tools(Path(tempfile.mkdtemp(prefix="pcs-", dir="/tmp")))
    try:
        for name in names:
            await daemon.pull(name)
            policy = ("--tls-verify=false", "--signature-policy", theirs.policy)
            await asyncio.to_thread(theirs.podman, "pull", *policy, name)
        await daemon.close()
        assert_same_store(tools, theirs)
    finally:
        detach(str(theirs.base))
        shutil.rmtree(theirs.base)


# --- they write, we read ---


async def test_we_use_images_of_skopeo(store: Store, tools: Tools, tmp_path: Path) -> None:
    assert await store.images.all() == ()
    await asyncio.to_thread(tools.skopeo, "copy", layout(tmp_path / "oci", NAME, TARS), tools.transport + NAME)
    (image,) = await store.images.all()
    assert image.names == (NAME,)
    assert image.config.cmd == ("/bin/sh", "-c", "echo hi")
    assert image.annotations == {"org.example.kind": "test"}
    assert (await store.checker.check()).damages == ()
    blobs = [Blob.of(t) for t in TARS]
    ids = store.layers.chain_ids([b.descriptor.diff_id for b in blobs])
    assert await store.layers.present(ids) == set(ids)
    again = await pulled(store)  # the same image: nothing new is needed
    assert again.id == image.id
    await store.rootfs.create(Entry(BOX, ("box",), image.id))
    path = await store.rootfs.mount(BOX)
    assert Path(path, "etc/attrs").read_text() == "hello"
    assert Path(path, "home/x").read_text() == "x"
    assert not Path(path, "home/user").exists()
    with pytest.raises(InUse):
        await store.images.remove(image.id)
    await store.rootfs.remove(BOX)
    await store.images.remove(image.id)
    assert json.loads(await asyncio.to_thread(tools.podman, "images", "--format", "json")) == []


async def test_containers_of_podman_protect_their_image(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    ident = (await asyncio.to_thread(tools.podman, "create", "--network", "none", "--name", "theirs", NAME)).strip()
    assert await store.images.users(image.id) == (ident,)
    assert await store.rootfs.entries() == ()
    with pytest.raises(InUse, match=ident):
        await store.images.remove(image.id)
    await asyncio.to_thread(tools.podman, "rm", "theirs")
    await store.images.remove(image.id)


async def test_buildah_builds_on_our_image_and_we_run_theirs(store: Store, tools: Tools) -> None:
    await pulled(store)
    work = (await asyncio.to_thread(tools.buildah, "from", "--pull-never", NAME)).strip()
    path = (await asyncio.to_thread(tools.buildah, "mount", work)).strip()
    Path(path, "etc/built").write_text("yes")
    await asyncio.to_thread(tools.buildah, "umount", work)
    await asyncio.to_thread(tools.buildah, "commit", "-q", work, "registry.test/lab/built:1")
    await asyncio.to_thread(tools.buildah, "rm", work)
    built = await store.images.find(["registry.test/lab/built:1"], "")
    assert built is not None
    await store.rootfs.create(Entry(BOX, ("box",), built.id))
    mounted = await store.rootfs.mount(BOX)
    assert Path(mounted, "etc/built").read_text() == "yes"
    assert Path(mounted, "etc/new").read_text() == "2"
    await store.rootfs.remove(BOX)
    await store.images.remove(built.id)
    # the base image kept its layers
    assert await asyncio.to_thread(tools.podman, *tools.run_argv(NAME)) == "hi\n"


async def test_podman_keeps_its_hands_off_our_mounted_container(store: Store, tools: Tools) -> None:
    """Debian's podman does not know volatile records; the hold keeps it from detaching the store's mount point."""
    image = await pulled(store)
    await store.rootfs.create(Entry(BOX, ("box",), image.id))
    path = await store.rootfs.mount(BOX)
    Path(path, "tmp/mine").write_text("here")
    for _ in range(3):
        assert await asyncio.to_thread(tools.podman, *tools.run_argv(NAME)) == "hi\n"
        await asyncio.to_thread(tools.podman, "system", "prune", "-f")
        work = (await asyncio.to_thread(tools.buildah, "from", "--pull-never", NAME)).strip()
        await asyncio.to_thread(tools.buildah, "rm", work)
        assert mounts.is_mountpoint(path)
        assert Path(path, "tmp/mine").read_text() == "here"
    await store.rootfs.remove(BOX)
    assert not os.path.exists(path)
    assert await asyncio.to_thread(tools.podman, *tools.run_argv(NAME)) == "hi\n"


async def test_a_mount_that_was_detached_is_made_again(store: Store, tools: Tools) -> None:
    """Should somebody detach the home all the same, whoever is inside notices nothing, and we mount and remove."""
    image = await pulled(store)
    await store.rootfs.create(Entry(BOX, ("box",), image.id))
    path = await store.rootfs.mount(BOX)
    Path(path, "tmp/mine").write_text("here")
    inside = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mounts.umount(f"{tools.root}/overlay")
        assert Path(f"/proc/self/fd/{inside}/tmp/mine").read_text() == "here"
        assert Path(f"/proc/self/fd/{inside}/etc/new").read_text() == "2"
    finally:
        os.close(inside)
    assert await store.rootfs.mount(BOX) == path
    assert Path(path, "tmp/mine").read_text() == "here"
    await store.rootfs.remove(BOX)
    assert not os.path.exists(path)


# --- real mounts ---


async def test_a_container_writes_only_its_own_layer(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    await store.rootfs.create(Entry(BOX, ("box",), image.id))
    path = await store.rootfs.mount(BOX)
    Path(path, "etc/attrs").unlink()
    Path(path, "etc/mine").write_text("m")
    assert await store.rootfs.mount(BOX) == path
    await store.rootfs.unmount(BOX)
    assert not mounts.is_mountpoint(path)
    path = await store.rootfs.mount(BOX)
    assert Path(path, "etc/mine").read_text() == "m"
    assert not Path(path, "etc/attrs").exists()
    assert Path(tools.root, "overlay", image.layer, "diff/etc/new").read_text() == "2"
    await store.rootfs.remove(BOX)


async def test_shifted_ids(store: Store) -> None:
    image = await pulled(store)
    maps = (IdMapping(0, 200000, 65536),)
    await store.rootfs.create(Entry(BOX, ("box",), image.id, {}, "", "", maps, maps))
    path = Path(await store.rootfs.mount(BOX))
    assert (path / "bin/busybox").stat().st_uid == 200000
    assert path.stat().st_uid == 200000
    os.chown(path / "etc/new", 200007, 200007)  # copied up with the ids that the container sees
    assert (path / "etc/new").stat().st_uid == 200007
    await store.rootfs.remove(BOX)


async def test_an_image_as_a_volume_cannot_be_written(store: Store, tmp_path: Path) -> None:
    image = await pulled(store)
    single = await pulled(store, "registry.test/lab/one:1", [make_tar(BUSY)])
    for each, file, content in ((image, "etc/new", "2"), (single, "bin/busybox", "#!")):
        target = tmp_path / each.id
        target.mkdir()
        await store.rootfs.mount_image(each.id, str(target), "")
        assert (target / file).read_text() == content
        with pytest.raises(OSError, match="Read-only"):
            (target / "etc/no").write_text("x")
        flags = os.statvfs(target).f_flag
        assert flags & os.ST_RDONLY
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
        assert not flags & os.ST_NOEXEC  # programs may be run from volumes
        await store.rootfs.unmount_image(str(target))
        assert list(target.iterdir()) == []


async def test_an_image_mounted_by_podman_can_be_removed(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    path = (await asyncio.to_thread(tools.podman, "image", "mount", NAME)).strip()
    assert Path(path, "etc/new").read_text() == "2"
    await store.images.remove(image.id)
    assert not os.path.exists(path)
    assert await store.layers.garbage() == 0
    assert os.listdir(f"{tools.root}/overlay/tempdirs") == []


async def test_many_layers(store: Store, tools: Tools) -> None:
    tars = [busybox(), *(make_tar({f"layer{n}": b"%d" % n}) for n in range(120))]
    image = await pulled(store, tars=tars)
    await store.rootfs.create(Entry(BOX, ("box",), image.id))
    path = await store.rootfs.mount(BOX)
    assert all(Path(path, f"layer{n}").read_text() == str(n) for n in range(120))
    await store.rootfs.remove(BOX)
    shown = await asyncio.to_thread(tools.podman, *tools.run_argv(NAME, "/bin/sh", "-c", "cat /layer0 /layer119"))
    assert shown == "0119"


# --- several stores ---


async def test_an_additional_store_is_read_only_and_shared(store: Store, tools: Tools, tmp_path: Path) -> None:
    image = await pulled(store)
    extra, blobs = make_image("registry.test/lab/more:1", [*TARS, make_tar(EXTRA)])
    upper = Tools(tmp_path / "upper")
    second = Store(settings(upper, additional_stores=(tools.root,)))
    await second.open()
    (seen,) = await second.images.all()
    assert (seen.id, seen.read_only, seen.size, seen.config.cmd) == (image.id, True, image.size, image.config.cmd)
    more = await pull(second, extra, blobs)  # its lower layers are those of the additional store
    layers = json.loads(Path(upper.root, "overlay-layers/layers.json").read_bytes())
    assert [r["parent"] for r in layers] == [image.layer]
    assert {i.id for i in await second.images.all()} == {image.id, more.id}
    await second.rootfs.create(Entry(BOX, ("box",), more.id))
    path = await second.rootfs.mount(BOX)
    assert Path(path, "app/data").stat().st_size == 5000
    assert Path(path, "etc/new").read_text() == "2"
    await second.rootfs.remove(BOX)
    await second.images.remove(more.id)
    await second.layers.garbage()  # it lets go of the hold
    assert json.loads(Path(upper.root, "overlay-layers/layers.json").read_bytes()) == []
    assert await store.images.all() == (image,)
    await second.close()


async def test_images_apart_from_containers(tools: Tools, tmp_path: Path) -> None:
    shared = str(tmp_path / "images")
    store = Store(settings(tools, image_store=shared))
    await store.open()
    image = await pulled(store)
    assert not Path(tools.root, "overlay", image.layer).exists()
    assert Path(shared, "overlay", image.layer, "diff").is_dir()
    assert json.loads(Path(shared, "overlay-images/images.json").read_bytes())[0]["id"] == image.id
    assert len(json.loads(Path(shared, "overlay-layers/layers.json").read_bytes())) == 2
    await store.rootfs.create(Entry(BOX, ("box",), image.id))
    path = await store.rootfs.mount(BOX)
    assert path.startswith(tools.root)
    assert Path(path, "etc/new").read_text() == "2"
    use = await store.images.disk_use()
    assert [u.mountpoint for u in use] == [f"{shared}/overlay-images", f"{tools.root}/overlay-containers"]
    await store.rootfs.remove(BOX)
    await store.images.remove(image.id)
    assert not Path(shared, "overlay", image.layer).exists()
    await store.close()


# --- at the same time ---


async def test_everybody_at_once(store: Store, tools: Tools, tmp_path: Path) -> None:
    """podman, skopeo, buildah and we work in one root; in the end everything is there and nothing else.

    A few rounds; with PYCRIO_LONG=<seconds> (1: two minutes) as many as fit into that time.
    """
    seconds = float(os.environ.get("PYCRIO_LONG", "0"))
    end = time.monotonic() + (120 if seconds == 1 else seconds)
    base = await pulled(store)
    layouts = [layout(tmp_path / f"oci{n}", "x", [*TARS, make_tar({f"file{n}": b"%d" % n * 1000})]) for n in range(4)]
    done = {"theirs": 0, "ours": 0}

    def turns(kind: str, least: int) -> Iterator[int]:
        for turn in itertools.count():
            if turn >= least and time.monotonic() >= end:
                return
            yield turn
            done[kind] += 1

    async def theirs(number: int) -> None:
        name = f"registry.test/lab/their{number}:1"
        for _ in turns("theirs", 3):
            await asyncio.to_thread(tools.skopeo, "copy", layouts[number], f"{tools.transport}{name}")
            await asyncio.to_thread(tools.podman, *tools.run_argv(name, "/bin/sh", "-c", ":"))
            work = (await asyncio.to_thread(tools.buildah, "from", "--pull-never", name)).strip()
            await asyncio.to_thread(tools.buildah, "rm", work)
            await asyncio.to_thread(tools.podman, "rmi", name)
        await asyncio.to_thread(tools.skopeo, "copy", layouts[number], f"{tools.transport}{name}")

    async def ours(number: int) -> None:
        for turn in turns("ours", 12):
            name = f"registry.test/lab/our{number}:{turn}"
            tars = [*TARS, make_tar({f"ours{number}": b"%d" % turn * 500})]
            image = await pulled(store, name, tars)
            ident = f"{number}{turn:07x}" * 8
            await store.rootfs.create(Entry(ident, (f"box{number}-{turn}",), image.id))
            path = await store.rootfs.mount(ident)
            assert Path(path, f"ours{number}").read_bytes() == b"%d" % turn * 500
            await store.rootfs.unmount(ident)
            assert image.id in {i.id for i in await store.images.all()}
            await store.rootfs.remove(ident)
            if turn % 2 or turn >= 12:
                await store.images.remove(image.id)

    await asyncio.gather(*(theirs(n) for n in range(2)), *(ours(n) for n in range(3)))
    print(f"rounds: {done}")
    names = sorted(n for i in await store.images.all() for n in i.names)
    expected = [NAME, *(f"registry.test/lab/their{n}:1" for n in range(2))]
    expected += [f"registry.test/lab/our{n}:{t}" for n in range(3) for t in range(0, 12, 2)]
    assert names == sorted(expected)
    listed = json.loads(await asyncio.to_thread(tools.podman, "images", "--format", "json"))
    assert sorted(n for i in listed for n in i["Names"]) == names
    assert await store.layers.garbage() == 0  # it lets go of the hold
    records = json.loads(Path(tools.root, "overlay-layers/layers.json").read_bytes())
    directories = {p.name for p in Path(tools.root, "overlay").iterdir() if len(p.name) == 64}
    assert directories == {r["id"] for r in records}
    assert (await store.checker.check()).damages == ()
    assert base.layer in directories
    assert len(list(Path(tools.root, "overlay/l").iterdir())) == len(directories)


# --- limits ---


@pytest_asyncio.fixture
async def small(tmp_path: Path) -> AsyncIterator[Store]:
    """A store on a file system of 3 MiB and 300 inodes."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=300", "none", str(place)], check=True)
    store = Store(Settings(root=str(place / "root"), run_root=str(tmp_path / "run")))
    await store.open()
    yield store
    await store.close()
    detach(str(tmp_path))


@pytest.mark.parametrize(
    "files", [{f"f{n}": os.urandom(100_000) for n in range(60)}, {f"f{n}": b"" for n in range(500)}]
)
async def test_a_full_disk_is_said_and_cleaned_up(small: Store, files: dict[str, bytes | None]) -> None:
    with pytest.raises(Exhausted, match="no space left"):
        await pulled(small, tars=[make_tar(BUSY), make_tar(files)])
    root = Path(small.settings.root)
    assert os.listdir(root / "overlay/tempdirs") == []
    assert os.listdir(root / "overlay-layers/tmp") == []
    image = await pulled(small, tars=[make_tar(BUSY)])  # what was freed can be used
    filler = root / "filler"
    free = os.statvfs(root)
    filler.write_bytes(b"x" * (free.f_bavail * free.f_bsize))
    with pytest.raises(Exhausted, match="no space left"):
        await small.rootfs.create(Entry(BOX, ("box",), image.id))
    filler.unlink()
    await small.rootfs.create(Entry(BOX, ("box",), image.id))
    await small.rootfs.mount(BOX)
    await small.rootfs.remove(BOX)
    assert await small.layers.garbage() == 0


def state(root: str) -> tuple[int, int, list[str]]:
    """Descriptors, mounts, and files of a store."""
    files = [str(p) for p in Path(root).rglob("*") if "/diff/" not in str(p)]
    mounted = Path("/proc/self/mountinfo").read_text().count(root)
    return len(os.listdir("/proc/self/fd")), mounted, sorted(files)


async def test_many_containers_leave_nothing(store: Store, tools: Tools) -> None:
    image = await pulled(store)
    kept: tuple[int, int, list[str]] | None = None
    for turn in range(60):
        await store.rootfs.create(Entry(f"{turn:064x}", (f"box{turn}",), image.id, {"pod-name": "p", "pod-id": "i"}))
        Path(await store.rootfs.mount(f"{turn:064x}"), "file").write_text("x")
        if turn % 2:
            await store.rootfs.unmount(f"{turn:064x}")
        await store.rootfs.remove(f"{turn:064x}")
        if turn == 3:
            kept = state(tools.root)
    assert state(tools.root) == kept
