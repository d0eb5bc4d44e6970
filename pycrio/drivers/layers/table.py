"""A list of records under lock files: read without locks, changed in transactions.

**Why reading needs no lock.** A writer first stores a new token in the lock file, then replaces the JSON files by
rename, both under the write lock. A reader that looks at the token and at the identity (inode, size, modification
time) of the JSON files *before* it reads them holds a state that was current at that moment: equal token and equal
identities later mean that no file was replaced since. When a writer is between the two steps, the reader sees the
old files under the new token; the next look finds other identities and reads again. So nobody's list call waits for a
podman that holds ``layers.lock`` while it extracts a layer, and a look costs a pread and two or three stats.

Two files of one list may be seen from two moments. Nothing depends on their agreement: a record lives in one of them.

Transactions hold the write locks, so the state that they start from is current when they save.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pycrio.drivers.layers.files import make_dir, write_atomic
from pycrio.drivers.layers.locks import LockSet
from pycrio.drivers.layers.records import BadRecord, Record, decode_list
from pycrio.errors import Ambiguous, StoreFailure

R = TypeVar("R", bound=Record)
T = TypeVar("T")
Identity = tuple[int, int, int]
_ABSENT: Identity = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class File:
    """One JSON file of a list; ``durable``: synced to disk when written."""

    path: str
    durable: bool = True


class Rows(Generic[R]):
    """The records at one moment, never changed. ``place`` tells in which file each one is."""

    __slots__ = ("_derived", "_sorted", "by_id", "kind", "place")

    def __init__(self, kind: str, by_id: Mapping[str, R], place: Mapping[str, int]) -> None:
        self.kind = kind
        self.by_id = by_id
        self.place = place
        self._sorted: list[str] | None = None
        self._derived: dict[Callable[[Any], object], object] = {}

    def derive(self, function: Callable[[Rows[R]], T]) -> T:
        """``function(self)``, computed once for these rows (indexes)."""
        if function not in self._derived:
            self._derived[function] = function(self)
        return self._derived[function]  # type: ignore[return-value]

    def named(self, name: str) -> R | None:
        """The record that owns a name; the newest one when a damaged list has several."""
        return self.derive(_by_name).get(name)

    def prefix(self, prefix: str) -> R | None:
        """The record with this id or unique id prefix; Ambiguous when several fit."""
        exact = self.by_id.get(prefix)
        if exact is not None or not prefix:
            return exact
        if self._sorted is None:
            self._sorted = sorted(self.by_id)
        at = bisect.bisect_left(self._sorted, prefix)
        fitting = [i for i in self._sorted[at : at + 2] if i.startswith(prefix)]
        if len(fitting) > 1:
            raise Ambiguous(self.kind, prefix)
        return self.by_id[fitting[0]] if fitting else None


def _by_name(rows: Rows[R]) -> dict[str, R]:
    return {name: record for record in rows.by_id.values() for name in record.names}


class Table(Generic[R]):
    """A list of records in ``files`` (the first is the usual place) guarded by ``locks``."""

    def __init__(self, kind: str, record: type[R], files: Sequence[File], locks: LockSet) -> None:
        self.kind = kind
        self.files = tuple(files)
        self.locks = locks
        self._record = record
        self._state: tuple[tuple[bytes, tuple[Identity, ...]], Rows[R]] | None = None
        self._texts: dict[str, tuple[R, bytes]] = {}
        self._loading = threading.Lock()

    def fresh(self) -> Rows[R] | None:
        """The loaded rows if they are still current, else None; quick enough for the event loop."""
        state = self._state
        if state is not None and state[0] == (self.locks.token(), self._identities()):
            return state[1]
        return None

    def rows(self) -> Rows[R]:
        """The current rows, read anew if somebody wrote. StoreFailure names a damaged file."""
        rows = self.fresh()
        if rows is not None:
            return rows
        with self._loading:
            rows = self.fresh()
            if rows is not None:
                return rows
            token = self.locks.token()
            by_id: dict[str, R] = {}
            place: dict[str, int] = {}
            identities = []
            for number, file in enumerate(self.files):
                identity, records = self._load(file)
                identities.append(identity)
                for record in records:
                    by_id[record.id] = record
                    place[record.id] = number
            rows = Rows(self.kind, by_id, place)
            self._state = ((token, tuple(identities)), rows)
            return rows

    def _identities(self) -> tuple[Identity, ...]:
        return tuple(_identity(file.path) for file in self.files)

    def _load(self, file: File) -> tuple[Identity, list[R]]:
        try:
            fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return _ABSENT, []
        with open(fd, "rb") as f:
            status = os.fstat(fd)
            data = f.read()
        try:
            return (status.st_ino, status.st_size, status.st_mtime_ns), decode_list(self._record, data)
        except BadRecord as e:
            raise StoreFailure(
                f"the list of {self.kind}s {file.path!r} is damaged ({e}): restore it from a backup, or run "
                "`pycrio wipe` and pull the images again"
            ) from None

    @contextmanager
    def edit(self) -> Iterator[Edit[R]]:
        """Hold the write locks and change the list; blocks, only in a pool thread."""
        with self.locks.write():
            yield Edit(self, self.rows())

    @contextmanager
    def try_edit(self) -> Iterator[Edit[R] | None]:
        """Like ``edit``, but None instead of waiting when somebody holds a lock."""
        with self.locks.try_write() as free:
            yield Edit(self, self.rows()) if free else None

    def publish(self, rows: Rows[R], dirty: frozenset[int]) -> None:
        """Write the files with these numbers; called by an Edit under the write locks."""
        self.locks.touch()
        for number in sorted(dirty):
            file = self.files[number]
            texts = [self._text(r) for i, r in rows.by_id.items() if rows.place[i] == number]
            make_dir(os.path.dirname(file.path))
            write_atomic(file.path, b"[" + b",".join(texts) + b"]", durable=file.durable)
        self._state = ((self.locks.token(), self._identities()), rows)

    def _text(self, record: R) -> bytes:
        known = self._texts.get(record.id)
        if known is None or known[0] is not record:
            known = self._texts[record.id] = (record, record.encode())
        return known[1]

    def forget(self, ident: str) -> None:
        """Drop the cached text of a record that is gone."""
        self._texts.pop(ident, None)

    def close(self) -> None:
        """Close the lock files."""
        self.locks.close()


class Edit(Generic[R]):
    """A change of a table in progress. Nothing is written before ``save``; several saves are possible."""

    def __init__(self, table: Table[R], rows: Rows[R]) -> None:
        self._table = table
        self.rows = rows
        self._dirty: set[int] = set()

    def put(self, record: R, place: int | None = None) -> R:
        """Add or replace a record; a new one goes to file number ``place`` (the first by default)."""
        by_id, places = dict(self.rows.by_id), dict(self.rows.place)
        self._dirty.add(places.setdefault(record.id, place or 0))
        by_id[record.id] = record
        self.rows = Rows(self.rows.kind, by_id, places)
        return record

    def drop(self, ident: str) -> None:
        """Take a record out, if it is there."""
        if ident not in self.rows.by_id:
            return
        by_id, places = dict(self.rows.by_id), dict(self.rows.place)
        del by_id[ident]
        self._dirty.add(places.pop(ident))
        self.rows = Rows(self.rows.kind, by_id, places)
        self._table.forget(ident)

    def save(self) -> None:
        """Write the files that changed since the last save."""
        if self._dirty:
            self._table.publish(self.rows, frozenset(self._dirty))
            self._dirty.clear()


def _identity(path: str) -> Identity:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return _ABSENT
    return status.st_ino, status.st_size, status.st_mtime_ns
