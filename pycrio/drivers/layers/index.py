"""Every list of the store in one place: primary and additional stores, look-ups, chains, names, sizes.

``View`` is a moment of all lists; answering from one takes no lock (see ``table``). Changes go through the tables of
``Index`` in the lock order of store.md section 2: layers, images, containers; mounts inside layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pycrio.drivers.layers.claims import Claims
from pycrio.drivers.layers.locks import LockFile, LockSet
from pycrio.drivers.layers.records import ContainerRecord, ImageRecord, LayerRecord, MountRecord
from pycrio.drivers.layers.settings import DRIVER, Settings
from pycrio.drivers.layers.table import File, Rows, Table
from pycrio.drivers.layers.turn import look
from pycrio.errors import StoreFailure
from pycrio.obs import log as obslog

log = obslog.get("store")
STABLE, VOLATILE, IMAGE_STORE = 0, 1, 2
_SHORTEST_PREFIX = 3


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """Layer ids for diff IDs, base first (store.md section 15): the digest's hex, then sha256 of ``parent+hex``."""
    ids: list[str] = []
    for diff_id in diff_ids:
        component = diff_id.partition(":")[2]
        ids.append(hashlib.sha256(f"{ids[-1]}+{component}".encode()).hexdigest() if ids else component)
    return tuple(ids)


def repository(name: str) -> str:
    """A full reference without its tag and digest."""
    name = name.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


@dataclass(frozen=True, slots=True)
class View:
    """All lists at one moment; the primary store's rows come first."""

    layers: tuple[Rows[LayerRecord], ...]
    images: tuple[Rows[ImageRecord], ...]
    containers: Rows[ContainerRecord]

    def layer(self, layer_id: str) -> LayerRecord | None:
        """A complete layer of whatever store."""
        for rows in self.layers:
            record = rows.by_id.get(layer_id)
            if record is not None and not record.incomplete:
                return record
        return None

    def ancestry(self, layer_id: str) -> Iterator[LayerRecord]:
        """The layer and those below it, top first; StoreFailure when one is missing or the chain is a ring."""
        seen: set[str] = set()
        while layer_id:
            record = self.layer(layer_id)
            if record is None or layer_id in seen:
                raise StoreFailure(f"layer {layer_id} is missing from the store: remove the image and pull it again")
            seen.add(layer_id)
            yield record
            layer_id = record.parent

    def every_image(self) -> Iterator[tuple[ImageRecord, bool]]:
        """Each image with whether it is read-only; an id counts once, in the first store that has it."""
        seen: set[str] = set()
        for number, rows in enumerate(self.images):
            for ident, record in rows.by_id.items():
                if ident not in seen:
                    seen.add(ident)
                    yield record, number > 0

    def image(self, image_id: str) -> tuple[ImageRecord, bool] | None:
        """An image by its full id."""
        for number, rows in enumerate(self.images):
            record = rows.by_id.get(image_id)
            if record is not None:
                return record, number > 0
        return None

    def find_image(self, names: Sequence[str], ident: str) -> tuple[ImageRecord, bool] | None:
        """An image by id or unique prefix, else by the first known name. Ambiguous when several fit a prefix."""
        if len(ident) >= _SHORTEST_PREFIX:
            for number, rows in enumerate(self.images):
                record = rows.prefix(ident)
                if record is not None:
                    return record, number > 0
        for name in names:
            found = self._named(name)
            if found is not None:
                return found
        return None

    def _named(self, name: str) -> tuple[ImageRecord, bool] | None:
        for number, rows in enumerate(self.images):
            record = rows.named(name)
            if record is not None:
                return record, number > 0
        digest = name.partition("@")[2]
        if not digest:
            return None
        # Pulled by tag, asked for by digest: the same repository must have brought an image with that manifest.
        wanted = repository(name)
        for number, rows in enumerate(self.images):
            for record in rows.derive(_by_digest).get(digest, ()):
                if any(repository(n) == wanted for n in (*record.names, *record.names_history)):
                    return record, number > 0
        return None

    def image_size(self, record: ImageRecord) -> int:
        """Uncompressed bytes of its layers plus its big data, as peers report it; unknown layer sizes count 0."""
        total = sum(record.data_sizes.values())
        seen: set[str] = set()
        layer_id = record.layer
        while layer_id and layer_id not in seen:
            seen.add(layer_id)
            layer = self.layer(layer_id)
            if layer is None:
                break
            total += max(0, layer.diff_size)
            layer_id = layer.parent
        return total

    def users_of(self, image_id: str) -> tuple[str, ...]:
        """Ids of containers that use an image."""
        return tuple(c.id for c in self.containers.by_id.values() if c.image == image_id)

    def held_layers(self) -> set[str]:
        """Layers that an image or a container holds on to (children are not looked at)."""
        held = {c.layer for c in self.containers.by_id.values()}
        for rows in self.images:
            for image in rows.by_id.values():
                held.update((image.layer, *image.mapped_layers))
        return held

    def removable(self, doomed: Iterable[str]) -> list[str]:
        """Those of some layers of the primary store that no image, container or surviving layer holds on to."""
        layers, unwanted = self.layers[0].by_id, set(doomed)
        kept = {i for i in self.held_layers() if i in layers}
        kept |= {i for i in layers if i not in unwanted}
        pending = list(kept)
        while pending:
            record = layers.get(pending.pop())
            if record is not None and record.parent in layers and record.parent not in kept:
                kept.add(record.parent)
                pending.append(record.parent)
        return [i for i in layers if i in unwanted and i not in kept]


