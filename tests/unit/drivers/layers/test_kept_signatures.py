"""Signature blobs of image records, ours and those of other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pycrio.drivers.layers.images import _divided
from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import make_image, make_tar, pull

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
    (path,) = (tmp_path / "root/overlay-images" / stored.id).glob("signatures")
    path.write_bytes(b"abcd")
    assert await store.images.signatures(stored.id) == ()


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
