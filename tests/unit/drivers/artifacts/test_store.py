"""The artifact store: what it writes is an image layout, what is not right stays out, a crash leaves only garbage."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pycrio.drivers.artifacts import blobs
from pycrio.drivers.artifacts.settings import Settings
from pycrio.drivers.artifacts.store import Artifacts
from pycrio.errors import Ambiguous, BadImage, Denied, StoreFailure
from pycrio.model.image import Artifact, LayerDescriptor, RemoteImage
from tests.fixtures_registry import digest_of

NAME = "registry.test/lab/model:1"
EMPTY = b"{}"


def remote(name: str, files: dict[str, bytes], **more: object) -> RemoteImage:
    """An artifact as the registry driver finds it."""
    layers = tuple(
        LayerDescriptor(digest_of(d), len(d), "text/plain", "", annotations={"org.opencontainers.image.title": n})
        for n, d in files.items()
    )
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x-lab",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(EMPTY), "size": 2},
        "layers": [
            {"mediaType": x.media_type, "digest": x.digest, "size": x.size, "annotations": x.annotations}
            for x in layers
        ],
        **more,
    }
    body = json.dumps(document).encode()
    return RemoteImage(
        name, body, digest_of(body), document["mediaType"], EMPTY, digest_of(EMPTY), layers,
        artifact_type="application/x-lab",
    )  # fmt: skip


async def receive(store: Artifacts, layer: LayerDescriptor, data: bytes) -> str:
    source, sink = os.pipe()
    writing = asyncio.get_running_loop().run_in_executor(None, feed, sink, data)
    try:
        return await store.receive(layer, source)
    finally:
        os.close(source)
        await writing


def feed(sink: int, data: bytes) -> None:
    try:
        with open(sink, "wb") as f:
            f.write(data)
    except BrokenPipeError:
        pass  # the reader saw enough


async def put(store: Artifacts, name: str, files: dict[str, bytes], **more: object) -> Artifact:
    image = remote(name, files, **more)
    staged = [await receive(store, x, d) for x, d in zip(image.layers, files.values(), strict=True)]
    return await store.record(image, staged)


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(Settings(str(tmp_path)))


def files_of(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in (root / "artifacts").rglob("*") if p.is_file()}


async def test_nothing_is_made_before_it_is_needed(store: Artifacts, tmp_path: Path) -> None:
    assert list(await store.all()) == []
    assert await store.find((NAME,), "abc") is None
    assert await store.garbage() == 0
    await store.remove("0" * 64)
    assert os.listdir(tmp_path) == []


async def test_an_artifact_and_its_files(store: Artifacts, tmp_path: Path) -> None:
    made = await put(store, NAME, {"a.txt": b"hello", "dir/b.bin": b"\0" * 3_000_000}, annotations={"k": "v"})
    assert made.type == "application/x-lab"
    assert (made.image.names, made.image.size, made.image.annotations) == ((NAME,), 3_000_005, {"k": "v"})
    assert made.image.digests == (f"sha256:{made.image.id}",)
    assert made.image.artifact
    assert not made.image.read_only
    assert [(f.name, f.size) for f in made.files] == [("a.txt", 5), ("dir/b.bin", 3_000_000)]
    assert Path(made.files[0].path).read_bytes() == b"hello"
    assert os.stat(made.files[0].path).st_mode & 0o777 == 0o644
    (listed,) = await store.all()
    assert listed is made
    assert await store.find((NAME,), "") is made
    assert await store.find((), made.image.id[:12]) is made
    assert await store.find((f"registry.test/lab/model@sha256:{made.image.id}",), "") is made
    assert await store.find(("registry.test/lab/other:1",), "") is None
    again = Artifacts(Settings(str(tmp_path)))
    assert await again.all() == (made,)


async def test_prefixes_of_digests(store: Artifacts) -> None:
    made = [await put(store, f"registry.test/lab/many:{n}", {"a": b"%d" % n}) for n in range(17)]
    first = collections.Counter(a.image.id[0] for a in made).most_common(1)[0][0]
    with pytest.raises(Ambiguous):
        await store.find((), first)
    assert await store.find((made[3].image.names[0],), first) is made[3]
    assert await store.find((), made[3].image.id[:16]) is made[3]


async def test_the_layout_is_one_that_skopeo_reads(store: Artifacts, tmp_path: Path) -> None:
    await put(store, NAME, {"a.txt": b"hello"})
    source = f"oci:{tmp_path}/artifacts:{NAME}"
    done = await asyncio.to_thread(
        subprocess.run, ["skopeo", "inspect", "--raw", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artifactType"] == "application/x-lab"


async def test_names_move_and_the_last_one_takes_the_artifact_with_it(store: Artifacts) -> None:
    first = await put(store, NAME, {"a": b"1"})
    await put(store, "registry.test/lab/model:also", {"a": b"1"})
    both = await store.find((NAME,), "")
    assert both is not None
    assert both.image.names == (NAME, "registry.test/lab/model:also")
    second = await put(store, NAME, {"a": b"2"})
    moved = await store.find((), first.image.id)
    assert moved is not None
    assert moved.image.names == ("registry.test/lab/model:also",)
    await put(store, "registry.test/lab/model:also", {"a": b"2"})
    nameless = await store.find((), first.image.id)
    assert nameless is not None
    assert nameless.image.names == ()
    await store.remove(second.image.id, NAME)
    left = await store.find((), second.image.id)
    assert left is not None
    assert left.image.names == ("registry.test/lab/model:also",)
    await store.remove(second.image.id)
    assert [a.image.id for a in await store.all()] == [first.image.id]


async def test_removal_takes_only_what_no_other_needs(store: Artifacts, tmp_path: Path) -> None:
    one = await put(store, NAME, {"shared": b"s", "own": b"o"})
    two = await put(store, "registry.test/lab/two:1", {"shared": b"s"})
    assert await store.present([digest_of(b"s"), digest_of(b"o"), digest_of(b"x")]) == {
        digest_of(b"s"),
        digest_of(b"o"),
    }
    await store.remove(one.image.id)
    assert await store.present([digest_of(b"s"), digest_of(b"o")]) == {digest_of(b"s")}
    await store.remove(two.image.id)
    assert list(await store.all()) == []
    assert files_of(tmp_path) == {"artifacts/index.json", "artifacts/index.lock", "artifacts/oci-layout"}


@pytest.mark.parametrize(
    ("data", "size", "words"),
    [(b"other", 5, "came with digest"), (b"hell", 5, "has 4 bytes instead of 5"), (b"hello!", 5, "has 6 bytes")],
)
async def test_lies_stay_out(store: Artifacts, tmp_path: Path, data: bytes, size: int, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        await receive(store, LayerDescriptor(digest_of(b"hello"), size, "", ""), data)
    assert files_of(tmp_path) == set()


async def test_cancellation_leaves_nothing(store: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, sink = os.pipe()
    os.write(sink, b"hel")
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    write = blobs.write_all

    def told(fd: int, data: bytes) -> None:
        write(fd, data)
        loop.call_soon_threadsafe(begun.set)

    monkeypatch.setattr(blobs, "write_all", told)
    task = asyncio.ensure_future(store.receive(LayerDescriptor(digest_of(b"hello"), 5, "", ""), source))
    await begun.wait()
    assert len(files_of(tmp_path)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(source)
    os.close(sink)
    assert files_of(tmp_path) == set()


async def test_discard(store: Artifacts, tmp_path: Path) -> None:
    token = await receive(store, LayerDescriptor(digest_of(b"x"), 1, "", ""), b"x")
    assert len(files_of(tmp_path)) == 1
    await store.discard(token)
    await store.discard(token)
    assert files_of(tmp_path) == set()


async def test_a_blob_that_vanished_meanwhile(store: Artifacts) -> None:
    image = remote(NAME, {"a": b"1"})
    with pytest.raises(StoreFailure, match="pull it again"):
        await store.record(image, [])
    assert list(await store.all()) == []


@pytest.mark.parametrize("step", range(6))
async def test_a_crash_leaves_the_old_state_and_garbage(
    store: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Die before the n-th rename of a record: what was there stays, the rest is swept at the next start."""
    kept = await put(store, NAME, {"a": b"1"})
    clean = files_of(tmp_path)
    image = remote("registry.test/lab/new:1", {"b": b"2", "c": b"3"})
    staged = [await receive(store, x, d) for x, d in zip(image.layers, (b"2", b"3"), strict=True)]
    left = step

    class Crash(BaseException):
        pass

    rename, unlink = os.rename, os.unlink

    def dying(*paths: str) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        rename(*paths)

    def gone(path: str) -> None:
        if left:
            unlink(path)

    monkeypatch.setattr(blobs.os, "rename", dying)
    monkeypatch.setattr(blobs.os, "unlink", gone)
    try:
        await store.record(image, staged)
        finished = True
    except Crash:
        finished = False
    monkeypatch.undo()
    assert finished == (step > 3)
    after = Artifacts(Settings(str(tmp_path)))
    assert (await after.find((NAME,), "")) == kept
    assert (await after.find((image.name,), "") is not None) == finished
    await after.garbage()
    assert await after.garbage() == 0
    if not finished:
        assert files_of(tmp_path) == clean


