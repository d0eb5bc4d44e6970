"""Intel RDT classes: from a file with shares of caches and memory bandwidth to groups of the resctrl file system.

The file divides each cache among partitions (exclusively) and each partition's part among its classes (they may
overlap). A class becomes a control group whose ``schemata`` say which cache ways and how much bandwidth it gets
(kernel: resctrl.rst). This module is arithmetic only; ``resctrl.py`` reads and writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio.drivers.classes.documents import fields

LEVELS = ("L2", "L3")
UNIFIED, CODE, DATA = "unified", "code", "data"
ROOT = ("", "system/default")
NO_LIMIT = (1 << 32) - 1
_PERCENT = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?%")


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache level: its ids, its mask of ways, the fewest ways of a share; ``split`` where code and data differ."""

    ids: tuple[int, ...]
    mask: int
    min_bits: int
    split: bool = False


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Memory bandwidth by id: in percent, not below ``minimum``, or with ``mbps`` in MB/s."""

    ids: tuple[int, ...]
    minimum: int
    mbps: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What the hardware can divide."""

    caches: Mapping[str, Cache] = field(default_factory=dict)
    bandwidth: Bandwidth | None = None


@dataclass(frozen=True, slots=True)
class Class:
    """A class: the lines for its ``schemata``, and from where it may not be asked for."""

    schemata: str
    deny_pod: bool = False
    deny_container: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """A share of a cache: a mask, or a range in percent (``low`` 0: from the bottom)."""

    mask: int = 0
    low: int = 0
    high: int = 0

    @property
    def absolute(self) -> bool:
        """True for a mask."""
        return self.mask != 0


Shares = dict[int, dict[str, Share]]


def resolve(document: Mapping[str, Any], machine: Machine) -> dict[str, Class]:
    """Classes by name; ValueError says what in the document cannot be."""
    top = fields(document, "options", "partitions")
    options = fields(top.get("options"), "l2", "l3", "mb")
    optional = {key for key, value in options.items() if fields(value, "optional").get("optional") is True}
    raw = {} if top.get("partitions") is None else top["partitions"]
    if not isinstance(raw, dict):
        raise ValueError("partitions is not a mapping")
    names = ("l2Allocation", "l3Allocation", "mbAllocation")
    partitions = {str(n): fields(p, *names, "classes") for n, p in sorted(raw.items(), key=lambda item: str(item[0]))}
    grants = {level: _grants(level, partitions, machine) for level in LEVELS}
    out: dict[str, Class] = {}
    for name, partition in partitions.items():
        bandwidth = _bandwidth(partition.get("mballocation"), machine)
        for alias, body in (partition.get("classes") or {}).items():
            label = ROOT[0] if str(alias) in ROOT else str(alias)
            if label in out:
                raise ValueError(f"class {alias!r} is defined twice")
            if label and (label in (".", "..") or re.search(r"[/\n]", label) or len(label) > 4095):
                raise ValueError(f"{alias!r} cannot be the name of a class")
            own = fields(body, *names, "kubernetes")
            lines = []
            for level in LEVELS:
                lines += _cache_lines(level, own, partition, grants[level].get(name), machine, optional)
            lines += _bandwidth_lines(own, partition, bandwidth, machine, optional)
            deny = fields(own.get("kubernetes"), "denyPodAnnotation", "denyContainerAnnotation")
            out[label] = Class(
                "".join(f"{line}\n" for line in lines),
                deny.get("denypodannotation") is True,
                deny.get("denycontainerannotation") is True,
            )
    return out


# --- caches -------------------------------------------------------------------------------------------------------


def _grants(level: str, partitions: Mapping[str, Mapping[str, Any]], machine: Machine) -> dict[str, Shares]:
    """Masks for each partition, by cache id and kind; empty where no partition asks for the level."""
    cache = machine.caches.get(level)
    wanted = {name: p.get(f"{level.lower()}allocation") for name, p in partitions.items()}
    if cache is None or not any(w is not None for w in wanted.values()):
        return {}
    asked = {name: _shares(value, cache) for name, value in wanted.items()}
    out: dict[str, Shares] = {name: {ident: {} for ident in cache.ids} for name in partitions}
    for ident in cache.ids:
        for kind in (UNIFIED, CODE, DATA):
            shares = {name: s[ident].get(kind) for name, s in asked.items()}
            lacking = [name for name, share in shares.items() if share is None]
            if len(lacking) == len(shares):
                continue
            if lacking:
                raise ValueError(f"{level} cache {ident}: partitions {', '.join(lacking)} ask for no {kind} share")
            masks = _divide(f"{level} cache {ident}", {n: s for n, s in shares.items() if s is not None}, cache)
            for name, mask in masks.items():
                out[name][ident][kind] = Share(mask=mask)
    return out


