"""Records survive a round trip whatever they hold, an upgrade and a downgrade; damage is told, never guessed at."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycrio.errors import StoreFailure
from pycrio.model.container import ContainerRecord
from pycrio.model.pod import PodRecord
from pycrio.state import records

# What a CRI message can hold, and paths, which may have been decoded with surrogates.
TEXT = st.text(max_size=12) | st.just("/caf\udcc3")
st.register_type_strategy(str, TEXT)
st.register_type_strategy(int, st.integers(-(1 << 63), (1 << 64) - 1))
POD, CONTAINER = st.from_type(PodRecord), st.from_type(ContainerRecord)
relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(record=POD)
def test_pods_there_and_back(record: PodRecord) -> None:
    assert records.decode("pod", records.encode("pod", record)) == record


@relaxed
@given(record=CONTAINER)
def test_containers_there_and_back(record: ContainerRecord) -> None:
    assert records.decode("container", records.encode("container", record)) == record


def body(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)["record"]
    return found


@relaxed
@given(record=CONTAINER)
def test_fields_of_a_newer_version_are_passed_over(record: ContainerRecord) -> None:
    document = json.loads(records.encode("container", record))

    def add(value: Any) -> None:
        if isinstance(value, dict) and "b64" not in value:
            for inner in list(value.values()):
                add(inner)
        elif isinstance(value, list):
            for inner in value:
                add(inner)

    document["record"]["from_the_future"] = {"a": [1]}
    document["record"]["config"]["metadata"]["later"] = 1
    add(document)
    assert records.decode("container", json.dumps(document).encode()) == record


@relaxed
@given(record=POD)
def test_fields_of_an_older_version_take_their_defaults(record: PodRecord) -> None:
    document = json.loads(records.encode("pod", record))
    optional = [
        f
        for f in dataclasses.fields(PodRecord)
        if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
    ]
    for f in optional:
        document["record"].pop(f.name, None)
    found = records.decode("pod", json.dumps(document).encode())
    for f in optional:
        wanted = f.default if f.default is not dataclasses.MISSING else f.default_factory()  # type: ignore[misc]
        assert getattr(found, f.name) == wanted
    assert (found.id, found.name, found.config) == (record.id, record.name, record.config)


@relaxed
@given(record=POD)
def test_defaults_take_no_room(record: PodRecord) -> None:
    kept = body(records.encode("pod", record))
    assert "stopped_at" not in body(records.encode("pod", dataclasses.replace(record, stopped_at=0)))
    assert kept["id"] == record.id


SIMPLE = records.encode("pod", PodRecord("a" * 64, "n", *[None] * 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"version":1,"kind":"container","record":{}}',
        b'{"version":1,"kind":"pod"}',
        b'{"version":1,"kind":"pod","record":[]}',
        b'{"version":"x","kind":"pod","record":{}}',
        b'{"version":1,"kind":"pod","record":{"id":5}}',
        b'{"version":1,"kind":"pod","record":{"id":"a"}}',
        b"\xff\xfe",
        SIMPLE,
    ],
)
def test_damage_is_told(text: bytes) -> None:
    with pytest.raises(StoreFailure, match="pod record is unreadable"):
        records.decode("pod", text)


@given(text=st.binary(max_size=100))
def test_any_bytes_are_damage(text: bytes) -> None:
    with pytest.raises(StoreFailure):
        records.decode("container", text)


@relaxed
@given(record=CONTAINER, data=st.data())
def test_a_value_of_another_type_is_damage_or_fits(record: ContainerRecord, data: st.DataObject) -> None:
    """Whatever a broken disk or a person's edit leaves: never another failure than StoreFailure."""
    document = json.loads(records.encode("container", record))
    key = data.draw(st.sampled_from(sorted(document["record"])))
    document["record"][key] = data.draw(st.sampled_from([None, 5, "x", [], {}, [[]], {"b64": "!"}, True, 1.5]))
    try:
        found = records.decode("container", json.dumps(document).encode())
    except StoreFailure:
        return
    assert isinstance(found, ContainerRecord)


def test_versions_are_brought_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "VERSION", 3)
    monkeypatch.setattr(
        records,
        "_UPGRADES",
        {
            1: lambda kind, body: {**body, "name": body["name"] + "-2"},
            2: lambda kind, body: {**body, "name": body["name"] + "-3"},
        },
    )
    config = {"metadata": {"name": "p", "uid": "u", "namespace": "ns"}}
    base = {
        "id": "a",
        "name": "n",
        "config": config,
        "handler": "",
        "requested_handler": "",
        "created_at": 1,
        "run_dir": "/",
    }
    old = json.dumps({"version": 1, "kind": "pod", "record": base}).encode()
    assert records.decode("pod", old).name == "n-2-3"
    newer = json.dumps({"version": 4, "kind": "pod", "record": base}).encode()
    with pytest.raises(records.NewerRecord, match="has version 4, this pycrio knows 3 and older"):
        records.decode("pod", newer)
    unknown = json.dumps({"version": 0, "kind": "pod", "record": base}).encode()
    with pytest.raises(StoreFailure, match="unreadable"):
        records.decode("pod", unknown)


class Colour(enum.Enum):
    RED = 0


def test_values_of_every_kind() -> None:
    assert records.plain((Colour.RED, b"\xff", None, 1.5)) == ["RED", {"b64": "/w=="}, None, 1.5]
    assert records.typed(tuple[Colour, int], ["RED", 1]) == (Colour.RED, 1)
    for kind, value in ((bool, 1), (int, True), (int, "1"), (str, 1), (tuple[int, int], [1]), (Colour, "BLUE")):
        with pytest.raises((TypeError, ValueError, KeyError)):
            records.typed(kind, value)
