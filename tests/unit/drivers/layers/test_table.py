"""Lists of records: reading without locks, transactions, what others write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pycrio.drivers.layers.locks import LockFile, LockSet
from pycrio.drivers.layers.records import LayerRecord
from pycrio.drivers.layers.table import File, Table
from pycrio.errors import Ambiguous, StoreFailure


def table(tmp_path: Path) -> Table[LayerRecord]:
    files = [File(str(tmp_path / "layers.json")), File(str(tmp_path / "volatile.json"), durable=False)]
    return Table("layer", LayerRecord, files, LockSet([LockFile(str(tmp_path / "layers.lock"))]))


def test_only_changed_files_are_written(tmp_path: Path) -> None:
    layers = table(tmp_path)
    with layers.edit() as edit:
        edit.put(LayerRecord(id="a", names=("one",)))
        edit.save()
        assert not (tmp_path / "volatile.json").exists()
        edit.put(LayerRecord(id="b"), 1)
        before = os.stat(tmp_path / "layers.json").st_ino
        edit.save()
        edit.save()
        assert os.stat(tmp_path / "layers.json").st_ino == before
    assert json.loads((tmp_path / "volatile.json").read_bytes()) == [{"id": "b"}]
    assert os.stat(tmp_path / "layers.json").st_mode & 0o777 == 0o600
    rows = layers.rows()
    assert rows.named("one") == LayerRecord(id="a", names=("one",))
    assert rows.named("two") is None
    with layers.edit() as edit:
        edit.put(LayerRecord(id="b", parent="a"))  # stays where it is
        edit.drop("a")
        edit.drop("never")
        edit.save()
    assert json.loads((tmp_path / "layers.json").read_bytes()) == []
    assert json.loads((tmp_path / "volatile.json").read_bytes()) == [{"id": "b", "parent": "a"}]
    layers.close()


def test_nothing_is_written_without_save(tmp_path: Path) -> None:
    layers = table(tmp_path)
    with layers.edit() as edit:
        edit.put(LayerRecord(id="a"))
    assert not (tmp_path / "layers.json").exists()
    assert layers.rows().by_id == {}
    layers.close()


def test_loaded_rows_serve_until_somebody_writes(tmp_path: Path) -> None:
    one, two = table(tmp_path), table(tmp_path)
    assert one.fresh() is None
    rows = one.rows()
    assert one.fresh() is rows
    assert one.rows() is rows
    with two.edit() as edit:
        edit.put(LayerRecord(id="a"))
        edit.save()
    assert one.fresh() is None
    assert list(one.rows().by_id) == ["a"]
    assert two.fresh() is not None
    # a writer between its token and its file: the old list is right for now, the new one is seen when it is there
    two.locks.touch()
    assert list(one.rows().by_id) == ["a"]
    kept = one.fresh()
    assert kept is not None
    (tmp_path / "layers.new").write_text('[{"id":"a"},{"id":"c"}]')
    os.rename(tmp_path / "layers.new", tmp_path / "layers.json")
    assert one.fresh() is None
    assert list(one.rows().by_id) == ["a", "c"]
    one.close()
    two.close()


def test_a_transaction_starts_from_what_others_wrote(tmp_path: Path) -> None:
    one, two = table(tmp_path), table(tmp_path)
    one.rows()
    for number, each in enumerate((one, two, one, two)):
        with each.edit() as edit:
            edit.put(LayerRecord(id=f"{number}"))
            edit.save()
    assert list(one.rows().by_id) == ["0", "1", "2", "3"]
    one.close()
    two.close()


def test_prefixes(tmp_path: Path) -> None:
    layers = table(tmp_path)
    with layers.edit() as edit:
        for ident in ("abc", "abd", "b", "bb"):
            edit.put(LayerRecord(id=ident))
        rows = edit.rows
    assert [getattr(rows.prefix(p), "id", None) for p in ("abc", "b", "bb", "abd", "c", "")] == [
        "abc", "b", "bb", "abd", None, None,
    ]  # fmt: skip
    with pytest.raises(Ambiguous, match="'ab'"):
        rows.prefix("ab")
    layers.close()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    layers = table(tmp_path)
    (tmp_path / "volatile.json").write_text("[")
    with pytest.raises(StoreFailure, match=r"volatile\.json.*not JSON"):
        layers.rows()
    layers.close()


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = table(tmp_path)
    with layers.edit() as edit:
        edit.put(LayerRecord(id="a"))
        edit.save()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with layers.edit() as edit:
            edit.put(LayerRecord(id="b"))
            with pytest.raises(OSError, match="No space"):
                edit.save()
    assert list(layers.rows().by_id) == ["a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layers.json", "layers.lock"]
    layers.close()
