"""What there is on the host at a moment, and what has come to it since another."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import re
import subprocess
import time
from dataclasses import dataclass

from pycrio.drivers.layers import hold
from tests.system.node import Node

Things = collections.Counter[str]
TOLERANCE = 0.05  # of the daemon's memory
SETTLE = 30.0  # seconds for the kernel and for monitors to finish what nobody waits for
FEWER_IS_FINE = frozenset({"descriptors"})  # idle connections come and go
MAX_THREADS = 64  # all pools full
_OWN = re.compile(r"\.pycrio-claims/\w+")  # one file of each run of the daemon, with a name of its own
_COUNTERS = re.compile(r"\[\d+:\d+\]|counter packets \d+ bytes \d+")


@dataclass(frozen=True)
class Memory:
    """The daemon's, in kB: its own (anonymous) pages, its share of all, and all pages that it has in memory."""

    own: int
    pss: int
    rss: int


@dataclass(frozen=True)
class Picture:
    """``things`` by kind. Threads belong to pools that grow to their size when there is need: only counted."""

    things: dict[str, Things]
    threads: int
    memory: Memory


def take(node: Node) -> Picture:
    """Look at everything. Pods should be gone, and no call should be running."""
    held = node.picture()
    d = pathlib.Path(node.dir)
    things = {
        "mounts": held["mounts"],
        "namespace pins": Things(held["pins"]),
        "cgroups": Things(held["cgroups"]),
        "processes": Things(held["processes"].values()),
        "interfaces": Things(os.listdir("/proc/sys/net/ipv4/conf")),
        "firewall rules": _rules(),
        "addresses": Things(held["addresses"]),
        "CNI cache": Things(held["cni cache"]),
        "run files": _files(d, ("run", "rt", "exits", "attach", "logs", "ns", "pods")),
        "store records": _records(d),
        "store files": _store_files(d),
        "descriptors": Things(),
    }
    for name, number in held["descriptors"].items():
        things["descriptors"][_OWN.sub("claims of the daemon", name)] += number
    return Picture(things, len(os.listdir(f"/proc/{node.pid}/task")), _memory(node.pid))


def settled(node: Node, before: Picture | None = None) -> Picture:
    """The picture when it does not change any more, and is that of ``before`` if it gets there."""
    end = time.monotonic() + SETTLE
    last = take(node)
    while time.monotonic() < end:
        time.sleep(0.5)  # there is no event for "nothing more comes"
        now = take(node)
        if now.things == last.things and (before is None or not differences(before, now)):
            return now
        last = now
    return last


def differences(before: Picture, after: Picture) -> dict[str, list[str]]:
    """By kind: ``+ thing`` and ``- thing``."""
    found = {}
    for kind, then in before.things.items():
        now = after.things[kind]
        lines = [f"+ {thing} ×{number}" for thing, number in sorted((now - then).items())]
        if kind not in FEWER_IS_FINE:
            lines += [f"- {thing} ×{number}" for thing, number in sorted((then - now).items())]
        if lines:
            found[kind] = lines
    return found


def grown(before: Memory, after: Memory) -> float:
    """How much the daemon's own memory has grown, as a part of what it was."""
    return after.own / before.own - 1


def _rules() -> Things:
    """Of nftables (which holds iptables-nft's) and of the old iptables, without their packet counters."""
    found = Things()
    for command in (["nft", "list", "ruleset"], ["iptables-legacy-save"], ["ip6tables-legacy-save"]):
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = (_COUNTERS.sub("", line).strip() for line in text.splitlines())
        found.update(f"{command[0]}: {line}" for line in lines if line and not line.startswith("#"))
    return found


def _files(directory: pathlib.Path, below: tuple[str, ...]) -> Things:
    found = Things()
    for part in below:
        for path, names, files in os.walk(directory / part):
            found.update(os.path.relpath(os.path.join(path, n), directory) for n in (*names, *files))
    return found


def _indexes(directory: pathlib.Path) -> dict[str, list[dict[str, object]]]:
    found = {}
    for kind in ("layers", "images", "containers"):
        path = directory / "root" / f"overlay-{kind}" / f"{kind}.json"
        found[kind] = json.loads(path.read_text()) if path.exists() else []
    return found


def _held(directory: pathlib.Path) -> str:
    """The layer that keeps others from unmounting the store: each run of the daemon makes its own."""
    for layer in _indexes(directory)["layers"]:
        if hold.NAME in layer.get("names", ()):  # type: ignore[operator]
            return str(layer["id"])
    return "\0"


def _records(directory: pathlib.Path) -> Things:
    """Layers, images and containers of the store's indexes, pods and containers of our own."""
    held = _held(directory)
    found = Things(f"{kind} {item['id']}" for kind, items in _indexes(directory).items() for item in items)
    return Things({name.replace(held, "HOLD"): number for name, number in found.items()})


def _store_files(directory: pathlib.Path) -> Things:
    """Every name in the store, and the sizes of all files but indexes (which hold times) as one number."""
    held, size = _held(directory), 0
    link = pathlib.Path(directory, "root", "overlay", held, "link")
    short = link.read_text() if link.exists() else "\0"
    found = Things()
    for path, names, files in os.walk(directory / "root"):
        for name in (*names, *files):
            full = os.path.join(path, name)
            found[
                _OWN.sub(
                    "claims of the daemon",
                    os.path.relpath(full, directory).replace(held, "HOLD").replace(short, "HOLD"),
                )
            ] += 1
            if name in files and not name.endswith((".json", ".lock", "lock")):
                with contextlib.suppress(FileNotFoundError):
                    size += os.lstat(full).st_size
    found[f"{size} bytes in files"] += 1
    return found


def _memory(pid: int) -> Memory:
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {name: int(kb) for name, kb in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    return Memory(own=fields["Pss_Anon"], pss=fields["Pss"], rss=fields["Rss"])