def _divide(where: str, shares: Mapping[str, Share], cache: Cache) -> dict[str, int]:
    """Exclusive masks for partitions."""
    if all(share.absolute for share in shares.values()):
        used = 0
        for name, share in shares.items():
            if share.mask & used:
                raise ValueError(f"{where}: the ways of partition {name!r} belong to another one as well")
            used |= share.mask
        return {name: share.mask for name, share in shares.items()}
    if any(share.absolute for share in shares.values()):
        raise ValueError(f"{where}: partitions cannot mix masks and percentages")
    if any(share.low for share in shares.values()):
        raise ValueError(f"{where}: a partition cannot be a range of percentages")
    total = sum(share.high for share in shares.values())
    if total > 100:
        raise ValueError(f"{where}: the partitions ask for {total} % together")
    counts = _ways(where, shares, total, cache)
    out, low = {}, 0
    for name in shares:
        out[name] = ((1 << counts[name]) - 1) << low
        low += counts[name]
    return out


def _ways(where: str, shares: Mapping[str, Share], total: int, cache: Cache) -> dict[str, int]:
    """Numbers of ways, the smallest shares first: they are the ones that may have to be rounded up."""
    left = total * cache.mask.bit_length() // 100
    percent = total
    counts: dict[str, int] = {}
    order = sorted(shares, key=lambda name: shares[name].high)
    for position, name in enumerate(order):
        if left < cache.min_bits:
            raise ValueError(f"{where}: too few ways for all partitions")
        count = max(shares[name].high * left // percent if percent else 0, cache.min_bits)
        counts[name] = left if position == len(order) - 1 else min(count, left)
        left -= counts[name]
        percent -= shares[name].high
    return counts


def _shares(value: Any, cache: Cache) -> Shares:
    """What a partition or class asks for, by id and kind; nothing without a value."""
    if value is None:
        return {ident: {} for ident in cache.ids}
    spread = {"all": value} if isinstance(value, str) else {str(k): v for k, v in value.items()}
    everywhere = _kinds(spread.pop("all", "100%"), cache)
    out = {ident: dict(everywhere) for ident in cache.ids}
    for key, item in spread.items():
        for ident in numbers(key):
            if ident in out:
                out[ident] = _kinds(item, cache)
    return out


def _kinds(value: Any, cache: Cache) -> dict[str, Share]:
    if isinstance(value, str):
        return {UNIFIED: _share(value, cache)}
    found = {kind: _share(str(text), cache) for kind, text in fields(value, UNIFIED, CODE, DATA).items() if text}
    if UNIFIED not in found:
        raise ValueError("a cache share without 'unified'")
    if (CODE in found) != (DATA in found):
        raise ValueError("a cache share has code and data, or neither")
    return found


def _share(text: str, cache: Cache) -> Share:
    match = _PERCENT.fullmatch(text.strip())
    if match is not None:
        low, high = (int(match[1]), int(match[2])) if match[2] else (0, int(match[1]))
        if low > high or high > 100:
            raise ValueError(f"{text!r} is no share in percent")
        return Share(low=low, high=high)
    mask = int(text, 16) if text.startswith("0x") else sum(1 << bit for bit in numbers(text))
    if mask == 0 or mask >> 64 or not contiguous(mask) or mask.bit_count() < cache.min_bits:
        raise ValueError(f"{text!r} is no cache mask: it must be one block of at least {cache.min_bits} ways")
    return Share(mask=mask)


def contiguous(mask: int) -> bool:
    """True for one block of ones."""
    return mask.bit_count() == mask.bit_length() - (mask & -mask).bit_length() + 1


def numbers(text: str) -> list[int]:
    """A list such as ``0-3,8``, below 128; ValueError when it is none."""
    out: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > 127:
            raise ValueError(f"{text!r} is not a list of numbers such as 0-3,8")
        out += range(int(first), int(last or first) + 1)
    return out


def overlay(base: int, share: Share, min_bits: int) -> int:
    """A class's share of its partition's ways."""
    low_bit = (base & -base).bit_length() - 1
    width = base.bit_length() - low_bit
    if share.absolute:
        mask = share.mask << low_bit
        if mask | base != base:
            raise ValueError(f"mask {share.mask:#x} does not fit into the partition's {base:#x}")
        return mask
    low = (max(share.low, 1) - 1) * width // 100
    high = (max(share.high, 1) - 1) * width // 100
    gap = max(0, min_bits - (high - low + 1))
    low, gap = max(0, low - gap), max(0, gap - low)
    high = min(width - 1, high + gap)
    return ((1 << (high - low + 1)) - 1) << (low + low_bit)


def _cache_lines(
    level: str,
    own: Mapping[str, Any],
    partition: Mapping[str, Any],
    granted: Shares | None,
    machine: Machine,
    optional: Iterable[str],
) -> list[str]:
    key = f"{level.lower()}allocation"
    asked, cache = own.get(key), machine.caches.get(level)
    if asked is not None and partition.get(key) is None:
        raise ValueError(f"a class asks for a share of {level}, but its partition has none")
    if cache is None:
        if asked is not None and level.lower() not in optional:
            raise ValueError(f"{level} cannot be divided on this machine, and options do not make it optional")
        return []
    shares = _shares(asked, cache)
    out = []
    for kind in (CODE, DATA) if cache.split else (UNIFIED,):
        words = []
        for ident in sorted(cache.ids):
            has = (granted or {}).get(ident, {})
            mask = (has.get(kind) or has.get(UNIFIED) or Share(mask=cache.mask)).mask
            share = shares[ident].get(kind) or shares[ident].get(UNIFIED)
            if share is not None:
                mask = overlay(mask, share, cache.min_bits)
            words.append(f"{ident}={mask:x}")
        out.append(f"{level}{'' if kind == UNIFIED else kind.upper()}:{';'.join(words)}")
    return out


# --- memory bandwidth ---------------------------------------------------------------------------------------------


def _bandwidth(value: Any, machine: Machine) -> dict[int, int] | None:
    """What a partition or class asks for, by id; None without a value."""
    bandwidth = machine.bandwidth
    if value is None or bandwidth is None:
        return None
    spread = {"all": value} if isinstance(value, list) else {str(k): v for k, v in value.items()}
    everywhere = _rate(spread.pop("all", ["100%", f"{NO_LIMIT}MBps"]), bandwidth)
    out = dict.fromkeys(bandwidth.ids, everywhere)
    for key, item in spread.items():
        for ident in numbers(key):
            if ident in out:
                out[ident] = _rate(item, bandwidth)
    return out


def _rate(values: Sequence[Any], bandwidth: Bandwidth) -> int:
    unit = "MBps" if bandwidth.mbps else "%"
    for value in values:
        text = str(value).strip()
        if text.endswith(unit) and text.removesuffix(unit).isdecimal():
            return int(text.removesuffix(unit))
    raise ValueError(f"memory bandwidth {values!r} has no value in {unit}, which this machine counts in")


def _bandwidth_lines(
    own: Mapping[str, Any],
    partition: Mapping[str, Any],
    granted: Mapping[int, int] | None,
    machine: Machine,
    optional: Iterable[str],
) -> list[str]:
    bandwidth, value = machine.bandwidth, own.get("mballocation")
    if value is not None and partition.get("mballocation") is None:
        raise ValueError("a class asks for memory bandwidth, but its partition has none")
    if bandwidth is None:
        if value is not None and "mb" not in optional:
            raise ValueError("memory bandwidth cannot be divided on this machine, and options do not make it optional")
        return []
    asked = _bandwidth(value, machine)
    words = []
    for ident in sorted(bandwidth.ids):
        if bandwidth.mbps:
            most = granted[ident] if granted is not None else NO_LIMIT
            rate = min(asked[ident] if asked is not None else NO_LIMIT, most)
        else:
            most = max(granted[ident], bandwidth.minimum) if granted is not None else 100
            rate = max((asked[ident] if asked is not None else 100) * most // 100, bandwidth.minimum)
        words.append(f"{ident}={rate}")
    return [f"MB:{';'.join(words)}"]
