"""The Images port: image records of the store (store.md sections 6, 8, 15, 16)."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pycrio._native.files import read_file
from pycrio.drivers.layers.files import data_file, make_dir, remove_tree, write_atomic
from pycrio.drivers.layers.index import Index, View
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import ZERO_TIME, ImageRecord, LayerRecord, format_time, parse_time
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.settings import DRIVER, Settings
from pycrio.drivers.layers.table import Edit, Rows
from pycrio.drivers.layers.turn import Turn, look
from pycrio.drivers.layers.usage import Usage
from pycrio.errors import Denied, InUse, NotFound, Overtaken, StoreFailure
from pycrio.model.image import ImageConfig, RemoteImage, StoredImage
from pycrio.model.stats import FsUsage

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What the files of an image say; it changes only when the record does."""

    record: ImageRecord
    config: ImageConfig
    annotations: dict[str, str]


class Images:
    """Image records of the containers/storage store (port ``Images``)."""

    def __init__(
        self, settings: Settings, index: Index, overlay: Overlay, mounter: Mounter, usage: Usage, turn: Turn
    ) -> None:
        self._settings = settings
        self._mounter = mounter
        self._index = index
        self._overlay = overlay
        self._usage = usage
        self._turn = turn
        self._parsed: dict[str, _Parsed] = {}
        self._stored: dict[str, StoredImage] = {}
        self._measuring: asyncio.Task[tuple[FsUsage, FsUsage]] | None = None
        self._last: tuple[View, Sequence[StoredImage]] | None = None

    # --- reading ---

    async def all(self) -> Sequence[StoredImage]:
        """Every image, those of additional stores included. The same objects come back while nothing changes."""
        view = self._index.fresh()
        if view is None or self._last is None or not _same(view, self._last[0]):
            return await look(self._all)
        return self._last[1]

    def _all(self) -> Sequence[StoredImage]:
        view = self._index.view()
        images = tuple(self._image(view, record, read_only) for record, read_only in view.every_image())
        alive = {image.id for image in images}
        self._parsed = {i: p for i, p in self._parsed.items() if i in alive}
        self._stored = {i: s for i, s in self._stored.items() if i in alive}
        self._last = (view, images)
        return images

    async def find(self, names: Sequence[str], ident: str) -> StoredImage | None:
        """The image with the id (or unique id prefix of at least three characters) ``ident``, else by the first of the
        full ``names`` that is known; None when absent. Ambiguous when a prefix fits several."""
        view = self._index.fresh()
        if view is not None:
            found = view.find_image(names, ident)
            if found is None:
                return None
            parsed = self._parsed.get(found[0].id)
            if parsed is not None and parsed.record == found[0]:
                return self._image(view, *found)
        return await look(lambda: self._find(names, ident))

    def _find(self, names: Sequence[str], ident: str) -> StoredImage | None:
        view = self._index.view()
        found = view.find_image(names, ident)
        return None if found is None else self._image(view, *found)

    def _image(self, view: View, record: ImageRecord, read_only: bool) -> StoredImage:
        parsed = self._parsed.get(record.id)
        if parsed is None or parsed.record != record:
            parsed = self._parsed[record.id] = self._parse(record)
        image = StoredImage(
            id=record.id,
            names=record.names,
            digests=record.digests,
            layer=record.layer,
            size=view.image_size(record),
            created=parse_time(record.created),
            config=parsed.config,
            names_history=record.names_history,
            annotations=parsed.annotations,
            read_only=read_only,
        )
        # The same object for the same content: callers may cache by identity.
        if self._stored.get(record.id) != image:
            self._stored[record.id] = image
        return self._stored[record.id]

    def _parse(self, record: ImageRecord) -> _Parsed:
        manifest = _document(self._data(record, "manifest"))
        descriptor = manifest.get("config")
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        raw = self._data(record, digest if isinstance(digest, str) else f"sha256:{record.id}")
        return _Parsed(record, parse_config(raw), _strings(manifest.get("annotations")))

    def _data(self, record: ImageRecord, key: str) -> bytes:
        """A big data item; empty when the record has none or the file is lost (the image is still listed)."""
        if key not in record.data_names:
            return b""
        for root in (self._settings.images_root, *(other.root for other in self._index.others)):
            try:
                return read_file(f"{root}/{DRIVER}-images/{record.id}/{data_file(key)}")
            except FileNotFoundError:
                continue
        return b""

    async def data(self, image_id: str, key: str) -> bytes:
        """A big data item (``manifest``, ``signatures`` …) of an image; NotFound when it has none of that name."""
        view = await self._index.current()
        found = view.image(image_id)
        if found is None:
            raise NotFound("image", image_id)
        record = found[0]
        if key not in record.data_names:
            raise NotFound("image data", key, f"image {image_id} has no such item")
        return await look(lambda: self._data(record, key))

    async def document(self, digest: str) -> bytes | None:
        """A manifest, index or config of any image by its digest; None when no image has it. Not verified."""
        view = await self._index.current()
        where = next((w for rows in view.images if (w := rows.derive(_by_document).get(digest))), None)
        return None if where is None else await look(lambda: self._data(*where)) or None

    async def signatures(self, image_id: str) -> tuple[bytes, ...]:
        """Signature blobs kept with an image and with the image of its platform, as the record's sizes divide them."""
        found = (await self._index.current()).image(image_id)
        return () if found is None else await look(lambda: self._kept_signatures(found[0]))

    def _kept_signatures(self, record: ImageRecord) -> tuple[bytes, ...]:
        metadata = _document(record.metadata.encode())
        per_manifest = metadata.get("signatures-sizes")
        groups = {"signatures": metadata.get("signature-sizes")}
        for digest, sizes in per_manifest.items() if isinstance(per_manifest, dict) else ():
            groups[f"signature-{str(digest).rpartition(':')[2]}"] = sizes
        blobs = (blob for key, sizes in groups.items() for blob in _divided(self._data(record, key), sizes))
        return tuple(dict.fromkeys(blobs))  # those for the main manifest are kept twice

    async def users(self, image_id: str) -> Sequence[str]:
        """Ids of the store's containers that use the image."""
        return (await self._index.current()).users_of(image_id)

    async def disk_use(self) -> tuple[FsUsage, FsUsage]:
        """Use of the image file system and of the container file system."""
        # Measuring new layers may take a while. Whoever asks meanwhile waits for the same answer, not in a thread.
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.ensure_future(look(self._disk_use))
            self._measuring.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._measuring)

    def _disk_use(self) -> tuple[FsUsage, FsUsage]:
        return self._usage.file_systems(self._index.view())

    # --- writing ---

    async def record(self, image: RemoteImage, top_layer: str, diff_size: int) -> StoredImage:
        """Write or complete the record of a pulled image: big data, names, signatures.

        Overtaken when the top layer is not in the store any more, StoreFailure when an image with this id has another.
        """
        return await self._turn.run(lambda _: self._record(image, top_layer))

    def _record(self, image: RemoteImage, top_layer: str) -> StoredImage:
        items, metadata = _items(image)
        image_id = image.config_digest.partition(":")[2]
        created = _config_time(image.config)
        # The layers' lock keeps the top layer from being removed before the record holds on to it.
        with self._index.layers.locks.read(), self._index.images.edit() as edit:
            view = self._index.view()
            if top_layer and view.layer(top_layer) is None:
                raise Overtaken(
                    f"image {image.name}: layer {top_layer} was removed while the image was pulled: pull it again"
                )
            known = edit.rows.by_id.get(image_id)
            if known is not None and known.layer != top_layer:
                raise StoreFailure(
                    f"image {image_id} is in the store with top layer {known.layer or '(none)'} instead of "
                    f"{top_layer or '(none)'}: remove it and pull again"
                )
            # Known by the digest that it was first pulled by: that of the index if it came through one.
            digest = image.index_digest or image.manifest_digest
            fresh = ImageRecord(id=image_id, digest=digest, layer=top_layer, created=created)
            record = _with_items(replace(known or fresh, metadata=metadata), items, image.manifest_digest)
            if known == record and self._complete(record, image.name, items):
                self._index.claims.drop(layer.id for layer in view.ancestry(top_layer))
                return self._image(view, record, False)
            if known is not None and not _signatures(known).items() <= _signatures(record).items():
                # Other signatures than before: at no time may the record describe a file that is not there.
                edit.put(_with_items(known, {}, ""))
                edit.save()
            # Data first: a crash before the record is written leaves a directory that nobody refers to.
            directory = f"{self._settings.images_dir}/{image_id}"
            make_dir(directory)
            for key, data in items.items():
                path = f"{directory}/{data_file(key)}"
                if _stored_size(path) != len(data) or read_file(path) != data:
                    write_atomic(path, data)
            edit.put(record)
            if image.name:
                record = _give_name(edit, record, image.name)
            edit.save()
            for stale in _signatures(known).keys() - _signatures(record).keys() if known is not None else ():
                remove_tree(f"{directory}/{data_file(stale)}")
            self._index.claims.drop(layer.id for layer in view.ancestry(top_layer))
            return self._image(self._index.view(), record, False)

    def _complete(self, record: ImageRecord, name: str, items: Mapping[str, bytes]) -> bool:
        """True when an image was pulled again by the name that it got last, and nothing is to be written."""
        if name and (record.names[:1] != (name,) or record.names_history[:1] != (name,)):
            return False
        directory = f"{self._settings.images_dir}/{record.id}"
        return all(_stored_size(f"{directory}/{data_file(key)}") == len(data) for key, data in items.items())

    async def untag(self, image_id: str, name: str) -> None:
        """Take one name from an image; a name that it does not have is fine."""
        await self._turn.free(lambda _: self._untag(image_id, name))

    def _untag(self, image_id: str, name: str) -> None:
        with self._index.images.edit() as edit:
            record = edit.rows.by_id.get(image_id)
            if record is None:
                self._refuse_read_only(image_id)
                return
            if name in record.names:
                edit.put(replace(record, names=tuple(n for n in record.names if n != name)))
                edit.save()

    def _refuse_read_only(self, image_id: str) -> None:
        if self._index.view().image(image_id) is not None:
            raise Denied(f"image {image_id} belongs to an additional image store, which is read-only for us")

    async def remove(self, image_id: str) -> None:
        """Delete the record and every layer that nothing else needs; InUse when a container uses it. Absent is fine."""
        await self._turn.free(lambda trash: self._remove(image_id, trash))

    def _remove(self, image_id: str, trash: Trash) -> None:
        with self._index.layers.edit() as layers, self._index.images.edit() as images:
            record = images.rows.by_id.get(image_id)
            if record is None:
                self._refuse_read_only(image_id)
                return
            # Held until the layers are gone, so that no container can begin to use them.
            with self._index.containers.locks.read():
                view = self._index.view()
                users = view.users_of(image_id)
                if users:
                    raise InUse(f"image {image_id} is in use by {', '.join(users)}: remove these containers first")
                # From the moment when the record is gone nobody else knows that its layers are in the way.
                mine = self._index.claims.doom(_chains(layers.rows, (*record.mapped_layers, record.layer)))
                images.drop(image_id)
                images.save()
                remove_tree(f"{self._settings.images_dir}/{image_id}")
                doomed = self._index.view().removable(mine)
                if doomed:
                    self._unmount(doomed)
                    delete_layers(layers, doomed, self._overlay, self._settings, trash)
                self._index.claims.drop(mine)

    def _unmount(self, layer_ids: Sequence[str]) -> None:
        """Take away what others mounted of layers that go (``podman image mount``)."""
        with self._index.mounts.edit() as mounts:
            for layer_id in layer_ids:
                self._mounter.unmount_all(f"{self._settings.image_home}/{layer_id}/merged")
                mounts.drop(layer_id)
            mounts.save()


