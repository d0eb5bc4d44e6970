"""Disk use, cheaply: image layers never change, so each is measured once; writable layers are walked now and then."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from dataclasses import dataclass

from pycrio.drivers.layers.files import make_dir
from pycrio.drivers.layers.index import View
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import LayerRecord
from pycrio.drivers.layers.settings import Settings
from pycrio.model.stats import FsUsage

# A walk is repeated at the earliest after this many times its own duration, and not within a second.
_REST = 50
_LEAST = 1_000_000_000
# Length of a path from which on a walk continues from an open directory, and how often it does that.
_FAR = 2048
_LEVELS = 64


@dataclass(frozen=True, slots=True)
class Walk:
    """Bytes on disk and inodes below a directory, when that was found out and how long it took (ns)."""

    size: int
    inodes: int
    at: int
    cost: int


def walk(path: str) -> tuple[int, int]:
    """Bytes on disk (allocated blocks) and inodes of a tree on one file system; hard links count once, what vanishes
    meanwhile counts as gone. FileNotFoundError when the tree itself is absent."""
    top = os.lstat(path)
    measure = _Measure(top.st_dev, top.st_blocks * 512, 1, set())
    with contextlib.suppress(NotADirectoryError):
        measure.directory(path, None, _LEVELS)
    return measure.size, measure.inodes


@dataclass(slots=True)
class _Measure:
    """The sum so far, on one device, with the inodes of several names that are in it."""

    device: int
    size: int
    inodes: int
    linked: set[int]

    def directory(self, path: str, base: int | None, levels: int) -> None:
        """Add what is below ``path`` (as seen from ``base``). Where paths get longer than the system takes them, it
        goes on from there, ``levels`` times; what lies deeper was made to be a nuisance, and is not counted."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
        try:
            pending, far = [""], list[str]()
            while pending:
                at = pending.pop()
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    below = self._entries(at, fd)
                    (far if len(at) > _FAR else pending).extend(below)
            for at in far if levels else ():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self.directory(at, fd, levels - 1)
        finally:
            os.close(fd)

    def _entries(self, at: str, base: int) -> list[str]:
        """Count the entries of one directory; those that are directories."""
        fd = os.open(at or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
        found = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if status.st_dev != self.device:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        found.append(f"{at}/{entry.name}" if at else entry.name)
                    elif status.st_nlink > 1:
                        if status.st_ino in self.linked:
                            continue
                        self.linked.add(status.st_ino)
                    self.size += status.st_blocks * 512
                    self.inodes += 1
        finally:
            os.close(fd)
        return found


class Usage:
    """Measured sizes. The figures of image layers survive a restart of the daemon in the run directory."""

    def __init__(self, settings: Settings, overlay: Overlay) -> None:
        self._settings = settings
        self._overlay = overlay
        self._path = f"{settings.run_layers_dir}/pycrio-usage.json"
        self._layers: dict[str, tuple[int, int]] | None = None
        self._walks: dict[str, Walk] = {}
        self._lock = threading.Lock()

    def learn(self, layer_id: str, diff_size: int, entries: int) -> None:
        """Note the figures of a layer that was just extracted."""
        with self._lock:
            known = self._known()
            known[layer_id] = (diff_size, entries)
            self._save(known)

    def _known(self) -> dict[str, tuple[int, int]]:
        if self._layers is None:
            self._layers = {}
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # a cache: measured anew when unusable
                with open(self._path, "rb") as f:
                    self._layers = {str(i): (int(size), int(count)) for i, (size, count) in json.load(f).items()}
        return self._layers

    def _save(self, known: dict[str, tuple[int, int]]) -> None:
        with contextlib.suppress(OSError):  # a cache: without the file, layers are measured anew after a restart
            make_dir(os.path.dirname(self._path))
            # One name for all: a crash leaves nothing that somebody would have to collect.
            with open(f"{self._path}.tmp", "w", encoding="ascii") as f:
                json.dump(known, f, separators=(",", ":"))
            os.rename(f"{self._path}.tmp", self._path)

    def _layer(self, record: LayerRecord, known: dict[str, tuple[int, int]]) -> tuple[int, int]:
        """Uncompressed bytes and entries of an image layer; of a foreign one by a walk, once."""
        found = known.get(record.id)
        if found is None:
            path = self._overlay.find(record.id)
            try:
                size, inodes = walk(f"{path}/diff") if path else (0, 0)
            except FileNotFoundError:
                return 0, 0
            found = known[record.id] = (record.diff_size if record.diff_size > 0 else size, inodes)
        return found

    def tree(self, path: str) -> Walk | None:
        """Figures of a changing tree, at most a little old; None when it is absent."""
        now = time.monotonic_ns()
        last = self._walks.get(path)
        if last is not None and now - last.at < max(_LEAST, _REST * last.cost):
            return last
        try:
            size, inodes = walk(path)
        except FileNotFoundError:
            self._walks.pop(path, None)
            return None
        done = time.monotonic_ns()
        self._walks[path] = Walk(size, inodes, done, done - now)
        return self._walks[path]

    def forget(self, path: str) -> None:
        """Drop the figures of a tree that is being removed."""
        self._walks.pop(path, None)

    def file_systems(self, view: View) -> tuple[FsUsage, FsUsage]:
        """Use by images (their layers and data) and by containers (their layers and directories)."""
        primary, place = view.layers[0].by_id, view.layers[0].place
        containers = {c.layer for c in view.containers.by_id.values()}
        image_size, image_inodes = self._plain(self._settings.images_dir)
        size, inodes = self._plain(self._settings.containers_dir)
        with self._lock:
            known = self._known()
            before = len(known)
            for gone in known.keys() - primary.keys():
                del known[gone]
            changed = len(known) != before
            for ident, record in primary.items():
                if record.incomplete:
                    continue
                if ident in containers or place[ident] == 1:
                    found = self.tree(f"{self._settings.home}/{ident}/diff")
                    size, inodes = size + (found.size if found else 0), inodes + (found.inodes if found else 0)
                else:
                    changed |= ident not in known
                    layer_size, layer_inodes = self._layer(record, known)
                    image_size, image_inodes = image_size + layer_size, image_inodes + layer_inodes
            if changed:
                self._save(known)
        now = time.time_ns()
        split = bool(self._settings.image_store)
        return (
            FsUsage(now, self._settings.images_dir, image_size, image_inodes),
            FsUsage(now, self._settings.containers_dir if split else self._settings.images_dir, size, inodes),
        )

    def _plain(self, path: str) -> tuple[int, int]:
        found = self.tree(path)
        return (found.size, found.inodes) if found else (0, 0)
