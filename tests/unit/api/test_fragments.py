"""Lists from kept fragments are the lists that protobuf itself would write."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from pycrio.api import fragments
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.fragments import Fragments


@dataclasses.dataclass(frozen=True)
class Record:
    id: str
    name: str = ""


def encode(record: Record) -> pb.PodSandbox:
    return pb.PodSandbox(id=record.id, metadata=pb.PodSandboxMetadata(name=record.name))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=400), max_size=6))
def test_join_is_what_protobuf_writes(names: list[str]) -> None:
    records = [Record(str(i), name) for i, name in enumerate(names)]
    whole = pb.ListPodSandboxResponse(items=[encode(r) for r in records]).SerializeToString()
    assert Fragments(encode).join(records) == whole
    assert fragments.join([encode(r) for r in records]) == whole


def test_long_items_have_long_lengths() -> None:
    for size in (0, 1, 127, 128, 16383, 16384, 3_000_000):
        message = pb.PodSandbox(id="x" * size)
        parsed = pb.ListPodSandboxResponse.FromString(fragments.fragment(message))
        assert list(parsed.items) == [message]


def test_an_item_of_another_field() -> None:
    message = pb.ContainerStatus(id="x" * 300)
    number = pb.PodSandboxStatusResponse.CONTAINERS_STATUSES_FIELD_NUMBER
    parsed = pb.PodSandboxStatusResponse.FromString(fragments.numbered(number, fragments.fragment(message)) * 2)
    assert parsed == pb.PodSandboxStatusResponse(containers_statuses=[message, message])


def test_a_fragment_is_made_once_per_record() -> None:
    made: list[Record] = []

    def counting(record: Record) -> pb.PodSandbox:
        made.append(record)
        return encode(record)

    cache = Fragments(counting)
    first, second = Record("a", "1"), Record("b")
    cache.join([first, second])
    cache.join([second, first])
    assert made == [first, second]
    changed = Record("a", "2")
    assert b"2" in cache.join([changed])
    assert made == [first, second, changed]
    cache.join([changed, second])
    assert len(made) == 3


def test_what_left_the_lists_is_forgotten() -> None:
    cache = Fragments(encode)
    for round_ in range(5):
        cache.join([Record(f"{round_}-{i}") for i in range(600)])
    assert len(cache._kept) <= 1800
    cache.join([Record(f"x{i}") for i in range(1100)])
    assert len(cache._kept) == 1100


def test_what_was_replaced_or_removed_is_forgotten() -> None:
    cache = Fragments(encode)
    first, other = Record("1"), Record("2")
    cache.join([first, other])
    cache.changed(first, Record("1"))
    cache.changed(None, Record("3"))
    assert list(cache._kept) == ["2"]
    cache.changed(other, None)
    cache.changed(other, None)
    assert not cache._kept


def test_pieces() -> None:
    records = [Record(str(i)) for i in range(2 * fragments.CHUNK + 1)]
    parsed = [pb.StreamPodSandboxesResponse.FromString(p) for p in Fragments(encode).pieces(records)]
    assert [len(p.pod_sandboxes) for p in parsed] == [fragments.CHUNK, fragments.CHUNK, 1]
    assert [s.id for p in parsed for s in p.pod_sandboxes] == [r.id for r in records]
    assert list(Fragments(encode).pieces([])) == []
    assert [len(p) > 0 for p in fragments.pieces([encode(r) for r in records])] == [True, True, True]
