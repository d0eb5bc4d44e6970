"""The Rootfs port: writable root file systems as containers of the shared store (store.md sections 5, 7, 18)."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from pycrio._native.pools import offload, submit
from pycrio.drivers.layers import hold, shifted
from pycrio.drivers.layers.files import let_through, make_dir, remove_tree
from pycrio.drivers.layers.index import VOLATILE, Index, View
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay, mapped_root
from pycrio.drivers.layers.records import ContainerRecord, LayerRecord, MountRecord, format_time, is_id
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.shifted import Shifter
from pycrio.drivers.layers.table import Edit
from pycrio.drivers.layers.turn import Turn, guarded, look, settle
from pycrio.drivers.layers.usage import Usage
from pycrio.errors import (
    AlreadyExists,
    Exhausted,
    ImageMountFailed,
    InvalidRequest,
    NotFound,
    Overtaken,
    StoreFailure,
    Unsupported,
)
from pycrio.model.requests import ContainerDirs, StoreEntry
from pycrio.model.security import IdMaps
from pycrio.model.stats import FsUsage

# A copy for a user namespace may go with the last container of another one, now and then.
_TRIES = 3


class Rootfs:
    """Writable root file systems of containers (port ``Rootfs``)."""

    def __init__(
        self, settings: Settings, index: Index, overlay: Overlay, mounter: Mounter, usage: Usage, turn: Turn
    ) -> None:
        self._settings = settings
        self._index = index
        self._overlay = overlay
        self._mounter = mounter
        self._usage = usage
        self._turn = turn
        self._shifter = Shifter(settings, index, overlay, mounter)

    # --- making ---

    async def create(self, entry: StoreEntry) -> ContainerDirs:
        """Make the read-write layer above the image and the container's record and directories.

        AlreadyExists for a taken id or name, NotFound for an unknown image. A cancelled call leaves nothing.
        """
        layer_id = secrets.token_hex(32)
        for tries_left in reversed(range(_TRIES)):
            try:
                return await self._make(entry, layer_id)
            except Overtaken:
                if not tries_left:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    async def _make(self, entry: StoreEntry, layer_id: str) -> ContainerDirs:
        staged = await self._shifter.stage(entry)
        try:
            return await self._turn.run(
                lambda trash: self._create(entry, layer_id, staged, trash),
                lambda _, trash: self._remove(entry.id, trash),
            )
        except Exhausted:  # the undoing may have been in want of space as well
            await self._turn.free(lambda trash: self._discard(entry.id, layer_id, trash))
            raise
        finally:
            if staged is not None:
                await settle(submit("store", guarded, staged.content.remove))

    def _discard(self, container_id: str, layer_id: str, trash: Trash) -> None:
        with self._index.layers.edit() as layers, self._index.containers.edit() as containers:
            if layer_id in layers.rows.by_id:
                delete_layers(layers, [layer_id], self._overlay, self._settings, trash)
            if container_id not in containers.rows.by_id:
                self._remove_dirs(container_id)

    def _create(self, entry: StoreEntry, layer_id: str, staged: shifted.Staged | None, trash: Trash) -> ContainerDirs:
        if not is_id(entry.id):
            raise InvalidRequest(f"container id {entry.id!r} is not made of 64 hexadecimal digits")
        with self._index.layers.edit() as layers, ExitStack() as stack:
            images = stack.enter_context(self._index.images.edit()) if staged is not None else None
            with self._index.containers.edit() as containers:
                view = self._index.view()
                self._refuse_taken(view, entry)
                layer = self._layer_record(view, entry, layer_id)
                copy = self._shifter.parent(view, entry, staged, (layers, images), trash)
                layer = replace(layer, parent=copy or layer.parent)
                try:
                    layers.put(LayerRecord(**_skeleton(layer), flags={"incomplete": True}), VOLATILE)
                    layers.save()
                    owner = mapped_root(entry.uid_map, entry.gid_map)
                    self._overlay.make_writable(layer.id, layer.parent, owner)
                    layers.put(layer)
                    layers.save()
                    dirs = self._dirs(entry.id)
                    make_dir(dirs.run)
                    make_dir(dirs.persist)
                    if entry.uid_map:
                        let_through(f"{self._settings.home}/{layer.id}", self._settings.root)
                        let_through(dirs.run, self._settings.run_root)
                    containers.put(_container(entry, layer), VOLATILE)
                    containers.save()
                except BaseException:
                    delete_layers(layers, [layer.id], self._overlay, self._settings, trash)
                    self._remove_dirs(entry.id)
                    raise
        return dirs

    def _refuse_taken(self, view: View, entry: StoreEntry) -> None:
        if entry.id in view.containers.by_id:
            raise AlreadyExists(f"container {entry.id} is in the store already")
        for name in entry.names:
            holder = view.containers.named(name)
            if holder is not None:
                raise AlreadyExists(f"container name {name!r} is taken by container {holder.id} of the store")

    def _layer_record(self, view: View, entry: StoreEntry, layer_id: str) -> LayerRecord:
        parent = ""
        if entry.image_id:
            found = view.image(entry.image_id)
            if found is None:
                raise NotFound("image", entry.image_id)
            parent = found[0].layer
            if parent and view.layer(parent) is None:
                raise StoreFailure(
                    f"image {entry.image_id} lost its layer {parent}: remove the image and pull it again"
                )
        name = f"{entry.names[0]}-layer" if entry.names else ""
        return LayerRecord(
            id=layer_id,
            names=(name,) if name else (),
            parent=parent,
            mountlabel=entry.mount_label,
            created=format_time(time.time_ns()),
            uidmap=entry.uid_map,
            gidmap=entry.gid_map,
        )

    def _dirs(self, container_id: str) -> ContainerDirs:
        return ContainerDirs(
            run=f"{self._settings.run_containers_dir}/{container_id}/userdata",
            persist=f"{self._settings.containers_dir}/{container_id}/userdata",
        )

    def _remove_dirs(self, container_id: str) -> None:
        remove_tree(f"{self._settings.run_containers_dir}/{container_id}")
        remove_tree(f"{self._settings.containers_dir}/{container_id}")

    # --- mounting ---

    async def mount(self, container_id: str) -> str:
        """Mount the root file system; its path. Mounted already: nothing happens."""
        return await self._turn.run(lambda _: self._mount(container_id), lambda _path, _: self._unmount(container_id))

    def _mount(self, container_id: str) -> str:
        with self._index.layers.edit() as layers:
            view = self._index.view()
            container = view.containers.by_id.get(container_id)
            if container is None:
                raise NotFound("container", container_id, "it is not in the store")
            layer = view.layer(container.layer)
            if layer is None:
                raise StoreFailure(f"container {container_id} lost its layer {container.layer}: remove the container")
            uid_map, gid_map = _left_to_shift(view, layer)
            if (uid_map or gid_map) and not self._mounter.offers("overlay_idmap"):
                raise Unsupported("this kernel has no id-mapped mounts below overlay, which user namespaces need")
            volatile = container.volatile and self._mounter.offers("volatile")
            options = container.flags.get("MountOpts")
            plan = self._overlay.plan(layer.id, options, volatile, layer.mountlabel)
            with self._index.mounts.edit() as mounts:
                hold.take(layers, mounts, self._overlay)
                known = mounts.rows.by_id.get(layer.id)
                if self._mounter.is_mounted(plan.target):
                    if known is None:
                        mounts.put(MountRecord(id=layer.id, path=plan.target, count=1))
                        mounts.save()
                    return plan.target
                try:
                    self._mounter.ensure_home()
                    self._mounter.mount(plan, uid_map, gid_map)
                except OSError as e:
                    raise StoreFailure(f"container {container_id}: its root file system cannot be mounted: {e}") from e
                try:
                    mounts.put(MountRecord(id=layer.id, path=plan.target, count=1))
                    mounts.save()
                except BaseException:
                    self._mounter.unmount(plan.target)
                    raise
        return plan.target

    async def unmount(self, container_id: str) -> None:
        """Give our hold on the mount up; it goes with the last hold. An unknown container is fine."""
        await self._turn.free(lambda _: self._unmount(container_id))

    def _unmount(self, container_id: str) -> None:
        with self._index.layers.locks.read():
            container = self._index.view().containers.by_id.get(container_id)
            if container is not None:
                self._drop_mount(container.layer, force=False)

    def _drop_mount(self, layer_id: str, *, force: bool) -> None:
        path = self._overlay.find(layer_id)
        with self._index.mounts.edit() as mounts:
            known = mounts.rows.by_id.get(layer_id)
            mounted = path is not None and self._mounter.is_mounted(f"{path}/merged")
            if known is not None and mounted and known.count > 1 and not force:
                mounts.put(MountRecord(id=layer_id, path=known.path, count=known.count - 1))
                mounts.save()
                return
            if path is not None:
                self._mounter.forget_shifted(path)
            if path is not None and mounted:
                self._mounter.unmount_all(f"{path}/merged")
                self._overlay.renew_target(path)
            mounts.drop(layer_id)
            mounts.save()

    # --- removal ---

    async def remove(self, container_id: str) -> None:
        """Unmount and delete layer, record and directories. An unknown container is fine."""
        await self._turn.free(lambda trash: self._remove(container_id, trash))

    def _remove(self, container_id: str, trash: Trash) -> None:
        with ExitStack() as stack:
            layers: Edit[LayerRecord] = stack.enter_context(self._index.layers.edit())
            copy = self._copy_below(container_id)
            images = stack.enter_context(self._index.images.edit()) if copy else None
            containers: Edit[ContainerRecord] = stack.enter_context(self._index.containers.edit())
            record = containers.rows.by_id.get(container_id)
            if record is None:
                return
            self._drop_mount(record.layer, force=True)
            delete_layers(layers, [record.layer], self._overlay, self._settings, trash)
            if images is not None:
                self._shifter.release(copy, layers, images, trash)
            self._usage.forget(f"{self._settings.home}/{record.layer}/diff")
            # The record goes last: after a crash it shows that there is something left to remove.
            try:
                self._remove_dirs(container_id)
            except OSError as e:
                raise StoreFailure(f"container {container_id}: its directories cannot be removed: {e}") from e
            containers.drop(container_id)
            containers.save()

    def _copy_below(self, container_id: str) -> str:
        """The copy with shifted ids that a container was made above, if it was."""
        view = self._index.view()
        container = view.containers.by_id.get(container_id)
        layer = view.layer(container.layer) if container is not None else None
        if layer is None or not (layer.uidmap or layer.gidmap):
            return ""
        return layer.parent if self._shifter.is_copy(view, layer.parent) else ""

    # --- images as volumes ---

    async def mount_image(self, image_id: str, target: str, label: str, maps: IdMaps = ((), ())) -> None:
        """Mount an image's content read-only on an existing directory; with maps it shows shifted ids, on kernels that
        have id-mapped mounts below overlay. ImageMountFailed says why it cannot be."""
        await self._turn.run(
            lambda _: self._mount_image(image_id, target, label, maps),
            lambda _done, _: self._mounter.unmount(target),
        )

    def _mount_image(self, image_id: str, target: str, label: str, maps: IdMaps) -> None:
        with self._index.layers.locks.read():
            found = self._index.view().image(image_id)
            if found is None:
                raise ImageMountFailed(f"image {image_id!r} does not exist locally")
            try:
                lowers = self._overlay.image_lowers(found[0].layer) if found[0].layer else ()
                self._mounter.mount_image(lowers, target, label, maps)
            except OSError as e:
                raise ImageMountFailed(f"image {image_id} cannot be mounted on {target!r}: {e}") from e

    async def unmount_image(self, target: str) -> None:
        """Undo mount_image; nothing mounted there is fine."""
        await offload("mount", self._mounter.unmount, target)

    # --- reading ---

    async def usage(self, container_id: str) -> FsUsage | None:
        """Use of the writable layer; None when the container is gone."""
        container = (await self._index.current()).containers.by_id.get(container_id)
        if container is None:
            return None
        diff = f"{self._settings.home}/{container.layer}/diff"
        found = await look(lambda: self._usage.tree(diff))
        if found is None:
            return None
        place = self._settings.containers_dir if self._settings.image_store else self._settings.images_dir
        return FsUsage(time.time_ns(), place, found.size, found.inodes)

    async def entries(self) -> Sequence[StoreEntry]:
        """Every container of the store that belongs to us (its metadata has pod-name and pod-id)."""
        containers = (await self._index.current()).containers
        return containers.derive(_ours)

    async def known(self, container_id: str) -> bool:
        """True when the store has a container of that id, whoever made it."""
        return container_id in (await self._index.current()).containers.by_id


def _left_to_shift(view: View, layer: LayerRecord) -> IdMaps:
    """Maps by which the layers below one have to be shifted; none when they are a copy that was."""
    below = view.layer(layer.parent) if layer.parent else None
    if below is not None and (below.uidmap, below.gidmap) == (layer.uidmap, layer.gidmap):
        return (), ()
    return layer.uidmap, layer.gidmap


def _skeleton(layer: LayerRecord) -> dict[str, Any]:
    return {"id": layer.id, "names": layer.names, "parent": layer.parent, "created": layer.created}


def _container(entry: StoreEntry, layer: LayerRecord) -> ContainerRecord:
    return ContainerRecord(
        id=entry.id,
        names=tuple(dict.fromkeys(entry.names)),
        image=entry.image_id,
        layer=layer.id,
        metadata=json.dumps(dict(entry.metadata), separators=(",", ":"), ensure_ascii=False),
        created=layer.created,
        uidmap=entry.uid_map,
        gidmap=entry.gid_map,
        flags={"MountLabel": entry.mount_label, "ProcessLabel": entry.process_label, "Volatile": True},
    )


def _ours(rows: Any) -> tuple[StoreEntry, ...]:
    found = []
    for record in rows.by_id.values():
        try:
            metadata = json.loads(record.metadata or "{}")
        except ValueError:
            continue  # another program's, in another form
        if not isinstance(metadata, dict) or not metadata.get("pod-name") or not metadata.get("pod-id"):
            continue
        label, process = record.flags.get("MountLabel") or "", record.flags.get("ProcessLabel") or ""
        found.append(
            StoreEntry(record.id, record.names, record.image, metadata, label, process, record.uidmap, record.gidmap)
        )
    return tuple(found)
