"""Repair when the store is opened, and collection of what crashes left (store.md sections 13 and 20).

Everything is done under the locks that the makers of these things hold, so nothing in the making is mistaken for
garbage: a layer directory without record, or a writable layer without container, cannot be seen from outside unless
its maker died.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from pycrio.drivers.layers import hold
from pycrio.drivers.layers.files import remove_tree, sweep_places
from pycrio.drivers.layers.index import VOLATILE, Index
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import LayerRecord, is_id
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.table import Edit


def collect(settings: Settings, index: Index, overlay: Overlay, mounter: Mounter, trash: Trash) -> int:
    """Remove incomplete layers, orphaned directories and files, abandoned places; how many things."""
    with index.layers.edit() as edit:
        incomplete = [r.id for r in edit.rows.by_id.values() if r.incomplete]
        removed = delete_layers(edit, incomplete, overlay, settings, trash)
        removed += delete_layers(edit, _abandoned(index, edit), overlay, settings, trash)
        removed += _orphans(settings, overlay, edit, trash)
        with index.mounts.edit() as mounts:
            hold.release(edit, mounts, overlay, mounter, trash)
        removed += _data_directories(index, settings)
        removed += overlay.heal_links()
    for base in dict.fromkeys((f"{settings.home}/tempdirs", f"{settings.image_home}/tempdirs")):
        removed += sweep_places(base)
    removed += sweep_places(f"{settings.layers_dir}/tmp")
    return removed


def _abandoned(index: Index, edit: Edit[LayerRecord]) -> list[str]:
    """Volatile layers that no container has: whoever made one died before it made the container."""
    view = index.view()
    held = view.held_layers() | {r.parent for r in edit.rows.by_id.values()}
    return [i for i, place in edit.rows.place.items() if place == VOLATILE and i not in held]


def _transient(settings: Settings) -> Iterable[str]:
    """Layers whose records another program keeps in the run directory (transient store)."""
    try:
        with open(f"{settings.run_layers_dir}/volatile-layers.json", "rb") as f:
            documents = json.loads(f.read() or b"[]")
    except FileNotFoundError:
        return ()
    return [str(d.get("id")) for d in documents]


def _orphans(settings: Settings, overlay: Overlay, edit: Edit[LayerRecord], trash: Trash) -> int:
    """Layer directories, tar-split files and layer data without a record."""
    known = {*edit.rows.by_id, *_transient(settings)}
    removed = 0
    for home in overlay.own_homes:
        for name in os.listdir(home):
            if is_id(name) and name not in known:
                for path in overlay.paths(name) or [f"{home}/{name}"]:
                    trash.take(path)
                removed += 1
    for name in os.listdir(settings.layers_dir):
        ident = name.removesuffix(".tar-split.gz")
        if is_id(ident) and ident not in known:
            trash.take(f"{settings.layers_dir}/{name}")
            removed += 1
        elif name.startswith(".tmp-"):  # a writer of these files holds the lock that we hold
            os.unlink(f"{settings.layers_dir}/{name}")
            removed += 1
    return removed


def _data_directories(index: Index, settings: Settings) -> int:
    """Big data of images without a record, and temporary files of images and containers."""
    removed = 0
    with index.images.edit() as images:
        for name in os.listdir(settings.images_dir):
            if (is_id(name) and name not in images.rows.by_id) or name.startswith(".tmp-"):
                remove_tree(f"{settings.images_dir}/{name}")
                removed += 1
    with index.containers.edit():
        for name in os.listdir(settings.containers_dir):
            if name.startswith(".tmp-"):
                remove_tree(f"{settings.containers_dir}/{name}")
                removed += 1
    return removed
