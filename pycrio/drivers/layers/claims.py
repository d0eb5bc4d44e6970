"""Layers that a pull has made part of the store while their image has no record yet.

Nothing refers to such a layer, and only its pull knows that something will. When that pull is killed, nobody does: the
layer would stay for ever, counted and never collected, since a whole layer that nothing needs may as well belong to
another program's pull. The same holds for the layers of an image whose removal is killed half-way. So each process
writes down what it is about to commit or to remove, in a file under a lock: once the lock can be taken, its owner is
gone and what it claimed may go, unless somebody has found a use for it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator

from pycrio.drivers.layers.files import make_dir
from pycrio.drivers.layers.locks import HeldLock


class Claims:
    """This process's claims in a file of its own below ``directory``, made with the first one and gone with the last.

    ``add`` comes before the layer's record, ``drop`` after the image's: a crash in between leaves a claim too much,
    never a layer without one.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock: HeldLock | None = None
        self._tokens: dict[str, str] = {}  # layer → token of the staged layer that it was
        self._given_up: set[str] = set()
        self._mutex = threading.Lock()

    def add(self, layer_id: str, token: str) -> None:
        """A layer is about to be committed."""
        with self._mutex:
            self._write([layer_id])
            self._tokens[layer_id] = token
            self._given_up.discard(layer_id)

    def doom(self, layer_ids: Iterable[str]) -> frozenset[str]:
        """The record that holds on to these layers is about to go, and they with it: claims those of them that no pull
        of ours counts on, and answers which these are."""
        with self._mutex:
            mine = [layer for layer in layer_ids if layer not in self._tokens or layer in self._given_up]
            if mine:
                self._write(mine)
            self._tokens.update(dict.fromkeys(mine, ""))
            self._given_up.update(mine)
            return frozenset(mine)

    def _write(self, layer_ids: Iterable[str]) -> None:
        if self._lock is None:
            make_dir(self._directory)
            while self._lock is None:  # a fresh file may be taken for a dead one's
                self._lock = HeldLock.create(f"{self._directory}/{secrets.token_hex(8)}")
        self._lock.append("".join(f"{layer_id}\n" for layer_id in layer_ids).encode())

    def drop(self, layer_ids: Iterable[str]) -> None:
        """An image holds on to these layers now, or they are gone."""
        with self._mutex:
            before = len(self._tokens)
            for layer_id in layer_ids:
                self._tokens.pop(layer_id, None)
                self._given_up.discard(layer_id)
            # Claims that were dropped stay in the file until the last one goes: they do no harm, a layer that is
            # needed is not removed because of them.
            if before and not self._tokens and self._lock is not None:
                self._lock.release()
                self._lock = None

    def give_up(self, token: str) -> frozenset[str]:
        """The pull that committed a staged layer has failed; every layer that was given up and is still here."""
        with self._mutex:
            self._given_up.update(layer for layer, known in self._tokens.items() if known == token)
            return frozenset(self._given_up)

    @contextlib.contextmanager
    def abandoned(self) -> Iterator[frozenset[str]]:
        """Layers that dead processes claimed; forgotten when the caller, who holds the layers' lock, is done."""
        locks: list[HeldLock] = []
        found: set[str] = set()
        try:
            for name in os.listdir(self._directory) if os.path.isdir(self._directory) else ():
                lock = HeldLock.seize(f"{self._directory}/{name}")
                if lock is not None:
                    locks.append(lock)
                    found.update(lock.read().decode("ascii", "replace").split())
            yield frozenset(found)
            while locks:
                locks.pop().release()
        finally:
            for lock in locks:
                lock.close()

    def close(self) -> None:
        """Let go: what is still claimed is for the next start to look at."""
        with self._mutex:
            if self._lock is not None:
                if self._tokens:
                    self._lock.close()
                else:
                    self._lock.release()
                self._lock = None
