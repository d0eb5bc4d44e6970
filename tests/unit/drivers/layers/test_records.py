"""Records as JSON: what is written, what is read, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.layers.files import data_file
from pycrio.drivers.layers.records import (
    ZERO_TIME,
    BadRecord,
    ContainerRecord,
    ImageRecord,
    LayerRecord,
    MountRecord,
    decode_list,
    format_time,
    is_id,
    parse_time,
)
from pycrio.model.security import IdMapping

names = st.lists(st.text(min_size=1), max_size=3).map(tuple)
maps = st.lists(st.builds(IdMapping, *[st.integers(0, 2**32 - 1)] * 3), max_size=2).map(tuple)
layers = st.builds(
    LayerRecord,
    id=st.text(min_size=1),
    names=names,
    parent=st.text(),
    compressed_digest=st.text(),
    compressed_size=st.integers(-1, 2**62),
    diff_size=st.integers(-1, 2**62),
    compression=st.integers(0, 4),
    uidset=st.lists(st.integers(0, 2**32 - 1)).map(tuple),
    uidmap=maps,
    flags=st.dictionaries(st.text(), st.booleans()),
    extra=st.dictionaries(st.text(min_size=1).map("x-{}".format), st.integers()),
)


@given(layers)
def test_what_is_written_is_read_back(record: LayerRecord) -> None:
    assert LayerRecord.decode(json.loads(record.encode())) == record


def test_empty_fields_are_left_out() -> None:
    assert json.loads(LayerRecord(id="a").encode()) == {"id": "a"}
    assert json.loads(ContainerRecord(id="a").encode()) == {"id": "a", "image": "", "layer": ""}
    assert json.loads(MountRecord(id="a").encode()) == {"id": "a", "path": "", "count": 0}


def test_keys_are_those_of_the_format() -> None:
    layer = LayerRecord(
        "a", ("n",), "t", {}, "p", "m", "l", "c", 1, "d", 2, "toc", 3, (0,), (1,), {"f": 1}, (),
        (IdMapping(0, 1, 2),), ("k",),
    )  # fmt: skip
    assert list(json.loads(layer.encode())) == [
        "id", "names", "created", "parent", "metadata", "mountlabel", "compressed-diff-digest", "compressed-size",
        "diff-digest", "diff-size", "toc-digest", "compression", "uidset", "gidset", "flags", "gidmap",
        "big-data-names",
    ]  # fmt: skip
    assert json.loads(layer.encode())["gidmap"] == [{"container_id": 0, "host_id": 1, "size": 2}]
    image = ImageRecord("i", ("n",), "t", {}, "d", ("h",), "l", ("m",), "{}", ("k",), {"k": 1}, {"k": "d"}, {"f": 1})
    assert set(json.loads(image.encode())) == {
        "id", "names", "created", "digest", "names-history", "layer", "mapped-layers", "metadata", "big-data-names",
        "big-data-sizes", "big-data-digests", "flags",
    }  # fmt: skip


def test_digests_of_an_image() -> None:
    digests = {"manifest": "m", "manifest-x": "x", "sha256:c": "c", "manifest-m": "m"}
    assert ImageRecord(id="i", digest="m", data_digests=digests).digests == ("m", "x")
    assert ImageRecord(id="i").digests == ()


@pytest.mark.parametrize(
    "text",
    [
        b"{", b"3", b'"x"', b"[3]", b"[{}]", b'[{"id":3}]', b'[{"id":""}]', b'[{"id":"a","names":"b"}]',
        b'[{"id":"a","names":[1]}]', b'[{"id":"a","uidmap":[{"host_id":1}]}]', b'[{"id":"a","flags":[]}]',
        b'[{"id":"a","diff-size":"1"}]', b'[{"id":"a","uidset":["0"]}]', b'[{"id":"a","uidmap":3}]',
    ],
)  # fmt: skip
def test_damaged_lists_are_refused(text: bytes) -> None:
    with pytest.raises(BadRecord):
        decode_list(LayerRecord, text)


@pytest.mark.parametrize("text", [b"", b" \n", b"[]", b"null"])
def test_empty_lists(text: bytes) -> None:
    assert decode_list(LayerRecord, text) == []


def test_null_fields_are_absent_ones() -> None:
    assert decode_list(LayerRecord, b'[{"id":"a","names":null}]') == [LayerRecord(id="a")]


def test_flags() -> None:
    assert LayerRecord(id="a", flags={"incomplete": True}).incomplete
    assert not LayerRecord(id="a").incomplete
    assert ContainerRecord(id="a", flags={"Volatile": True}).volatile
    assert not replace(ContainerRecord(id="a"), flags={"Volatile": False}).volatile


@given(st.integers(0, 250_000_000_000 * 10**9))
def test_times_survive(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns


def test_times_of_others() -> None:
    assert format_time(1_714_979_289_120_000_000) == "2024-05-06T07:08:09.12Z"
    assert parse_time("2024-05-06T09:08:09.12+02:00") == 1_714_979_289_120_000_000
    for text in (ZERO_TIME, "", "yesterday", "1969-01-01T00:00:00Z", "2024-13-06T07:08:09Z"):
        assert parse_time(text) == 0


def test_ids() -> None:
    assert is_id("0123456789abcdef" * 4)
    for text in ("", "0" * 63, "0" * 65, "G" + "0" * 63, "A" * 64, "0" * 64 + "\n"):
        assert not is_id(text)


def test_names_of_data_files() -> None:
    assert data_file("manifest") == "manifest"
    assert data_file("a.0z") == "a.0z"
    assert data_file("manifest-sha256:ab") == "=bWFuaWZlc3Qtc2hhMjU2OmFi"
    assert data_file("Upper") == "=VXBwZXI="
