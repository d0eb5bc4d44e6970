"""What a look at the node finds, and where it looks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """``FAIL``: the daemon or every pod would fail; ``WARN``: something would, or is unusual."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what is there, and what to do about it ("" when nothing)."""

    level: Level
    subject: str
    text: str
    remedy: str = ""

    def line(self) -> str:
        """For a terminal."""
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{self.level.value:<4}  {self.subject}: {self.text}{remedy}"


def ok(subject: str, text: str) -> Finding:
    """As it should be."""
    return Finding(Level.OK, subject, text)


def warn(subject: str, text: str, remedy: str) -> Finding:
    """Something will not work, or differs from what most nodes have."""
    return Finding(Level.WARN, subject, text, remedy)


def fail(subject: str, text: str, remedy: str) -> Finding:
    """Nothing will work."""
    return Finding(Level.FAIL, subject, text, remedy)


@dataclass(frozen=True, slots=True)
class Place:
    """The host's files; tests look at a made-up host below ``prefix``."""

    prefix: str = ""

    def path(self, path: str) -> str:
        """Where an absolute path of the host is."""
        return self.prefix + path

    def text(self, path: str) -> str | None:
        """A small file without surrounding blanks; None when it cannot be read."""
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as f:
                return f.read(1 << 20).strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """A file that holds one number; None for anything else."""
        text = self.text(path)
        try:
            return int(text) if text is not None else None
        except ValueError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is something at the path."""
        return os.path.lexists(self.path(path))
