"""Repair when the store is opened, and collection of what crashes left (store.md sections 13 and 20).

Everything is done under the locks that the makers of these things hold, so nothing in the making is mistaken for
garbage: a layer directory without record, or a writable layer without container, cannot be seen from outside unless
its maker died.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable

from pycrio.drivers.layers import hold
from pycrio.drivers.layers.files import remove_tree, sweep_places
from pycrio.drivers.layers.index import VOLATILE, Index
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import LayerRecord, is_id
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.shifted import LOOKS
from pycrio.drivers.layers.table import Edit


def collect(settings: Settings, index: Index, overlay: Overlay, mounter: Mounter, trash: Trash) -> int:
    """Remove incomplete layers, orphaned directories and files, abandoned places; how many things."""
    with index.layers.edit() as edit:
        incomplete = [r.id for r in edit.rows.by_id.values() if r.incomplete]
        removed = delete_layers(edit, incomplete, overlay, settings, trash)
        removed += delete_layers(edit, _abandoned(index, edit), overlay, settings, trash)
        with index.claims.abandoned() as claimed:
            unwanted = index.view().removable(claimed)
            removed += delete_layers(edit, unwanted, overlay, settings, trash)
        removed += _orphans(settings, overlay, edit, trash)
        with index.mounts.edit() as mounts:
            hold.release(edit, mounts, overlay, mounter, trash)
            removed += _temporary(settings.run_layers_dir)
            removed += _looks(settings, mounter)
        removed += _data_directories(index, settings)
        removed += overlay.heal_links()
    return removed + sweep(settings)


def sweep(settings: Settings) -> int:
    """Remove places whose owners died or gave up, ours and those of other programs; how many. Needs no lock."""
    bases = (f"{settings.home}/tempdirs", f"{settings.image_home}/tempdirs", f"{settings.layers_dir}/tmp")
    return sum(sweep_places(base) for base in dict.fromkeys(bases))


def _abandoned(index: Index, edit: Edit[LayerRecord]) -> list[str]:
    """Volatile layers that no container has: whoever made one died before it made the container."""
    view = index.view()
    held = view.held_layers() | {r.parent for r in edit.rows.by_id.values()}
    return [i for i, place in edit.rows.place.items() if place == VOLATILE and i not in held]


def _transient(path: str) -> Iterable[str]:
    """Objects whose records another program keeps in the run directory (transient store)."""
    try:
        with open(path, "rb") as f:
            documents = json.loads(f.read() or b"[]")
    except FileNotFoundError:
        return ()
    return [str(d.get("id")) for d in documents]


def _orphans(settings: Settings, overlay: Overlay, edit: Edit[LayerRecord], trash: Trash) -> int:
    """Layer directories, tar-split files and layer data without a record."""
    known = {*edit.rows.by_id, *_transient(f"{settings.run_layers_dir}/volatile-layers.json")}
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
    return removed + _temporary(settings.layers_dir)


def _looks(settings: Settings, mounter: Mounter) -> int:
    """Take away mounts through which somebody who died wanted to read an image."""
    base = f"{settings.run_root}/overlay"
    names = [name for name in os.listdir(base) if name.startswith(LOOKS)]
    for name in names:
        mounter.unmount_all(f"{base}/{name}")
        os.rmdir(f"{base}/{name}")
    return len(names)


def _temporary(directory: str) -> int:
    """Remove temporary files; whoever writes a list there holds the lock that the caller holds."""
    names = [name for name in os.listdir(directory) if name.startswith(".tmp-")]
    for name in names:
        os.unlink(f"{directory}/{name}")
    return len(names)


def _data_directories(index: Index, settings: Settings) -> int:
    """Big data of images and persistent directories of containers without a record, and temporary files."""
    with index.images.edit() as images:
        removed = _unknown(settings.images_dir, images.rows.by_id)
    with index.containers.edit() as containers:
        transient = _transient(f"{settings.run_containers_dir}/volatile-containers.json")
        return removed + _unknown(settings.containers_dir, {*containers.rows.by_id, *transient})


def _unknown(directory: str, known: Container[str]) -> int:
    removed = 0
    for name in os.listdir(directory):
        if (is_id(name) and name not in known) or name.startswith(".tmp-"):
            remove_tree(f"{directory}/{name}")
            removed += 1
    return removed
