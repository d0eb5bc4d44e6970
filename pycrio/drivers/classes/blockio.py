"""Block I/O classes: from a file with device patterns to OCI ``linux.resources.blockIO`` (config-linux.md).

A class is a list of entries. One without devices sets the weight of all other devices; one with devices sets weight and
limits of those that its patterns match now. Of several values for a device the last counts. What is wrong with an entry
is told and left out: a typo in one class must not keep the node from starting.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from pycrio.drivers.classes.documents import fields, quantity, read
from pycrio.errors import ConfigError
from pycrio.obs import log as obslog

log = obslog.get("blockio")
LOWEST, HIGHEST = 10, 1000
LIMITS = {
    "throttlereadbps": "throttleReadBpsDevice",
    "throttlewritebps": "throttleWriteBpsDevice",
    "throttlereadiops": "throttleReadIOPSDevice",
    "throttlewriteiops": "throttleWriteIOPSDevice",
}
NAMES = ("Devices", "Weight", "ThrottleReadBps", "ThrottleWriteBps", "ThrottleReadIOPS", "ThrottleWriteIOPS")
Number = tuple[int, int]


def load(path: str) -> Mapping[str, Mapping[str, Any]]:
    """Every class of the file as an OCI document; ConfigError when the file has no such form."""
    try:
        classes = fields(read(path), "Classes").get("classes")
        classes = {} if classes is None else classes
        if not isinstance(classes, dict) or not all(isinstance(c, list | None) for c in classes.values()):
            raise ValueError("Classes is not a mapping of names to lists")
    except ValueError as e:
        raise ConfigError([f"{path}: {e}"]) from e
    return {str(name): _document(f"{path}: class {name}", entries or []) for name, entries in classes.items()}


def _document(where: str, entries: Sequence[Any]) -> dict[str, Any]:
    weight: int | None = None
    weights: dict[Number, int] = {}
    limits: dict[str, dict[Number, int]] = {name: {} for name in LIMITS.values()}
    for entry in entries:
        try:
            found = fields(entry, *NAMES)
        except ValueError as e:
            log.warning("Block I/O entry left out", place=where, error=str(e))
            continue
        values = _values(where, found)
        if not found.get("devices"):
            weight = values.pop("weight", weight)
            if values:
                log.warning("Block I/O limits without devices left out", place=where, limits=",".join(sorted(values)))
            continue
        for number in devices(where, found["devices"]):
            for name, value in values.items():
                (weights if name == "weight" else limits[LIMITS[name]])[number] = value
    out: dict[str, Any] = {} if weight is None else {"weight": weight}
    if weights:
        out["weightDevice"] = [{"major": n[0], "minor": n[1], "weight": w} for n, w in weights.items()]
    for name, rates in limits.items():
        if rates:
            out[name] = [{"major": n[0], "minor": n[1], "rate": r} for n, r in rates.items()]
    return out


def _values(where: str, found: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of an entry that are usable."""
    out = {}
    for name in ("weight", *LIMITS):
        text = found.get(name)
        if text in (None, ""):
            continue
        try:
            value = quantity(str(text))
            if value < 0 or (name == "weight" and not LOWEST <= value <= HIGHEST):
                raise ValueError(f"{value} is out of range" + (f" {LOWEST} to {HIGHEST}" if name == "weight" else ""))
        except ValueError as e:
            log.warning("Block I/O value left out", place=where, field=name, error=str(e))
        else:
            out[name] = value
    return out


def devices(where: str, patterns: Any) -> list[Number]:
    """Numbers of the block devices that patterns match, links followed; what is no block device is told."""
    found: dict[Number, None] = {}
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        paths = sorted(glob.glob(str(pattern)))
        if not paths:
            log.warning("No device matches", place=where, pattern=str(pattern))
        for path in paths:
            try:
                info = os.stat(path)
            except OSError as e:
                log.warning("Device left out", place=where, path=path, error=str(e.strerror))
                continue
            if not stat.S_ISBLK(info.st_mode):
                log.warning("Device left out: it is no block device", place=where, path=path)
                continue
            found[os.major(info.st_rdev), os.minor(info.st_rdev)] = None
    return list(found)
