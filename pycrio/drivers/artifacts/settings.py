"""What the artifacts driver is told by ``wiring.py``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """``root`` is the directory that holds our ``artifacts``; ``additional`` ones hold read-only ones, searched first
    and in this order. ``manifest_limit`` and ``index_limit`` bound in bytes what is read of a layout."""

    root: str
    additional: tuple[str, ...] = ()
    manifest_limit: int = 4 << 20
    index_limit: int = 64 << 20