def _by_digest(rows: Rows[ImageRecord]) -> dict[str, list[ImageRecord]]:
    found: dict[str, list[ImageRecord]] = {}
    for record in rows.by_id.values():
        for digest in record.digests:
            found.setdefault(digest, []).append(record)
    return found


@dataclass(frozen=True, slots=True)
class Other:
    """An additional store: read only."""

    root: str
    layers: Table[LayerRecord]
    images: Table[ImageRecord]


class Index:
    """The tables of the store."""

    def __init__(self, settings: Settings) -> None:
        s = settings
        layer_files = [File(f"{s.layers_dir}/layers.json"), File(f"{s.layers_dir}/volatile-layers.json", durable=False)]
        layer_locks = [LockFile(f"{s.layers_dir}/layers.lock")]
        if s.image_store:
            image_layers = f"{s.image_store}/{DRIVER}-layers"
            layer_files.append(File(f"{image_layers}/layers.json"))
            layer_locks.append(LockFile(f"{image_layers}/layers.lock"))
        self.image_layers_place = IMAGE_STORE if s.image_store else STABLE
        self.layers = Table("layer", LayerRecord, layer_files, LockSet(layer_locks))
        self.images = Table(
            "image",
            ImageRecord,
            [File(f"{s.images_dir}/images.json")],
            LockSet([LockFile(f"{s.images_dir}/images.lock")]),
        )
        self.containers = Table(
            "container",
            ContainerRecord,
            [
                File(f"{s.containers_dir}/containers.json"),
                File(f"{s.containers_dir}/volatile-containers.json", durable=False),
            ],
            LockSet([LockFile(f"{s.containers_dir}/containers.lock")]),
        )
        self.mounts = Table(
            "mount",
            MountRecord,
            [File(f"{s.run_layers_dir}/mountpoints.json", durable=False)],
            LockSet([LockFile(f"{s.run_layers_dir}/mountpoints.lock")]),
        )
        self.others = tuple(_other(root) for root in s.additional_stores)
        self.claims = Claims(f"{s.root}/.pycrio-claims")

    def drop_unusable(self) -> tuple[str, ...]:
        """Leave out additional stores that cannot be read (absent, or without lock files on a read-only file system);
        their roots."""
        dropped = []
        for other in self.others:
            try:
                other.layers.rows()
                other.images.rows()
            except OSError as e:
                log.warning("Additional image store cannot be read, going on without it", path=other.root, error=str(e))
                dropped.append(other.root)
        self.others = tuple(other for other in self.others if other.root not in dropped)
        return tuple(dropped)

    def fresh(self) -> View | None:
        """The current view if nothing was written since it was loaded, else None."""
        layers, images = [self.layers.fresh()], [self.images.fresh()]
        containers = self.containers.fresh()
        for other in self.others:
            try:
                layers.append(other.layers.fresh())
                images.append(other.images.fresh())
            except OSError:
                return None
        known_layers = [r for r in layers if r is not None]
        known_images = [r for r in images if r is not None]
        if containers is None or len(known_layers) < len(layers) or len(known_images) < len(images):
            return None
        return View(tuple(known_layers), tuple(known_images), containers)

    def view(self) -> View:
        """The current view; reads files, so only in a pool thread. An additional store that went away is left out."""
        try:
            return self._view()
        except OSError:
            if not self.drop_unusable():
                raise
            return self._view()

    def _view(self) -> View:
        # Images before layers: what an image refers to was written before it.
        containers = self.containers.rows()
        images = (self.images.rows(), *(o.images.rows() for o in self.others))
        return View((self.layers.rows(), *(o.layers.rows() for o in self.others)), images, containers)

    async def current(self) -> View:
        """The current view: at once when nothing changed, else after reading in the pool."""
        view = self.fresh()
        return view if view is not None else await look(self.view)

    def close(self) -> None:
        """Close all lock files."""
        self.claims.close()
        for table in (self.layers, self.images, self.containers, self.mounts):
            table.close()
        for other in self.others:
            other.layers.close()
            other.images.close()


def _other(root: str) -> Other:
    def lock(path: str) -> LockSet:
        return LockSet([LockFile(path, read_only=True)])

    layers, images = f"{root}/{DRIVER}-layers", f"{root}/{DRIVER}-images"
    files = [File(f"{layers}/layers.json"), File(f"{layers}/volatile-layers.json")]
    return Other(
        root,
        Table("layer", LayerRecord, files, lock(f"{layers}/layers.lock")),
        Table("image", ImageRecord, [File(f"{images}/images.json")], lock(f"{images}/images.lock")),
    )
