"""What one option is: the only place where its spelling, default, meaning and limits are written down.

The file template, flags, environment, completion scripts, manuals and ``docs/configuration.md`` are rendered from these
rows. A row whose ``key`` starts with ``cli.`` has no place in crio.conf: it exists as a flag only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Value = str | bool | int | tuple[str, ...]
Kind = Literal["string", "bool", "int", "strings", "duration", "map", "table"]
# "" needs a restart, "sighup" is applied on SIGHUP, "watch" means that the named file's content is followed
Reload = Literal["", "sighup", "watch"]
Rule = Callable[[Value], str]  # a value of the row's kind → what is wrong with it, "" when nothing is


@dataclass(frozen=True, slots=True)
class Row:
    """One option.

    ``deprecated`` tells what to use instead (or that nothing happens any more). ``later`` names the feature that this
    build lacks: setting the key to anything but ``idle`` (default: the default) then earns a warning.
    """

    key: str
    kind: Kind
    default: Value
    doc: str
    flags: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    reload: Reload = ""
    rules: tuple[Rule, ...] = ()
    deprecated: str = ""
    later: str = ""
    idle: Value | None = None
    hidden: bool = False

    @property
    def name(self) -> str:
        """The last part of the key, as it stands before the equals sign."""
        return self.key.rpartition(".")[2]

    @property
    def table(self) -> str:
        """The TOML table that holds the key."""
        return self.key.rpartition(".")[0]

    @property
    def in_file(self) -> bool:
        """Whether the key may stand in crio.conf."""
        return self.key.startswith("crio.")

    @property
    def unused(self) -> Value:
        """The value that does not ask for the feature named by ``later``."""
        return self.default if self.idle is None else self.idle
