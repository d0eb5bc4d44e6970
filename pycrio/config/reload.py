"""What a SIGHUP changes: the files are read again, differences listed, and those taken over that may change live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pycrio.config import load, render
from pycrio.config.decode import RUNTIMES, WORKLOADS
from pycrio.config.options import BY_KEY, ROWS, Value
from pycrio.config.values import Config, HandlerConf, WorkloadConf

# The order in which changes are applied and logged.
ORDER = (
    *("crio.runtime.log_level", "crio.runtime.log_filter"),
    *("crio.image.pause_image", "crio.image.pause_image_auth_file", "crio.image.pause_command"),
    *("crio.image.pinned_images", "crio.runtime.decryption_keys_path"),
    *("crio.runtime.seccomp_profile", "crio.runtime.privileged_seccomp_profile", "crio.runtime.apparmor_profile"),
    *("crio.runtime.blockio_config_file", "crio.runtime.blockio_reload", "crio.runtime.rdt_config_file"),
    *(RUNTIMES, "crio.runtime.default_runtime", "crio.runtime.cdi_spec_dirs"),
)
Conf = Value | HandlerConf | WorkloadConf | None


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. ``live``: taken over now; else it waits for a restart. None: there is no such entry."""

    key: str
    old: Conf
    new: Conf
    live: bool

    @property
    def event(self) -> str:
        """The sentence for the log, in the form that CRI-O's tools look for."""
        if self.live:
            return f'Set config {self.key.rpartition(".")[2]} to "{shown(self.new)}"'
        return f"Config {self.key} has changed, which takes effect at the next start"


def shown(value: Conf) -> str:
    """A value for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return "[" + " ".join(value) + "]"
    if isinstance(value, HandlerConf | WorkloadConf):
        return repr(value)
    return "removed" if value is None else render.literal(value)


def reread(
    config: Config, environ: Mapping[str, str], host: load.HostFacts | None = None
) -> tuple[Config, tuple[Change, ...]]:
    """Read the files again; the configuration that holds from now on, and every change.

    As in CRI-O, flags and environment are not applied again: a reloadable key that only a flag had set goes back to
    what the files say. ConfigError tells every fault of the files; the old configuration stays in force then.
    """
    fresh = load.reread(config, environ, host)
    changes = diff(config, fresh)
    return apply(config, fresh), changes


def diff(old: Config, new: Config) -> tuple[Change, ...]:
    """Keys that differ, live ones first in the order of their application.

    Keys that a flag or variable set and that need a restart are not compared: they win at the next start, too.
    """
    keys = [*ORDER, *(row.key for row in ROWS if row.key not in ORDER)]
    out: list[Change] = []
    for key in keys:
        row = BY_KEY[key]
        if key == RUNTIMES:
            out += _entries(RUNTIMES, old.handlers, new.handlers, True)
        elif key == WORKLOADS:
            out += _entries(WORKLOADS, old.workloads, new.workloads, False)
        elif old.values[key] != new.values[key]:
            live = row.reload == "sighup"
            if row.in_file and (live or old.origin(key).kind not in {"flag", "env"}):
                out.append(Change(key, old.values[key], new.values[key], live))
    return tuple(out)


def _entries(
    table: str, old: Mapping[str, HandlerConf | WorkloadConf], new: Mapping[str, HandlerConf | WorkloadConf], live: bool
) -> list[Change]:
    names = dict.fromkeys([*old, *new])
    return [
        Change(f"{table}.{name}", old.get(name), new.get(name), live)
        for name in names
        if old.get(name) != new.get(name)
    ]


def apply(old: Config, new: Config) -> Config:
    """``old`` with everything of ``new`` that may change live."""
    values, origins = dict(old.values), dict(old.origins)
    for row in ROWS:
        if row.reload == "sighup" and row.kind != "table":
            values[row.key] = new.values[row.key]
            origins.pop(row.key, None)
            if row.key in new.origins:
                origins[row.key] = new.origins[row.key]
    origins = {key: origin for key, origin in origins.items() if not key.startswith(RUNTIMES)}
    origins |= {key: origin for key, origin in new.origins.items() if key.startswith(RUNTIMES)}
    return replace(
        old, values=values, origins=origins, handlers=new.handlers, warnings=new.warnings, sources=new.sources
    )
