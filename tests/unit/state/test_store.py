"""Tables against a model, and on disks that refuse."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pycrio.errors import AlreadyExists, Ambiguous, NotFound, StoreFailure
from pycrio.model.pod import PodConfig, PodMetadata, PodRecord
from pycrio.state.files import Directory
from pycrio.state.names import Names
from pycrio.state.records import NewerRecord
from pycrio.state.store import Table, selected

META = PodMetadata("p", "u", "ns")


def pod(ident: str, name: str = "", **labels: str) -> PodRecord:
    return PodRecord(ident, name or f"name-{ident}", PodConfig(META, labels=labels), "runc", "", 1, "/run/x")


def table(path: pathlib.Path | str) -> Table[PodRecord]:
    return Table("pod", str(path), "pod sandbox")


@pytest.fixture
def pods(tmp_path: pathlib.Path) -> Table[PodRecord]:
    return table(tmp_path / "pods")


def test_by_id_prefix_and_name(pods: Table[PodRecord]) -> None:
    for ident in ("aaa", "aab", "b"):
        pods.put(pod(ident))
    assert pods.get("aaa").id == "aaa"
    assert pods.get("b").id == "b"
    assert pods.resolve("aaa") is not None
    assert pods.resolve("c") is None
    assert pods.resolve("") is None
    assert pods.resolve("aaaa") is None
    assert pods.by_name("name-b") is pods.get("b")
    assert pods.by_name("x") is None
    with pytest.raises(Ambiguous, match="'aa' is ambiguous"):
        pods.resolve("aa")
    with pytest.raises(NotFound, match="pod sandbox 'c' not found"):
        pods.get("c")
    assert len(pods) == 3
    assert "aaa" in pods
    assert "aa" not in pods


def test_an_id_that_begins_another(pods: Table[PodRecord]) -> None:
    pods.put(pod("aa"))
    pods.put(pod("aab"))
    assert pods.get("aa").id == "aa"
    assert pods.get("aab").id == "aab"


def test_a_record_under_another_name(pods: Table[PodRecord]) -> None:
    pods.put(pod("a", "old"))
    pods.put(pod("a", "new"))
    assert pods.by_name("new") is not None
    assert pods.by_name("old") is None
    pods.remove("a")
    assert pods.by_name("new") is None


def test_listeners_hear_after_the_disk_knows(pods: Table[PodRecord], tmp_path: pathlib.Path) -> None:
    heard: list[tuple[str | None, str | None, bool]] = []

    def listen(old: PodRecord | None, new: PodRecord | None) -> None:
        heard.append((old and old.handler, new and new.handler, (tmp_path / "pods/a.json").exists()))

    pods.listen(listen)
    pods.put(pod("a"))
    pods.put(dataclasses.replace(pod("a"), handler="crun"))
    pods.remove("a")
    pods.remove("a")
    assert heard == [(None, "runc", True), ("runc", "crun", True), ("crun", None, False)]


def test_a_disk_that_refuses_changes_nothing(
    pods: Table[PodRecord], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.put(pod("a", "first"))
    heard: list[object] = []
    pods.listen(lambda old, new: heard.append(new))

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreFailure, match=r"record of pod sandbox a cannot be written .*No space left"):
            pods.put(pod("a", "second"))
    assert pods.get("a").name == "first"
    assert not heard
    assert os.listdir(tmp_path / "pods") == ["a.json"]
    again = table(tmp_path / "pods")
    assert again.load() == []
    assert again.get("a").name == "first"


def test_what_cannot_be_read_is_told_and_stays_until_forgotten(tmp_path: pathlib.Path) -> None:
    first = table(tmp_path)
    first.put(pod("good"))
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "half.json.tmp").write_text("{")
    (tmp_path / "README").write_text("not ours")
    again = table(tmp_path)
    ((ident, failure),) = again.load()
    assert ident == "bad"
    assert "unreadable" in str(failure)
    assert [p.id for p in again] == ["good"]
    assert sorted(os.listdir(tmp_path)) == ["README", "bad.json", "good.json"]
    again.forget("bad")
    assert table(tmp_path).load() == []


def test_a_record_of_a_later_version_stops_everything(tmp_path: pathlib.Path) -> None:
    """Forgetting it would have its pod removed as garbage; reading it would be guessing."""
    table(tmp_path).put(pod("a"))
    path = tmp_path / "a.json"
    text = path.read_text().replace('"version":1', '"version":2')
    path.write_text(text)
    with pytest.raises(NewerRecord, match=rf"pod sandbox a cannot be taken over.*version 2.*or delete {path}"):
        table(tmp_path).load()
    assert path.read_text() == text


def test_records_are_for_root_alone(pods: Table[PodRecord], tmp_path: pathlib.Path) -> None:
    pods.put(pod("a"))
    assert (tmp_path / "pods").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "pods/a.json").stat().st_mode & 0o777 == 0o600


def test_changes_while_going_through(pods: Table[PodRecord]) -> None:
    for ident in "abc":
        pods.put(pod(ident))
    for found in pods:
        pods.remove(found.id)
    assert len(pods) == 0


def test_selection_by_labels() -> None:
    found = [pod("a", x="1"), pod("b", x="1", y="2"), pod("c")]
    assert [p.id for p in selected(found, {})] == ["a", "b", "c"]
    assert [p.id for p in selected(found, {"x": "1"})] == ["a", "b"]
    assert [p.id for p in selected(found, {"x": "1", "y": "2"})] == ["b"]
    assert selected(found, {"x": "2"}) == []


def test_a_written_file_is_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short writes of the kernel are gone on with."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    directory = Directory(str(tmp_path / "d"))
    directory.write("x", b"0123456789")
    assert dict(directory) == {"x": b"0123456789"}
    directory.delete("x")
    directory.delete("x")
    assert dict(directory) == {}


class Tables(RuleBasedStateMachine):
    """A table and a dictionary under the same changes; now and then the table is read anew from disk."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.table = table(self.directory.name)
        self.model: dict[str, PodRecord] = {}

    idents = st.text(alphabet="ab", min_size=1, max_size=3)

    @rule(ident=idents, handler=st.sampled_from(("runc", "crun")))
    def put(self, ident: str, handler: str) -> None:
        record = dataclasses.replace(pod(ident), handler=handler)
        self.table.put(record)
        self.model[ident] = record

    @rule(ident=idents)
    def remove(self, ident: str) -> None:
        self.table.remove(ident)
        self.model.pop(ident, None)

    @precondition(lambda self: self.model)
    @rule()
    def restart(self) -> None:
        self.table = table(self.directory.name)
        assert self.table.load() == []

    @rule(prefix=idents)
    def look(self, prefix: str) -> None:
        fitting = [i for i in self.model if i.startswith(prefix)]
        if prefix in self.model or len(fitting) == 1:
            wanted = prefix if prefix in self.model else fitting[0]
            assert self.table.resolve(prefix) == self.model[wanted]
        elif fitting:
            with pytest.raises(Ambiguous):
                self.table.resolve(prefix)
        else:
            assert self.table.resolve(prefix) is None

    @invariant()
    def same(self) -> None:
        assert {p.id: p for p in self.table} == self.model
        assert all(self.table.by_name(p.name) == p for p in self.model.values())

    def teardown(self) -> None:
        self.directory.cleanup()


Tables.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestTables = Tables.TestCase


def test_names_have_one_owner() -> None:
    names = Names()
    names.reserve("n", "a")
    names.reserve("n", "a")
    with pytest.raises(AlreadyExists, match="'n' is taken by a"):
        names.reserve("n", "b")
    names.release("n", "b")
    assert names.owner("n") == "a"
    names.release("n", "a")
    assert names.owner("n") is None
    names.reserve("n", "b")
