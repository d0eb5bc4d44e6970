"""The tables of pods and containers: records by id, id prefix, name and label, persisted on every change.

A record is frozen; ``put`` replaces it whole. Whoever wants to know about changes passes a listener; it is called
after the record is on disk, with the old and the new record (None: absent).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from pycrio.errors import Ambiguous, NotFound, StoreFailure
from pycrio.model.container import ContainerRecord
from pycrio.model.pod import PodRecord
from pycrio.state.files import Directory
from pycrio.state.records import NewerRecord, decode, encode

R = TypeVar("R", PodRecord, ContainerRecord)


class Table(Generic[R]):
    """Records of one kind (``pod`` or ``container``)."""

    def __init__(self, kind: str, directory: str, title: str) -> None:
        self.kind = kind
        self.title = title
        self._files = Directory(directory)
        self._records: dict[str, R] = {}
        self._ids: list[str] = []
        self._names: dict[str, str] = {}
        self._listeners: list[Callable[[R | None, R | None], None]] = []

    def load(self) -> list[tuple[str, StoreFailure]]:
        """Read every file; gives back those that cannot be read, which stay on disk for ``forget``. NewerRecord when a
        later pycrio wrote one: forgetting it would take its pod down."""
        bad: list[tuple[str, StoreFailure]] = []
        for ident, text in self._files:
            try:
                record: R = decode(self.kind, text)
            except NewerRecord as e:
                raise NewerRecord(
                    f"{self.title} {ident} cannot be taken over: {e}. Start the pycrio that wrote it again, or delete "
                    f"{self._files.path}/{ident}.json: it is removed from this node then"
                ) from e
            except StoreFailure as e:
                bad.append((ident, e))
                continue
            self._index(record)
        return bad

    def listen(self, listener: Callable[[R | None, R | None], None]) -> None:
        """Have ``listener(old, new)`` called after each change."""
        self._listeners.append(listener)

    def _index(self, record: R) -> None:
        old = self._records.get(record.id)
        if old is None:
            bisect.insort(self._ids, record.id)
        elif old.name != record.name and self._names.get(old.name) == record.id:
            del self._names[old.name]
        self._records[record.id] = record
        self._names[record.name] = record.id

    def put(self, record: R) -> None:
        """Add or replace a record, on disk first. StoreFailure when it cannot be written (nothing changed then)."""
        try:
            self._files.write(record.id, encode(self.kind, record))
        except OSError as e:
            raise StoreFailure(
                f"the record of {self.title} {record.id} cannot be written to {self._files.path}: {e.strerror}"
            ) from e
        old = self._records.get(record.id)
        self._index(record)
        for listener in self._listeners:
            listener(old, record)

    def remove(self, ident: str) -> None:
        """Forget a record; absent is fine."""
        self._files.delete(ident)
        old = self._records.pop(ident, None)
        if old is None:
            return
        self._ids.pop(bisect.bisect_left(self._ids, ident))
        if self._names.get(old.name) == ident:
            del self._names[old.name]
        for listener in self._listeners:
            listener(old, None)

    def forget(self, ident: str) -> None:
        """Delete the file of a record that could not be read."""
        self._files.delete(ident)

    def resolve(self, ident: str) -> R | None:
        """By id or unique id prefix; None when absent or empty, Ambiguous when several fit."""
        record = self._records.get(ident)
        if record is not None or not ident:
            return record
        at = bisect.bisect_left(self._ids, ident)
        if at == len(self._ids) or not self._ids[at].startswith(ident):
            return None
        if at + 1 < len(self._ids) and self._ids[at + 1].startswith(ident):
            raise Ambiguous(self.title, ident)
        return self._records[self._ids[at]]

    def get(self, ident: str) -> R:
        """Like ``resolve``, but NotFound when absent."""
        record = self.resolve(ident)
        if record is None:
            raise NotFound(self.title, ident)
        return record

    def by_name(self, name: str) -> R | None:
        """The record that has the unique name."""
        ident = self._names.get(name)
        return self._records.get(ident) if ident is not None else None

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, ident: str) -> bool:
        return ident in self._records


def selected(records: Iterable[R], labels: Mapping[str, str]) -> list[R]:
    """Those whose labels contain every pair."""
    wanted = labels.items()
    return [r for r in records if wanted <= r.config.labels.items()]