async def test_additional_stores_come_first_and_are_read_only(tmp_path: Path) -> None:
    upper, lower = tmp_path / "own", tmp_path / "given"
    given = Artifacts(Settings(str(lower)))
    theirs = await put(given, NAME, {"a": b"1"})
    store = Artifacts(Settings(str(upper), (str(lower), str(tmp_path / "none"))))
    (seen,) = await store.all()
    assert seen.image.read_only
    assert seen.files == theirs.files
    before = files_of(lower)
    with pytest.raises(Denied, match="additional artifact store"):
        await store.remove(seen.image.id)
    own = await put(store, "registry.test/lab/mine:1", {"a": b"1"})  # the same content, here as well
    assert own.image.read_only
    assert own.image.names == (NAME, "registry.test/lab/mine:1")
    await store.remove(own.image.id)
    assert [a.image.names for a in await store.all()] == [(NAME,)]
    assert files_of(lower) == before


async def test_others_write_the_index_too(store: Artifacts, tmp_path: Path) -> None:
    """Fields and annotations of others survive our writes; their artifacts are seen at once."""
    await put(store, NAME, {"a": b"1"})
    other = Artifacts(Settings(str(tmp_path)))
    await put(other, "registry.test/lab/theirs:1", {"b": b"2"})
    index = tmp_path / "artifacts/index.json"
    document = json.loads(index.read_text())
    document["manifests"][1]["annotations"]["org.example"] = "kept"
    document["manifests"][1]["platform"] = {"os": "linux"}
    index.write_text(json.dumps(document))
    assert len(await store.all()) == 2
    await put(store, "registry.test/lab/more:1", {"c": b"3"})
    entries = json.loads(index.read_text())["manifests"]
    assert entries[1]["annotations"]["org.example"] == "kept"
    assert entries[1]["platform"] == {"os": "linux"}


