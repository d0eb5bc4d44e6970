"""Layers between their commit and their image: given back when the pull fails, found when it was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pycrio.drivers.layers.claims import Claims
from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import BUSY, EXTRA, FakeKernel, make_image, make_tar, pull, settings, unpack

NAME = "registry.test/lab/two:1"
A, B = "a" * 64, "b" * 64


def waiting(path: Path) -> list[str]:
    """Claims on disk."""
    return sorted(line for file in path.iterdir() for line in file.read_text().split())


def test_claims_of_the_living_are_left_alone(tmp_path: Path) -> None:
    ours, other = Claims(str(tmp_path / "c")), Claims(str(tmp_path / "c"))
    ours.add(A, "one")
    with other.abandoned() as found:
        assert found == frozenset()
    ours.close()  # as the end of its process does
    with pytest.raises(KeyError), other.abandoned() as found:
        raise KeyError  # whoever looks after them fails: the next one finds them again
    with other.abandoned() as found:
        assert found == {A}
    with other.abandoned() as found:
        assert found == frozenset()


def test_dropped_claims_leave_no_trace(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path))
    claims.add(A, "one")
    claims.add(B, "one")
    claims.drop([A])
    assert waiting(tmp_path) == [A, B]  # harmless: a layer that is needed stays whatever the file says
    claims.drop([B])
    assert waiting(tmp_path) == []
    claims.close()
    assert os.listdir(tmp_path) == []


def test_what_a_pull_counts_on_is_not_doomed(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path))
    claims.add(A, "pull")
    assert claims.doom([A, B]) == {B}
    assert claims.give_up("pull") == {A, B}
    assert claims.doom([A]) == {A}
    claims.add(A, "another pull")
    assert claims.give_up("none") == {B}
    claims.close()


async def test_a_pull_that_fails_after_its_commits_leaves_nothing(store: Store, tmp_path: Path) -> None:
    await pull(store, *make_image("registry.test/lab/one:1", [make_tar(BUSY)]))
    image, blobs = make_image(NAME, [make_tar(BUSY), make_tar(EXTRA), make_tar({"more": b"1"})])
    ids = store.layers.chain_ids([b.descriptor.diff_id for b in blobs])
    staged = [await unpack(store, b.descriptor, b.data) for b in blobs[1:]]
    for number, layer in enumerate(staged, 1):
        await store.layers.commit(layer, ids[number], ids[number - 1])
    assert await store.layers.present(ids) == set(ids)
    for layer in staged:  # the lower one first: it goes when the one above it does
        await store.layers.discard(layer)
    assert await store.layers.present(ids) == {ids[0]}
    assert waiting(tmp_path / "root/.pycrio-claims") == []
    stored = await pull(store, image, blobs)
    for layer in staged:
        await store.layers.discard(layer)  # of a pull that is over: nothing
    assert await store.layers.present(ids) == set(ids)
    await store.images.remove(stored.id)
    assert await store.layers.present(ids) == {ids[0]}


async def test_layers_of_a_killed_pull_go_unless_somebody_needs_them(store: Store, tmp_path: Path) -> None:
    _, blobs = make_image(NAME, [make_tar(BUSY), make_tar(EXTRA)])
    ids = store.layers.chain_ids([b.descriptor.diff_id for b in blobs])
    for number, blob in enumerate(blobs):
        layer = await unpack(store, blob.descriptor, blob.data)
        await store.layers.commit(layer, ids[number], ids[number - 1] if number else "")
    assert await store.layers.garbage() == 0  # its pull goes on
    store._index.claims.close()
    again = Store(settings(tmp_path), FakeKernel())
    base, _ = make_image("registry.test/lab/base:1", [make_tar(BUSY)])
    await again.images.record(base, ids[0], 0)  # found a use for one of them
    assert await again.open() == 1
    assert await again.layers.present(ids) == {ids[0]}
    await again.close()
