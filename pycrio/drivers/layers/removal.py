"""Deletion of layers so that a crash leaves nothing half-deleted in sight (store.md section 13).

A record is flagged incomplete and saved; the layer's directories are renamed out of the store; the record is dropped
and saved. The real deletion, which may take seconds, follows when the locks are released.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pycrio.drivers.layers.files import Place
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import LayerRecord
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.table import Edit
from pycrio.obs import log as obslog

log = obslog.get("store")


class Trash:
    """Where deleted things go: one place per directory tree, made on first use. ``empty`` deletes for good; it may take
    seconds, so it comes when the locks are released."""

    def __init__(self, settings: Settings) -> None:
        # A rename must not leave its tree: a home may be a mount point of its own.
        self._bases = {
            f"{settings.home}/": f"{settings.home}/tempdirs",
            f"{settings.image_home}/": f"{settings.image_home}/tempdirs",
            f"{settings.layers_dir}/": f"{settings.layers_dir}/tmp",
        }
        self._places: dict[str, Place] = {}

    def take(self, path: str) -> None:
        """Move a file or directory out of the store; absent is fine."""
        base = next(base for tree, base in self._bases.items() if path.startswith(tree))
        if base not in self._places:
            self._places[base] = Place.create(base)
        self._places[base].take(path)

    @property
    def used(self) -> bool:
        """True when there is something to delete."""
        return bool(self._places)

    def empty(self) -> None:
        """Delete everything. What resists is left to a later sweep, which is logged."""
        while self._places:
            _, place = self._places.popitem()
            try:
                place.remove()
            except OSError as e:
                log.warning("Deleted files cannot be removed from disk, leaving them to a later sweep", error=str(e))


def delete_layers(
    edit: Edit[LayerRecord], layer_ids: Iterable[str], overlay: Overlay, settings: Settings, trash: Trash
) -> int:
    """Delete layers of the primary store; those that are not there are passed over. Returns how many were."""
    doomed = [edit.rows.by_id[i] for i in layer_ids if i in edit.rows.by_id]
    for record in doomed:
        if not record.incomplete:
            edit.put(replace(record, flags={**record.flags, "incomplete": True}))
    edit.save()
    for record in doomed:
        for path in overlay.paths(record.id):
            trash.take(path)
        trash.take(f"{settings.layers_dir}/{record.id}.tar-split.gz")
        trash.take(f"{settings.layers_dir}/{record.id}")
        edit.drop(record.id)
    edit.save()
    return len(doomed)
