"""Copies of images with shifted ids, for kernels that cannot shift below overlay (store.md section 17).

Where ``overlay_idmap`` is missing, a container in a user namespace needs lower layers whose files belong to the ids of
that namespace. As other users of the store do it, the image gets a second top layer: beside the first one (same
parent, same digests), with the maps in its record and listed in the image's ``mapped-layers``. It holds everything that
the image shows, so that nothing of the layers below it, which have the wrong owners, is seen. It goes with the last
container that needs it: unlike others' ranges ours differ from pod to pod.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from dataclasses import dataclass, replace

from pycrio._native.pools import submit
from pycrio.drivers.layers.copying import Copier
from pycrio.drivers.layers.files import Place, make_dir
from pycrio.drivers.layers.index import Index, View
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay, mapped_root
from pycrio.drivers.layers.records import ImageRecord, LayerRecord, format_time
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.table import Edit
from pycrio.drivers.layers.turn import guarded, look, settle
from pycrio.errors import Overtaken, Unsupported
from pycrio.model.requests import StoreEntry

LOOKS = "shift-"  # prefix of the mount points below the run root through which images are read


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy that no record knows yet: of which layer of which image, and where its content is."""

    image_id: str
    top: str
    content: Place


class Shifter:
    """Makes, finds and removes the copies."""

    def __init__(self, settings: Settings, index: Index, overlay: Overlay, mounter: Mounter) -> None:
        self._settings = settings
        self._index = index
        self._overlay = overlay
        self._mounter = mounter

    async def stage(self, entry: StoreEntry) -> Staged | None:
        """Copy the image of a container that is about to be made; None when that needs no copy, or has one already.
        Nothing is locked meanwhile. Unsupported when an owner of a file is not mapped, or the image is not ours."""
        if not (entry.uid_map or entry.gid_map) or await look(lambda: self._mounter.offers("overlay_idmap")):
            return None
        view = await self._index.current()
        found = view.image(entry.image_id)
        if found is None or not found[0].layer or _copy_of(view, found[0], entry):
            return None
        if found[1]:
            raise Unsupported(
                f"image {entry.image_id} lies in an additional store, and this kernel has no id-mapped mounts below "
                "overlay: containers in user namespaces need an image of the node's own store"
            )
        image = found[0]
        return await settle(
            submit("unpack", guarded, lambda: self._copy(image, entry)), lambda staged: staged.content.remove()
        )

    def _copy(self, image: ImageRecord, entry: StoreEntry) -> Staged:
        content = Place.create(f"{self._settings.image_home}/tempdirs")
        try:
            target = self._overlay.stage(f"{content.path}/layer")
            lowers = self._overlay.image_lowers(image.layer)
            source = self._look_at(lowers)
            try:
                Copier(source, (entry.uid_map, entry.gid_map)).copy(target)
            finally:
                os.close(source)
            _cover(target, lowers[1:])
        except BaseException:
            content.remove()
            raise
        return Staged(image.id, image.layer, content)

    def _look_at(self, lowers: tuple[str, ...]) -> int:
        """A descriptor of the image's content; its mount has no name any more, so that a crash leaves none."""
        target = f"{self._settings.run_root}/overlay/{LOOKS}{secrets.token_hex(8)}"
        with self._index.layers.locks.read():  # whoever removes what a crash left has it alone
            make_dir(target)
            try:
                self._mounter.mount_image(lowers, target, "")
                try:
                    return os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                finally:
                    self._mounter.unmount(target)
            finally:
                os.rmdir(target)

    def parent(
        self,
        view: View,
        entry: StoreEntry,
        staged: Staged | None,
        lists: tuple[Edit[LayerRecord], Edit[ImageRecord] | None],
        trash: Trash,
    ) -> str:
        """The layer that a container is to be made above, "" for the image's own; a staged copy becomes part of the
        store. Overtaken when the copy that was there at first is gone."""
        if not (entry.uid_map or entry.gid_map) or self._mounter.offers("overlay_idmap"):
            return ""
        found = view.image(entry.image_id)
        if found is None or not found[0].layer:
            return ""
        known = _copy_of(view, found[0], entry)
        if known:
            return known
        layers, images = lists
        if staged is None or images is None or found[0].layer != staged.top:
            raise Overtaken(f"the copy of image {entry.image_id} for this user namespace went with another container")
        return self._commit(found[0], entry, staged, (layers, images), trash)

    def _commit(
        self,
        image: ImageRecord,
        entry: StoreEntry,
        staged: Staged,
        lists: tuple[Edit[LayerRecord], Edit[ImageRecord]],
        trash: Trash,
    ) -> str:
        layers, images = lists
        original, directory = layers.rows.by_id[staged.top], self._settings.layers_dir
        record = LayerRecord(
            id=secrets.token_hex(32),
            parent=original.parent,
            created=format_time(time.time_ns()),
            compressed_digest=original.compressed_digest,
            compressed_size=original.compressed_size,
            diff_digest=original.diff_digest,
            diff_size=original.diff_size,
            compression=original.compression,
            uidset=original.uidset,
            gidset=original.gidset,
            uidmap=entry.uid_map,
            gidmap=entry.gid_map,
        )
        self._index.claims.add(record.id, record.id)
        flagged = LayerRecord(id=record.id, parent=record.parent, created=record.created, flags={"incomplete": True})
        layers.put(flagged, self._index.image_layers_place)
        layers.save()
        try:
            split = f"{directory}/{original.id}.tar-split.gz"
            if os.path.exists(split):
                shutil.copyfile(split, f"{directory}/{record.id}.tar-split.gz")
                os.chmod(f"{directory}/{record.id}.tar-split.gz", 0o600)
            owner = mapped_root(entry.uid_map, entry.gid_map)
            self._overlay.adopt(f"{staged.content.path}/layer", record.id, record.parent, owner)
        except BaseException:
            delete_layers(layers, [record.id], self._overlay, self._settings, trash)
            raise
        layers.put(record)
        layers.save()
        images.put(replace(image, mapped_layers=(*image.mapped_layers, record.id)))
        images.save()
        self._index.claims.drop([record.id])
        return record.id

    def is_copy(self, view: View, layer_id: str) -> bool:
        """Whether a layer is a copy that an image of our store has."""
        return any(layer_id in image.mapped_layers for image in view.images[0].by_id.values())

    def release(self, copy: str, layers: Edit[LayerRecord], images: Edit[ImageRecord], trash: Trash) -> None:
        """Remove a copy unless another container is above it."""
        if any(record.parent == copy for record in layers.rows.by_id.values()):
            return
        mine = self._index.claims.doom([copy])
        for image in list(images.rows.by_id.values()):
            if copy in image.mapped_layers:
                images.put(replace(image, mapped_layers=tuple(i for i in image.mapped_layers if i != copy)))
        images.save()
        delete_layers(layers, mine, self._overlay, self._settings, trash)
        self._index.claims.drop(mine)


def _copy_of(view: View, image: ImageRecord, entry: StoreEntry) -> str:
    for layer_id in image.mapped_layers:
        layer = view.layer(layer_id)
        if layer is not None and (layer.uidmap, layer.gidmap) == (entry.uid_map, entry.gid_map):
            return layer_id
    return ""


def _cover(target: str, lowers: tuple[str, ...]) -> None:
    """Let nothing of the lower layers show through a copy of everything: its directories hide theirs, and what they
    have beside them is hidden by whiteouts."""
    shown = set(os.listdir(target))
    for name in shown if lowers else ():
        path = f"{target}/{name}"
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.setxattr(path, "trusted.overlay.opaque", b"y", follow_symlinks=False)
    for name in {name for lower in lowers for name in os.listdir(lower)} - shown:
        os.mknod(f"{target}/{name}", stat.S_IFCHR, os.makedev(0, 0))