def _chains(rows: Rows[LayerRecord], tops: Sequence[str]) -> list[str]:
    """Layers of the primary store from some tops downwards, as far as they are there."""
    found: list[str] = []
    for layer_id in tops:
        while layer_id in rows.by_id and layer_id not in found:
            found.append(layer_id)
            layer_id = rows.by_id[layer_id].parent
    return found


def _by_document(rows: Rows[ImageRecord]) -> dict[str, tuple[ImageRecord, str]]:
    """Big data items that are documents of the image-spec, by digest."""
    found: dict[str, tuple[ImageRecord, str]] = {}
    for record in rows.by_id.values():
        for key in record.data_names:
            if key == "manifest":
                found.setdefault(record.data_digests.get(key, ""), (record, key))
            elif key.startswith(("manifest-", "sha256:")):
                found.setdefault(key.removeprefix("manifest-"), (record, key))
    return found


def _same(one: View, other: View) -> bool:
    return (
        all(a is b for a, b in zip(one.images, other.images, strict=True))
        and all(a is b for a, b in zip(one.layers, other.layers, strict=True))
        and one.containers is other.containers
    )


def _items(image: RemoteImage) -> tuple[dict[str, bytes], str]:
    """Big data of a pulled image, and the text of the record's metadata."""
    if not _SHA256.fullmatch(image.config_digest):
        raise StoreFailure(f"image {image.name}: its config digest {image.config_digest!r} gives no image id")
    items = {image.config_digest: image.config}
    if image.index and image.index_digest and image.index_digest != image.manifest_digest:
        items[f"manifest-{image.index_digest}"] = image.index
    items[f"manifest-{image.manifest_digest}"] = image.manifest
    items["manifest"] = image.manifest
    metadata: dict[str, Any] = {}
    if image.signatures:
        items["signatures"] = b"".join(image.signatures)
        metadata["signature-sizes"] = [len(s) for s in image.signatures]
    for digest, signatures in (
        (image.manifest_digest, image.signatures),
        (image.index_digest, image.index_signatures),
    ):
        if signatures:
            items[f"signature-{digest.rpartition(':')[2]}"] = b"".join(signatures)
            metadata.setdefault("signatures-sizes", {})[digest] = [len(s) for s in signatures]
    return items, json.dumps(metadata, separators=(",", ":"))


