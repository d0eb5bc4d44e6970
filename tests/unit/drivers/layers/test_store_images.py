"""Pulling into, listing and removing from a store."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pycrio.drivers.layers.files import data_file
from pycrio.drivers.layers.store import Store
from pycrio.errors import Ambiguous, BadImage, InUse, NotFound, Overtaken, StoreFailure, Unsupported
from tests.unit.drivers.layers.support import (
    BUSY,
    EXTRA,
    Blob,
    Entry,
    FakeKernel,
    digest,
    make_image,
    make_tar,
    pull,
    unpack,
)

NAME = "registry.test/busy:1"


def lists(tmp_path: Path, name: str) -> list[dict]:
    return json.loads((tmp_path / "root" / name).read_bytes())


def leftovers(root: Path) -> list[str]:
    """Everything below staging and deletion places, and temporary files."""
    found = [str(p) for place in ("overlay/tempdirs", "overlay-layers/tmp") for p in (root / place).glob("*")]
    return found + [str(p) for p in root.rglob(".tmp-*")]


async def test_a_pulled_image_is_found_by_everything_it_is_known_by(store: Store, tmp_path: Path) -> None:
    image, blobs = make_image(NAME, [make_tar(BUSY), make_tar(EXTRA)], Env=["A=1"], User="7", Cmd=["/bin/busybox"])
    stored = await pull(store, image, blobs)
    assert stored.id == image.config_digest[7:]
    assert stored.names == (NAME,)
    assert stored.digests == (image.manifest_digest,)
    assert stored.layer == store.layers.chain_ids([b.descriptor.diff_id for b in blobs])[-1]
    assert (stored.config.user, stored.config.env, stored.config.cmd) == ("7", ("A=1",), ("/bin/busybox",))
    assert stored.annotations == {"org.example.kind": "test"}
    assert stored.created == 1714979289123456789
    assert not stored.read_only
    by_digest = f"registry.test/busy@{image.manifest_digest}"
    for names, ident in (
        ([NAME], ""),
        ([], stored.id),
        ([], stored.id[:3]),
        (["x/y:z", NAME], "no"),
        ([by_digest], ""),
    ):
        assert await store.images.find(names, ident) is stored
    for names, ident in ((["x/y:z"], ""), ([], "ab"), ([f"other/repo@{image.manifest_digest}"], "")):
        assert await store.images.find(names, ident) is None
    assert await store.images.all() == (stored,)
    assert leftovers(tmp_path / "root") == []


async def test_size_counts_layers_and_data(store: Store) -> None:
    tars = [make_tar(BUSY), make_tar(EXTRA)]
    image, blobs = make_image(NAME, tars)
    stored = await pull(store, image, blobs)
    # manifest is kept under two names
    assert stored.size == sum(map(len, tars)) + len(image.config) + 2 * len(image.manifest)


async def test_layer_ids_and_records(store: Store, tmp_path: Path) -> None:
    image, blobs = make_image(NAME, [make_tar(BUSY), make_tar(EXTRA)])
    await pull(store, image, blobs)
    base, top = lists(tmp_path, "overlay-layers/layers.json")
    assert base["id"] == blobs[0].descriptor.diff_id[7:]
    assert "parent" not in base
    assert "flags" not in base
    assert top["parent"] == base["id"]
    assert top["id"] == digest(f"{base['id']}+{blobs[1].descriptor.diff_id[7:]}".encode())[7:]
    assert top["compressed-diff-digest"] == blobs[1].descriptor.digest
    assert top["compressed-size"] == len(blobs[1].data)
    assert top["diff-digest"] == blobs[1].descriptor.diff_id
    assert top["compression"] == 2
    assert top["uidset"] == [0]
    home = tmp_path / "root/overlay"
    link = (home / base["id"] / "link").read_text()
    assert (home / top["id"] / "lower").read_text() == f"l/{link}"
    assert os.readlink(home / "l" / link) == f"../{base['id']}/diff"
    assert stat.S_IMODE((home / top["id"] / "diff").stat().st_mode) == 0o555
    assert (home / base["id"] / "empty").is_dir()
    assert not (home / top["id"] / "empty").exists()
    # the whiteout of the second layer became overlay's
    hidden = (home / top["id"] / "diff/etc/passwd").lstat()
    assert stat.S_ISCHR(hidden.st_mode)
    assert hidden.st_rdev == 0
    for layer in (base, top):
        assert (tmp_path / f"root/overlay-layers/{layer['id']}.tar-split.gz").stat().st_size > 0


async def test_big_data_is_exactly_what_was_fetched(store: Store, tmp_path: Path) -> None:
    image, blobs = make_image(NAME, [make_tar(BUSY)])
    image = replace(
        image,
        index=b'{"manifests":[]}',
        index_digest=digest(b'{"manifests":[]}'),
        signatures=(b"ab", b"c"),
        index_signatures=(b"de",),
    )
    stored = await pull(store, image, blobs)
    (record,) = lists(tmp_path, "overlay-images/images.json")
    expected = {
        "manifest": image.manifest,
        f"manifest-{image.manifest_digest}": image.manifest,
        f"manifest-{image.index_digest}": image.index,
        image.config_digest: image.config,
        "signatures": b"abc",
        f"signature-{image.manifest_digest[7:]}": b"abc",
        f"signature-{image.index_digest[7:]}": b"de",
    }
    assert set(record["big-data-names"]) == set(expected)
    for key, data in expected.items():
        assert (tmp_path / "root/overlay-images" / stored.id / data_file(key)).read_bytes() == data
        assert record["big-data-sizes"][key] == len(data)
        assert record["big-data-digests"][key] == digest(data)
        assert await store.images.data(stored.id, key) == data
    assert json.loads(record["metadata"]) == {
        "signature-sizes": [2, 1],
        "signatures-sizes": {image.manifest_digest: [2, 1], image.index_digest: [2]},
    }
    assert set(stored.digests) == {image.manifest_digest, image.index_digest}
    with pytest.raises(NotFound):
        await store.images.data(stored.id, "nothing")
    # pulled again without signatures: the old ones do not stay
    again = await store.images.record(replace(image, signatures=(), index_signatures=()), stored.layer, 0)
    assert again.id == stored.id
    (record,) = lists(tmp_path, "overlay-images/images.json")
    kept = [key for key in expected if not key.startswith("signature")]
    assert sorted(record["big-data-names"]) == sorted(kept)
    assert sorted(os.listdir(tmp_path / "root/overlay-images" / stored.id)) == sorted(map(data_file, kept))
    assert record["metadata"] == "{}"


async def test_a_name_moves_to_the_image_that_was_pulled_last(store: Store) -> None:
    one, one_blobs = make_image(NAME, [make_tar(BUSY)])
    two, two_blobs = make_image(NAME, [make_tar(BUSY), make_tar(EXTRA)])
    first = await pull(store, one, one_blobs)
    second = await pull(store, two, two_blobs)
    found = await store.images.find([NAME], "")
    assert found is not None
    assert found.id == second.id
    old = await store.images.find([], first.id)
    assert old is not None
    assert old.names == ()
    assert old.names_history == (NAME,)


async def test_names_are_added_and_taken(store: Store) -> None:
    image, blobs = make_image(NAME, [make_tar(BUSY)])
    stored = await pull(store, image, blobs)
    await store.images.record(replace(image, name="registry.test/busy:2"), stored.layer, 0)
    await store.images.untag(stored.id, NAME)
    await store.images.untag(stored.id, "never/had:it")
    await store.images.untag("f" * 64, NAME)
    found = await store.images.find([], stored.id)
    assert found is not None
    assert found.names == ("registry.test/busy:2",)
    assert found.names_history == ("registry.test/busy:2", NAME)


async def test_removal_keeps_what_others_need(store: Store, tmp_path: Path) -> None:
    one, one_blobs = make_image("registry.test/one:1", [make_tar(BUSY)])
    two, two_blobs = make_image("registry.test/two:1", [make_tar(BUSY), make_tar(EXTRA)])
    first = await pull(store, one, one_blobs)
    second = await pull(store, two, two_blobs)
    await store.images.remove(second.id)
    assert [r["id"] for r in lists(tmp_path, "overlay-layers/layers.json")] == [first.layer]
    assert not (tmp_path / "root/overlay" / second.layer).exists()
    assert not (tmp_path / "root/overlay-images" / second.id).exists()
    await store.images.remove(first.id)
    await store.images.remove(first.id)
    assert lists(tmp_path, "overlay-layers/layers.json") == []
    assert lists(tmp_path, "overlay-images/images.json") == []
    assert sorted(p.name for p in (tmp_path / "root/overlay").iterdir()) == [".has-mount-program", "l", "tempdirs"]
    assert list((tmp_path / "root/overlay/l").iterdir()) == []
    assert [p.name for p in (tmp_path / "root/overlay-layers").glob("*.gz")] == []
    assert leftovers(tmp_path / "root") == []


async def test_an_image_in_use_stays(store: Store) -> None:
    image, blobs = make_image(NAME, [make_tar(BUSY)])
    stored = await pull(store, image, blobs)
    await store.rootfs.create(Entry("c" * 64, ("box",), stored.id))
    assert await store.images.users(stored.id) == ("c" * 64,)
    with pytest.raises(InUse, match="c" * 64):
        await store.images.remove(stored.id)
    await store.rootfs.remove("c" * 64)
    await store.images.remove(stored.id)
    assert await store.images.all() == ()


async def test_an_image_without_layers(store: Store) -> None:
    image, _ = make_image(NAME, [])
    stored = await store.images.record(image, "", 0)
    assert (stored.layer, stored.size) == ("", len(image.config) + 2 * len(image.manifest))
    dirs = await store.rootfs.create(Entry("d" * 64, ("empty",), stored.id))
    assert os.path.isdir(dirs.persist)


async def test_an_ambiguous_prefix_is_an_error(store: Store, tmp_path: Path) -> None:
    await store.images.all()
    records = [{"id": "abc" + c * 61, "names": []} for c in "01"]
    (tmp_path / "root/overlay-images/images.json").write_text(json.dumps(records))
    with pytest.raises(Ambiguous):
        await store.images.find([], "abc")
    found = await store.images.find([], "abc0")
    assert found is not None
    assert found.id == records[0]["id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "sha256:" + "0" * 64}, "damaged"),
        ({"size": 3}, "bytes, not 3"),
        ({"diff_id": "sha256:" + "0" * 64}, "diff ID"),
    ],
)
async def test_a_layer_that_is_not_what_it_should_be(store: Store, tmp_path: Path, change: dict, message: str) -> None:
    blob = Blob.of(make_tar(BUSY))
    with pytest.raises(BadImage, match=message):
        await unpack(store, replace(blob.descriptor, **change), blob.data)
    assert leftovers(tmp_path / "root") == []


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
async def test_a_truncated_or_garbled_layer(store: Store, tmp_path: Path, cut: int) -> None:
    blob = Blob.of(make_tar(BUSY))
    with pytest.raises(BadImage):
        await unpack(store, blob.descriptor, blob.data[:cut])
    with pytest.raises(BadImage):
        await unpack(store, blob.descriptor, b"\x00\xff" * 700)
    assert leftovers(tmp_path / "root") == []


async def test_other_digest_algorithms_are_refused(store: Store) -> None:
    blob = Blob.of(make_tar(BUSY))
    with pytest.raises(Unsupported, match="sha256"):
        await unpack(store, replace(blob.descriptor, digest="sha512:" + "0" * 128), blob.data)


async def test_cancelled_unpacking_leaves_nothing(store: Store, tmp_path: Path) -> None:
    blob = Blob.of(make_tar(BUSY))
    source, sink = os.pipe()
    try:
        os.write(sink, blob.data[:50])
        task = asyncio.ensure_future(store.layers.unpack(blob.descriptor, source))
        # The stream never ends: wait until extraction has begun, then give up.
        while not list((tmp_path / "root/overlay-layers/tmp").glob("temp-dir-*/tar-split.gz")):
            await asyncio.wait([task], timeout=0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        os.close(source)
        os.close(sink)
    assert leftovers(tmp_path / "root") == []


async def test_commit_of_a_layer_that_is_there_drops_the_copy(store: Store, tmp_path: Path) -> None:
    blob = Blob.of(make_tar(BUSY))
    one = await unpack(store, blob.descriptor, blob.data)
    two = await unpack(store, blob.descriptor, blob.data)
    three = await unpack(store, blob.descriptor, blob.data)
    ident = blob.descriptor.diff_id[7:]
    await asyncio.gather(store.layers.commit(one, ident, ""), store.layers.commit(two, ident, ""))
    assert len(lists(tmp_path, "overlay-layers/layers.json")) == 1
    assert leftovers(tmp_path / "root") != []  # the third one is still staged
    await store.layers.discard(three)
    await store.layers.discard(three)
    with pytest.raises(NotFound):
        await store.layers.commit(three, ident, "")
    assert leftovers(tmp_path / "root") == []


async def test_commit_above_a_layer_that_went_away(store: Store, tmp_path: Path) -> None:
    blob = Blob.of(make_tar(BUSY))
    layer = await unpack(store, blob.descriptor, blob.data)
    with pytest.raises(Overtaken, match="removed while"):
        await store.layers.commit(layer, "1" * 64, "2" * 64)
    assert leftovers(tmp_path / "root") == []
    assert await store.layers.present(["1" * 64]) == frozenset()


async def test_record_needs_its_layer_and_no_other(store: Store) -> None:
    image, blobs = make_image(NAME, [make_tar(BUSY)])
    with pytest.raises(Overtaken, match="removed while"):
        await store.images.record(image, "3" * 64, 0)
    await pull(store, image, blobs)
    other, more = make_image("registry.test/x:1", [make_tar(EXTRA)])
    stored = await pull(store, other, more)
    with pytest.raises(StoreFailure, match="instead of"):
        await store.images.record(image, stored.layer, 0)


async def test_disk_use(store: Store, tmp_path: Path) -> None:
    image, blobs = make_image(NAME, [make_tar(EXTRA)])
    stored = await pull(store, image, blobs)
    await store.rootfs.create(Entry("c" * 64, ("box",), stored.id))
    images, containers = await store.images.disk_use()
    assert images.mountpoint == containers.mountpoint == str(tmp_path / "root/overlay-images")
    assert images.used_bytes > len(make_tar(EXTRA))
    assert images.inodes_used > len(EXTRA)
    assert containers.used_bytes >= 0
    assert containers.inodes_used >= 3
    assert images.timestamp > 1_700_000_000_000_000_000


async def test_lists_of_others_are_seen_at_once(store: Store, kernel: FakeKernel) -> None:
    assert await store.images.all() == ()
    other = Store(store.settings, kernel)
    image, blobs = make_image(NAME, [make_tar(BUSY)])
    stored = await pull(other, image, blobs)
    assert [i.id for i in await store.images.all()] == [stored.id]
    assert await store.layers.present([stored.layer]) == {stored.layer}
    await other.images.remove(stored.id)
    await other.close()
    assert await store.images.all() == ()


async def test_a_damaged_list_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "root/overlay-images/images.json").write_text('[{"names": 3')
    with pytest.raises(StoreFailure, match=r"images\.json"):
        await store.images.all()


async def test_unknown_fields_of_others_survive(store: Store, tmp_path: Path) -> None:
    image, blobs = make_image(NAME, [make_tar(BUSY)])
    stored = await pull(store, image, blobs)
    path = tmp_path / "root/overlay-images/images.json"
    records = json.loads(path.read_bytes())
    records[0]["future"] = {"a": [1]}
    path.write_text(json.dumps(records))
    await store.images.untag(stored.id, NAME)
    assert json.loads(path.read_bytes())[0]["future"] == {"a": [1]}
