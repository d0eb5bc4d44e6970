"""The resctrl file system: what the machine can divide, and the groups of classes (kernel: resctrl.rst)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from pycrio.drivers.classes.rdt import LEVELS, Bandwidth, Cache, Class, Machine
from pycrio.errors import ConfigError
from pycrio.obs import log as obslog

log = obslog.get("rdt")


def mounted(mounts: str = "/proc/mounts") -> tuple[str, bool]:
    """Where resctrl is mounted ("" for nowhere), and whether it counts bandwidth in MB/s."""
    with open(mounts, encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            parts = line.split(" ")
            if len(parts) > 3 and parts[2] == "resctrl":
                return parts[1], "mba_MBps" in parts[3].split(",")
    return "", False


def look(root: str, mbps: bool) -> Machine:
    """What can be divided. ConfigError when the file system does not look as it should."""
    try:
        ids = _ids(_read(f"{root}/schemata"))
        caches = {}
        for level in LEVELS:
            split = os.path.isdir(f"{root}/info/{level}CODE")
            info = f"{root}/info/{level}{'CODE' if split else ''}"
            if os.path.isdir(info):
                name = f"{level}CODE" if split else level
                caches[level] = Cache(
                    ids.get(name, ()), int(_read(f"{info}/cbm_mask"), 16), int(_read(f"{info}/min_cbm_bits")), split
                )
        bandwidth = None
        if os.path.isdir(f"{root}/info/MB"):
            bandwidth = Bandwidth(ids.get("MB", ()), int(_read(f"{root}/info/MB/min_bandwidth")), mbps)
        return Machine(caches, bandwidth)
    except (OSError, ValueError) as e:
        raise ConfigError([f"resctrl at {root} cannot be read: {e}"]) from e


def _ids(schemata: str) -> dict[str, tuple[int, ...]]:
    """Ids by resource of the root group's schemata, ``L3:0=ff;1=ff`` per line."""
    out = {}
    for line in schemata.splitlines():
        name, colon, rest = line.strip().partition(":")
        if colon:
            out[name] = tuple(int(word.partition("=")[0]) for word in rest.split(";"))
    return out


def groups(root: str) -> list[str]:
    """Names of the control groups, the root's not among them."""
    return sorted(
        name
        for name in os.listdir(root)
        if name not in ("info", "mon_groups", "mon_data") and os.path.isfile(f"{root}/{name}/tasks")
    )


def has(root: str, name: str) -> bool:
    """True when the group of a class is there."""
    return os.path.isfile(os.path.join(root, name, "tasks"))


def apply(root: str, classes: Mapping[str, Class]) -> None:
    """Make a group per class; empty groups of other names go, since there are few to be had. ConfigError says what the
    kernel refused."""
    for name in groups(root):
        if name not in classes:
            if _read(f"{root}/{name}/tasks"):
                log.warning("Resctrl group without a class stays, it has tasks", group=name)
                continue
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(f"{root}/{name}")
    for name, found in classes.items():
        directory = os.path.join(root, name).rstrip("/")
        try:
            os.makedirs(directory, exist_ok=True)
            if found.schemata:
                fd = os.open(f"{directory}/schemata", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
                try:
                    os.write(fd, found.schemata.encode())
                finally:
                    os.close(fd)
        except OSError as e:
            raise ConfigError([f"RDT class {name or 'system/default'} cannot be set up: {_status(root) or e}"]) from e


def _status(root: str) -> str:
    """What the kernel says of the last refusal."""
    try:
        text = _read(f"{root}/info/last_cmd_status")
    except OSError:
        return ""
    return "" if text == "ok" else text


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as f:
        return f.read(1 << 20).strip()
