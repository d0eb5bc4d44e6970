"""Commands that do the daemon's work without serving: ``wipe`` and ``check``; and the hand-over to the daemon."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from pycrio.commands import run as start
from pycrio.config.load import Settings
from pycrio.config.values import Config


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What ``pycrio check`` was asked for; ``age`` in seconds."""

    age: float = 86400.0
    force: bool = False
    repair: bool = False
    quick: bool = False
    wipe: bool = False


class Daemon(Protocol):
    """What the commands call of ``pycrio.daemon``; each answers the exit code."""

    def run(self, config: Config) -> int:
        """Serve until a signal ends it."""

    def wipe(self, config: Config, *, force: bool) -> int:
        """Remove containers and images by the rules of the version files."""

    def check(self, config: Config, options: CheckOptions) -> int:
        """Look over node and store."""


def daemon() -> Daemon:
    """The daemon's module: loaded last, because it loads everything."""
    return cast(Daemon, importlib.import_module("pycrio.daemon"))


def wipe(settings: Settings, environ: Mapping[str, str], force: bool) -> int:
    """``pycrio wipe``."""
    config = start.prepare(settings, environ)
    return 1 if config is None else daemon().wipe(config, force=force)


def check(settings: Settings, environ: Mapping[str, str], options: CheckOptions) -> int:
    """``pycrio check``."""
    config = start.prepare(settings, environ)
    return 1 if config is None else daemon().check(config, options)
