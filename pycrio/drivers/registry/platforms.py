"""This machine in the terms of image-spec, and the choice among an index's entries."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ARCHES = {
    "x86_64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "mips64": ("mips64le", ""),
    "loongarch64": ("loong64", ""),
}
# What a machine of a variant runs, the best first. An entry without variant counts as the default in the middle.
_VARIANTS = {
    ("arm", "v8"): ("v8", "v7", "", "v6", "v5"),
    ("arm", "v7"): ("v7", "", "v6", "v5"),
    ("arm", "v6"): ("v6", "", "v5"),
    ("arm", "v5"): ("v5", ""),
    ("arm64", "v8"): ("v8", ""),
    ("arm64", ""): ("v8", ""),
    ("amd64", ""): ("", "v1"),
    ("amd64", "v1"): ("v1", ""),
    ("amd64", "v2"): ("v2", "", "v1"),
    ("amd64", "v3"): ("v3", "v2", "", "v1"),
    ("amd64", "v4"): ("v4", "v3", "v2", "", "v1"),
}


@dataclass(frozen=True, slots=True)
class Platform:
    """An image-spec platform."""

    os: str
    arch: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.arch, self.variant)))

    def rank(self, other: Platform) -> int:
        """How well an image for ``other`` runs here: 0 is best, -1 not at all."""
        if (other.os, other.arch) != (self.os, self.arch):
            return -1
        wanted = _VARIANTS.get((self.arch, self.variant), (self.variant, "") if self.variant else ("",))
        return wanted.index(other.variant) if other.variant in wanted else -1


def host(system: str = "", arch: str = "", variant: str = "") -> Platform:
    """The platform to pull for: what is given, the rest as this machine is."""
    found, kind = _ARCHES.get(os.uname().machine, (os.uname().machine, ""))
    return Platform(system or "linux", arch or found, variant or (kind if arch in ("", found) else ""))


def of_entry(entry: Mapping[str, Any]) -> Platform | None:
    """The platform that an index says of an entry, None when it does not."""
    value = entry.get("platform")
    if not isinstance(value, dict):
        return None
    texts = [value.get(key) for key in ("os", "architecture", "variant")]
    system, arch, variant = (text if isinstance(text, str) else "" for text in texts)
    return Platform(system, arch, variant)


def choose(entries: Sequence[Mapping[str, Any]], wanted: Platform) -> Mapping[str, Any] | None:
    """The entry of an index that fits best, the first of equals; None when none fits."""
    best: tuple[int, Mapping[str, Any]] | None = None
    for entry in entries:
        found = of_entry(entry)
        rank = -1 if found is None else wanted.rank(found)
        if rank >= 0 and (best is None or rank < best[0]):
            best = (rank, entry)
    return best[1] if best is not None else None