def _divided(data: bytes, sizes: object) -> list[bytes]:
    """Pieces of these sizes; none unless they add up to the data."""
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        return []
    ends = list(itertools.accumulate(sizes))
    if not ends or ends[-1] != len(data):
        return []
    return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _is_signature(key: str) -> bool:
    return key == "signatures" or key.startswith("signature-")


def _signatures(record: ImageRecord) -> dict[str, str]:
    return {key: record.data_digests.get(key, "") for key in record.data_names if _is_signature(key)}


def _with_items(record: ImageRecord, items: Mapping[str, bytes], manifest_digest: str) -> ImageRecord:
    names, sizes, digests = list(record.data_names), dict(record.data_sizes), dict(record.data_digests)
    for stale in _signatures(record).keys() - items.keys():  # those of an earlier pull do not hold for this one
        names.remove(stale)
        sizes.pop(stale, None)
        digests.pop(stale, None)
    for key, data in items.items():
        if key not in names:
            names.append(key)
        sizes[key] = len(data)
        given = manifest_digest if key == "manifest" else key.partition("-")[2] if key.startswith("manifest-") else ""
        digests[key] = given or f"sha256:{hashlib.sha256(data).hexdigest()}"
    return replace(record, data_names=tuple(names), data_sizes=sizes, data_digests=digests)


