"""A hold on the store's mount point that programs of every age respect.

A program that shuts the store down detaches the driver's home, and every mount below goes with it, unless it sees a
layer with a mount count. Programs older than the volatile lists (containers/storage before 1.45, so Debian 12's podman)
do not see the layers of our containers. So while one of ours is mounted there is one small layer in the ordinary list,
counted as mounted on the home itself: they leave the mount point alone.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from pycrio.drivers.layers.index import STABLE, VOLATILE
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.records import LayerRecord, MountRecord, format_time
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.table import Edit

NAME = "pycrio-holds-the-mount-point"


def take(layers: Edit[LayerRecord], mounts: Edit[MountRecord], overlay: Overlay) -> None:
    """Make sure of the hold; quick when it is there."""
    record = layers.rows.named(NAME)
    if record is None or record.incomplete or overlay.find(record.id) is None:
        record = LayerRecord(id=secrets.token_hex(32), names=(NAME,), created=format_time(time.time_ns()))
        layers.put(replace(record, flags={"incomplete": True}), STABLE)
        layers.save()
        overlay.make_writable(record.id, "", (0, 0))
        layers.put(record)
        layers.save()
    if record.id not in mounts.rows.by_id:
        mounts.put(MountRecord(id=record.id, path=overlay.home, count=1))
        mounts.save()


def release(
    layers: Edit[LayerRecord], mounts: Edit[MountRecord], overlay: Overlay, mounter: Mounter, trash: Trash
) -> bool:
    """Give the hold up unless another layer is mounted; whether nothing is mounted any more.

    The mount table is asked as well: a program that does not know a layer drops its count.
    """
    holds = [r.id for r in layers.rows.by_id.values() if NAME in r.names]
    volatile = [i for i, place in layers.rows.place.items() if place == VOLATILE]
    if any(ident not in holds for ident in mounts.rows.by_id) or any(
        mounter.is_mounted(f"{overlay.home}/{ident}/merged") for ident in volatile
    ):
        return False
    for ident in holds:
        mounts.drop(ident)
    mounts.save()
    if holds:
        delete_layers(layers, holds, overlay, mounter.settings, trash)
    return True
