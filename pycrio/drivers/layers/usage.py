"""Disk use, cheaply: image layers never change, so each is measured once; writable layers are walked now and then.

What others store (podman's containers) is measured as ours is.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from dataclasses import dataclass

from pycrio._native.files import replace_file
from pycrio.drivers.layers.index import VOLATILE, View
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import LayerRecord
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.table import Rows
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
    """Measured sizes: bytes and inodes on disk, not what archives say of them.

    A layer of an image is walked once, when its figures are wanted for the first time; they survive restarts in a file
    at the store's root. So a question costs what was written since the last one, and writable layers now and then.
    """

    def __init__(self, settings: Settings, overlay: Overlay) -> None:
        self._settings = settings
        self._overlay = overlay
        self._path = f"{settings.root}/.pycrio-usage.json"
        self._layers: dict[str, tuple[int, int]] | None = None
        self._walks: dict[str, Walk] = {}
        self._artifacts: tuple[tuple[int, int, int], tuple[int, int]] | None = None
        self._lock = threading.Lock()

    def _known(self) -> dict[str, tuple[int, int]]:
        if self._layers is None:
            self._layers = {}
            # A cache: measured anew when it is not usable.
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, AttributeError):
                with open(self._path, "rb") as f:
                    self._layers = {str(i): (int(size), int(count)) for i, (size, count) in json.load(f).items()}
        return self._layers

    def _save(self, known: dict[str, tuple[int, int]]) -> None:
        # One temporary name for all: a crash leaves nothing that somebody would have to collect. A cache: where it
        # cannot be written, layers are measured anew after a restart.
        with contextlib.suppress(OSError):
            text = json.dumps(known, separators=(",", ":"))
            replace_file(self._path, text.encode("ascii"), f"{self._path}.tmp", mode=0o644)

    def _layer(self, ident: str, known: dict[str, tuple[int, int]]) -> tuple[int, int]:
        """Use of an image layer: its directory in the driver's home, and the description of its archive."""
        found = known.get(ident)
        if found is None:
            path = self._overlay.find(ident)
            try:
                size, inodes = walk(path) if path else (0, 0)
            except FileNotFoundError:
                return 0, 0
            split = _file(f"{self._settings.layers_dir}/{ident}.tar-split.gz")
            found = known[ident] = (size + split[0], inodes + split[1])
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
        """Use by images (their layers and data, artifacts) and by containers (their layers and directories)."""
        split = bool(self._settings.image_store)
        containers = {c.layer for c in view.containers.by_id.values()}
        kept, written = _Sum(), _Sum()
        kept.add(self._plain(self._settings.images_dir))
        written.add(self._plain(self._settings.containers_dir))
        with self._lock:
            # Artifacts are below the store's root, wherever images are.
            (written if split else kept).add(self._artifact_files())
            self._add_layers(view.layers[0], containers, kept, written)
        now = time.time_ns()
        return (
            FsUsage(now, self._settings.images_dir, kept.size, kept.inodes),
            FsUsage(
                now,
                self._settings.containers_dir if split else self._settings.images_dir,
                written.size,
                written.inodes,
            ),
        )

    def _add_layers(self, rows: Rows[LayerRecord], containers: set[str], kept: _Sum, written: _Sum) -> None:
        known = self._known()
        gone = known.keys() - rows.by_id.keys()
        for ident in gone:
            del known[ident]
        before = len(known)
        for ident, record in rows.by_id.items():
            if record.incomplete:
                continue
            if ident in containers or rows.place[ident] == VOLATILE:
                written.add(self._plain(f"{self._settings.home}/{ident}/diff"))
            else:
                kept.add(self._layer(ident, known))
        if gone or len(known) != before:
            self._save(known)

    def _artifact_files(self) -> tuple[int, int]:
        """Use of the artifacts' layout, whose content changes with its index only."""
        directory = f"{self._settings.root}/artifacts"
        try:
            status = os.stat(f"{directory}/index.json")
        except FileNotFoundError:
            return self._plain(directory)
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._artifacts is None or self._artifacts[0] != stamp:
            self._artifacts = (stamp, walk(directory))
        return self._artifacts[1]

    def _plain(self, path: str) -> tuple[int, int]:
        found = self.tree(path)
        return (found.size, found.inodes) if found else (0, 0)


@dataclass(slots=True)
class _Sum:
    """Bytes and inodes so far."""

    size: int = 0
    inodes: int = 0

    def add(self, part: tuple[int, int]) -> None:
        """Count something in."""
        self.size += part[0]
        self.inodes += part[1]


def _file(path: str) -> tuple[int, int]:
    """Use of one file; nothing when it is absent."""
    try:
        return os.stat(path).st_blocks * 512, 1
    except FileNotFoundError:
        return 0, 0