def _give_name(edit: Edit[ImageRecord], record: ImageRecord, name: str) -> ImageRecord:
    """Add a name, taking it from whoever had it. Names are in the order in which they were given, newest first."""
    for other in _holders(edit.rows, name):
        if other.id != record.id:
            edit.put(replace(other, names=tuple(n for n in other.names if n != name)))
    names = (name, *(n for n in record.names if n != name))
    history = (name, *(n for n in record.names_history if n != name))
    return edit.put(replace(record, names=names, names_history=history))


def _holders(rows: Rows[ImageRecord], name: str) -> list[ImageRecord]:
    return [r for r in rows.by_id.values() if name in r.names]


def _stored_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _config_time(config: bytes) -> str:
    created = _document(config).get("created")
    if isinstance(created, str) and (created == ZERO_TIME or parse_time(created)):
        return format_time(parse_time(created)) if created != ZERO_TIME else ZERO_TIME
    return format_time(time.time_ns())


def _document(data: bytes) -> dict[str, Any]:
    """A JSON object; an empty one for anything else (images of others may hold what we do not understand)."""
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {k: v for k, v in value.items() if isinstance(v, str)}


def _sequence(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def parse_config(raw: bytes) -> ImageConfig:
    """The parts of an image config (OCI image-spec config.md) that containers are made from."""
    config = _document(raw).get("config")
    if not isinstance(config, dict):
        return ImageConfig(raw=raw)

    def text(key: str) -> str:
        value = config.get(key)
        return value if isinstance(value, str) else ""

    volumes = config.get("Volumes")
    return ImageConfig(
        user=text("User"),
        env=_sequence(config.get("Env")),
        entrypoint=_sequence(config.get("Entrypoint")),
        cmd=_sequence(config.get("Cmd")),
        working_dir=text("WorkingDir"),
        volumes=tuple(sorted(volumes)) if isinstance(volumes, dict) else (),
        labels=_strings(config.get("Labels")),
        stop_signal=text("StopSignal"),
        raw=raw,
    )
