"""Signature blobs of image records, ours and those of other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pycrio.drivers.layers.files import data_file
from pycrio.drivers.layers.images import _divided
from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import digest, make_image, make_tar, pull

NAME = "registry.test/signed:1"


async def test_signatures_come_back_one_by_one(store: Store) -> None:
    image, blobs = make_image(NAME, [make_tar({"a": b"a"})])
    stored = await pull(store, replace(image, signatures=(b"ab", b"\0sigstore-json\n{}", b"c")), blobs)
    assert await store.images.signatures(stored.id) == (b"ab", b"\0sigstore-json\n{}", b"c")
    await store.images.record(image, stored.layer, 0)
    assert await store.images.signatures(stored.id) == ()
    assert await store.images.signatures("0" * 64) == ()


async def test_damaged_metadata_gives_no_signatures(store: Store, tmp_path: Path) -> None:
    image, blobs = make_image(NAME, [make_tar({"a": b"a"})])
    stored = await pull(store, replace(image, signatures=(b"ab", b"c")), blobs)
    directory = tmp_path / "root/overlay-images" / stored.id
    (directory / "signatures").write_bytes(b"abcd")
    assert await store.images.signatures(stored.id) == (b"ab", b"c")  # those for the main manifest are there twice
    (directory / data_file(f"signature-{image.manifest_digest[7:]}")).write_bytes(b"abcd")
    assert await store.images.signatures(stored.id) == ()


async def test_those_of_the_index_are_kept_with_it(store: Store) -> None:
    image, blobs = make_image(NAME, [make_tar({"a": b"a"})])
    index = b'{"manifests":[]}'
    signed = replace(image, index=index, index_digest=digest(index), index_signatures=(b"of", b"the index"))
    stored = await pull(store, signed, blobs)
    assert await store.images.signatures(stored.id) == (b"of", b"the index")
    await store.images.record(replace(signed, signatures=(b"own",)), stored.layer, 0)
    assert await store.images.signatures(stored.id) == (b"own", b"of", b"the index")
    await store.images.record(replace(signed, index_signatures=(b"other",)), stored.layer, 0)
    assert await store.images.signatures(stored.id) == (b"other",)


@pytest.mark.parametrize(
    ("sizes", "pieces"),
    [
        ([1, 2], [b"a", b"bc"]),
        ([3], [b"abc"]),
        ([0, 3], [b"", b"abc"]),
        ([], []),
        ([1], []),
        ([4, -1], []),
        (["3"], []),
        ([True, 2], []),
        (None, []),
        (json.loads("3"), []),
    ],
)
def test_division(sizes: object, pieces: list[bytes]) -> None:
    assert _divided(b"abc", sizes) == pieces
