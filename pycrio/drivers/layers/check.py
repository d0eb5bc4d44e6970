"""Verification and repair of the store (store.md section 20): is what the records promise on disk, and unaltered?

Nothing is locked while looking, which takes minutes for a big store; so others may go on, and what changed meanwhile
may be reported. Repair takes the locks and removes only what is still there.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pycrio._native.files import read_file
from pycrio._native.pools import offload
from pycrio.drivers.layers.files import data_file, remove_tree
from pycrio.drivers.layers.hold import NAME as HOLD
from pycrio.drivers.layers.index import Index, View
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import ContainerRecord, ImageRecord, LayerRecord, parse_time
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.rootfs import Rootfs
from pycrio.drivers.layers.settings import DRIVER, Settings
from pycrio.drivers.layers.turn import Turn, guarded, look
from pycrio.errors import PycrioError, StoreFailure


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not as its record says. ``kind``: layer, image or container."""

    kind: str
    id: str
    reason: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. ``unreferenced``: complete layers that nothing uses (no damage, but in the way)."""

    damages: tuple[Damage, ...] = ()
    unreferenced: tuple[str, ...] = ()

    def ids(self, kind: str, read_only: bool = False) -> frozenset[str]:
        """Damaged objects of a kind."""
        return frozenset(d.id for d in self.damages if d.kind == kind and d.read_only == read_only)

    def counts(self) -> Mapping[str, int]:
        """Numbers of damaged objects, by the names that ``crio check`` prints."""
        return {
            "layer": len(self.ids("layer")),
            "read-only layer": len(self.ids("layer", True)),
            "image": len(self.ids("image")),
            "read-only image": len(self.ids("image", True)),
            "container": len(self.ids("container")),
        }


class Checker:
    """Checks and repairs one opened store."""

    def __init__(self, settings: Settings, index: Index, overlay: Overlay, rootfs: Rootfs, turn: Turn) -> None:
        self._settings = settings
        self._index = index
        self._overlay = overlay
        self._rootfs = rootfs
        self._turn = turn

    async def check(self, quick: bool = False, digests: bool = True) -> Report:
        """Look at everything. ``quick`` skips the search for files that were added; without ``digests`` no layer's
        content is read at all, which takes seconds instead of minutes."""
        view = await self._index.current()
        damages: list[Damage] = []
        bad: set[str] = set()
        writable = {c.layer for c in view.containers.by_id.values()}
        for record, read_only in _parents_first(view):
            reason = f"its parent {record.parent} is damaged" if record.parent in bad else ""
            if not reason:
                content = digests and record.id not in writable
                reason = await offload("unpack", guarded, lambda r=record, c=content: self._layer(view, r, c, quick))
            if reason:
                bad.add(record.id)
                damages.append(Damage("layer", record.id, reason, read_only))
        for image, read_only in view.every_image():
            reason = await look(lambda i=image: self._image(view, i, bad))  # type: ignore[misc]
            if reason:
                damages.append(Damage("image", image.id, reason, read_only))
        for container in view.containers.by_id.values():
            reason = _container(view, container, bad)
            if reason:
                damages.append(Damage("container", container.id, reason))
        return Report(tuple(damages), _unreferenced(view))

    # --- looking; each answers why the object is damaged, "" when it is whole ---

    def _layer(self, view: View, record: LayerRecord, content: bool, quick: bool) -> str:
        path = self._overlay.find(record.id)
        if path is None:
            return "its directory is missing"
        try:
            chain = self._overlay.chain(record.id)
            expected = self._overlay.chain(record.parent) if record.parent else []
            self._overlay.image_lowers(record.id)
        except StoreFailure as e:
            return str(e)
        if record.parent and view.layer(record.parent) is None:
            return f"its parent {record.parent} is missing"
        if chain[1:] != expected:
            return "its lower layers are not those of its parent"
        split = self._split(record.id)
        if not content or split is None or not record.diff_digest:
            return ""
        # A copy with shifted ids holds more than its archive: all that the image shows.
        return self._content(record, f"{path}/diff", split, quick or bool(record.uidmap or record.gidmap))

    def _split(self, layer_id: str) -> str | None:
        for root in (self._settings.root, *(other.root for other in self._index.others)):
            path = f"{root}/{DRIVER}-layers/{layer_id}.tar-split.gz"
            if os.path.exists(path):
                return path
        return None

    def _content(self, record: LayerRecord, diff: str, split: str, quick: bool) -> str:
        from pycrio._native import untar

        fds: list[int] = []
        try:
            fds.append(os.open(split, os.O_RDONLY | os.O_CLOEXEC))
            fds.append(os.open(diff, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            fds.append(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
            found = untar.assemble(fds[0], fds[1], fds[2]).digest
        except OSError as e:
            return f"its content is not what was pulled: {e}"
        finally:
            for fd in fds:
                os.close(fd)
        if found != record.diff_digest:
            return f"its content has the digest {found}, its record says {record.diff_digest}"
        added = "" if quick else next(_added(diff, split), "")
        return f"it holds {added!r}, which its archive does not" if added else ""

    def _image(self, view: View, image: ImageRecord, bad: set[str]) -> str:
        try:
            for layer in view.ancestry(image.layer):
                if layer.id in bad:
                    return f"its layer {layer.id} is damaged"
        except StoreFailure as e:
            return str(e)
        for key in image.data_names:
            for root in (self._settings.images_root, *(other.root for other in self._index.others)):
                path = f"{root}/{DRIVER}-images/{image.id}/{data_file(key)}"
                if os.path.exists(path):
                    break
            else:
                return f"its data {key!r} is missing"
            data = read_file(path)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            # A schema 1 manifest is known by the digest of what was signed, not of the file.
            if len(data) != image.data_sizes.get(key, len(data)) or (
                digest != image.data_digests.get(key, digest) and b'"schemaVersion": 1' not in data[:200]
            ):
                return f"its data {key!r} was altered"
        return ""

    # --- repairing ---

    async def repair(self, report: Report, force: bool = False, age: float = 86400.0, digests: bool = True) -> Report:
        """Remove damaged images and layers, with ``force`` damaged containers too, and unreferenced layers that are
        older than ``age`` seconds. Returns what is still damaged: read-only things, containers without ``force`` and
        whatever these need; ``digests`` as for ``check``."""
        if force:
            for container in report.ids("container"):
                await self._rootfs.remove(container)
        await self._turn.run(lambda trash: self._repair(report, age, trash))
        return await self.check(quick=True, digests=digests)

    def _repair(self, report: Report, age: float, trash: Trash) -> None:
        with self._index.layers.edit() as layers, self._index.images.edit() as images:
            view = self._index.view()
            used = {c.image for c in view.containers.by_id.values()}
            for image in report.ids("image"):
                if image in images.rows.by_id and image not in used:
                    images.drop(image)
                    remove_tree(f"{self._settings.images_dir}/{image}")
            images.save()
            limit = time.time_ns() - int(age * 1e9)
            doomed = set(report.ids("layer"))
            for layer in report.unreferenced:
                record = layers.rows.by_id.get(layer)
                if record is not None and parse_time(record.created) < limit:
                    doomed.add(layer)
            delete_layers(layers, self._index.view().removable(doomed), self._overlay, self._settings, trash)


def _parents_first(view: View) -> Iterator[tuple[LayerRecord, bool]]:
    """Complete layers of every store, each after its parent; rings and orphans come at the end."""
    for number in reversed(range(len(view.layers))):
        pending = {i: r for i, r in view.layers[number].by_id.items() if not r.incomplete}
        while pending:
            ready = [r for r in pending.values() if r.parent not in pending] or list(pending.values())
            for record in ready:
                del pending[record.id]
                yield record, number > 0


def _container(view: View, container: ContainerRecord, bad: set[str]) -> str:
    try:
        for layer in view.ancestry(container.layer):
            if layer.id in bad:
                return f"its layer {layer.id} is damaged"
    except PycrioError as e:
        return str(e)
    if container.image and view.image(container.image) is None:
        return f"its image {container.image} is missing"
    return ""


def _unreferenced(view: View) -> tuple[str, ...]:
    """Layers without image, container or child, and then those that only such layers are above of."""
    held = view.held_layers() | {r.id for r in view.layers[0].by_id.values() if HOLD in r.names}
    layers = {i: r for i, r in view.layers[0].by_id.items() if not r.incomplete}
    needed: set[str] = set()
    for ident in held:
        while ident in layers and ident not in needed:
            needed.add(ident)
            ident = layers[ident].parent
    return tuple(i for i in layers if i not in needed)


def _added(diff: str, split: str) -> Iterator[str]:
    """Paths below ``diff`` that the archive described by ``split`` does not explain."""
    known: set[bytes] = {b""}
    with gzip.open(split) as lines:
        for line in lines:
            entry = json.loads(line)
            if entry.get("type") != 1:
                continue
            name = _raw(entry)
            parts = [p for p in name.split(b"/") if p not in (b"", b".")]
            if parts and parts[-1].startswith(b".wh."):
                parts[-1] = parts[-1][4:]
            for depth in range(len(parts)):
                known.add(b"/".join(parts[: depth + 1]))
    top = os.fsencode(diff)
    for here, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.relpath(os.path.join(here, name), top)
            if path not in known:
                yield os.fsdecode(path)


def _raw(entry: Mapping[str, object]) -> bytes:
    """An entry's name; names that are not UTF-8 are kept in base64."""
    raw = entry.get("name_raw")
    if isinstance(raw, str) and raw:
        return base64.standard_b64decode(raw)
    return os.fsencode(str(entry.get("name") or ""))