async def test_damage_is_told_and_costs_only_itself(store: Artifacts, tmp_path: Path) -> None:
    good = await put(store, NAME, {"a": b"1"})
    bad = await put(store, "registry.test/lab/bad:1", {"b": b"2"})
    manifest = tmp_path / "artifacts/blobs/sha256" / bad.image.id
    manifest.write_text('{"layers": "no"}')
    fresh = Artifacts(Settings(str(tmp_path)))
    assert [a.image.id for a in await fresh.all()] == [good.image.id]
    assert await fresh.garbage() == 0  # who knows what the damaged one needs
    await fresh.remove(bad.image.id)
    await fresh.garbage()
    assert await fresh.present([digest_of(b"2"), digest_of(b"1")]) == {digest_of(b"1")}
    (tmp_path / "artifacts/index.json").write_text("nonsense")
    assert list(await Artifacts(Settings(str(tmp_path))).all()) == []
    with pytest.raises(BadImage):
        await put(fresh, "registry.test/lab/no:1", {"b": b"2"})
    shutil.rmtree(tmp_path / "artifacts")
    assert await put(fresh, NAME, {"a": b"1"}) == good


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"{",
        b"\xff",
        b'{"manifests": [{"digest": "sha256:../../../../etc/passwd", "size": 1}]}',
        b'{"manifests": [{"digest": "sha256:' + b"0" * 64 + b'", "size": -1}]}',
        b'{"manifests": [7]}',
    ],
)
async def test_hostile_indexes(tmp_path: Path, document: bytes) -> None:
    home = tmp_path / "artifacts"
    home.mkdir()
    (home / "index.json").write_bytes(document)
    assert list(await Artifacts(Settings(str(tmp_path))).all()) == []
