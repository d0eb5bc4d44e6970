"""The configuration as a commented TOML file: what ``pycrio config`` prints and ``/config`` serves.

A key that equals the default is printed as a comment, every other one live; reading the result gives the same
configuration again. Deprecated keys whose value has moved to a successor do not appear.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pycrio.config.options import FILE_ROWS, HANDLER, RESOURCES, WORKLOAD, Row, Value
from pycrio.config.options.handlers import BUILT_IN
from pycrio.config.values import Config, HandlerConf, WorkloadConf

_BARE = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_ESCAPE = re.compile(r'[\\"\x00-\x1f\x7f]')
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f"}
# Keys that give way to others when a configuration is loaded: they could only be printed with their defaults.
MOVED = frozenset(
    {
        *("crio.runtime.conmon", "crio.runtime.conmon_cgroup", "crio.runtime.conmon_env"),
        *("crio.runtime.enable_criu_support", "crio.runtime.default_mounts", "crio.image.insecure_registries"),
        *("crio.network.plugin_dir", "crio.stats.stats_collection_period"),
    }
)
_HEAD = """
Configuration of pycrio, in the format of CRI-O's crio.conf(5). Commented keys have their default value. Files in
crio.conf.d are read after this one and win; environment variables and flags win over all files. Keys marked (reload)
are taken over by SIGHUP, all others at the next start.
"""


def document(config: Config) -> str:
    """The whole file."""
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    yield from _comment(_HEAD.strip())
    table = ""
    for row in FILE_ROWS:
        if row.table != table:
            table = row.table
            yield from ("", f"[{table}]")
        if row.key == "crio.runtime.runtimes":
            yield from _runtimes(config)
        elif row.key == "crio.runtime.workloads":
            yield from _workloads(config)
        elif row.key not in MOVED:
            value = config.values[row.key]
            yield from _key(row, value, live=value != config.defaults[row.key])


def _key(row: Row, value: Value | Mapping[str, str], *, live: bool) -> Iterator[str]:
    doc = row.doc
    if row.deprecated:
        doc += f" Deprecated: {row.deprecated}."
    if row.later:
        doc += f" (This version lacks {row.later}.)"
    if row.reload == "sighup" and ".*." not in row.key:
        doc += " (reload)"
    yield ""
    yield from _comment(doc)
    mark = "" if live else "# "
    for line in f"{row.name} = {literal(value)}".split("\n"):
        yield mark + line


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        118,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _runtimes(config: Config) -> Iterator[str]:
    row = next(row for row in FILE_ROWS if row.key == "crio.runtime.runtimes")
    yield ""
    yield from _comment(
        row.doc + " A later file that declares a handler again replaces it altogether; the handler crun is there "
        "unless a file declares it. (reload)"
    )
    for handler in config.handlers.values():
        yield from _handler(handler, live=handler != built_in(handler.name, config))


def built_in(name: str, config: Config) -> HandlerConf | None:
    """A handler as it is when no file declares it."""
    if name not in BUILT_IN:
        return None
    bare = HandlerConf(name, **BUILT_IN[name])  # type: ignore[arg-type]
    systemd = config.text("crio.runtime.cgroup_manager") == "systemd"
    return replace(bare, monitor_cgroup="system.slice" if systemd else "")


def _handler(handler: HandlerConf, *, live: bool) -> Iterator[str]:
    yield ""
    yield ("" if live else "# ") + f"[crio.runtime.runtimes.{name(handler.name)}]"
    for row in HANDLER:
        value = getattr(handler, row.name)
        yield from _key(row, value, live=live and (dict(value) != {} if row.kind == "map" else value != row.default))


def _workloads(config: Config) -> Iterator[str]:
    yield ""
    yield from _comment(
        "Workloads give CPU resources to the containers of pods that carry an annotation; the annotation's value does "
        "not matter. A later file that declares a workload again replaces it altogether."
    )
    for workload in config.workloads.values():
        yield from _workload(workload)
    if not config.workloads:
        yield from ("", "# [crio.runtime.workloads.example]")
        for row in WORKLOAD:
            yield from _key(row, row.default, live=False)
        yield from ("", "# [crio.runtime.workloads.example.resources]")
        for row in RESOURCES:
            yield from _key(row, row.default, live=False)


def _workload(workload: WorkloadConf) -> Iterator[str]:
    table = f"crio.runtime.workloads.{name(workload.name)}"
    yield from ("", f"[{table}]")
    for row in WORKLOAD:
        value = getattr(workload, row.name)
        yield from _key(row, value, live=value != row.default)
    if workload.resources is not None:
        yield from ("", f"[{table}.resources]")
        for row in RESOURCES:
            value = getattr(workload.resources, row.name)
            yield from _key(row, value, live=value != row.default)


def name(text: str) -> str:
    """A key as TOML wants it: bare or quoted."""
    return text if _BARE(text) else _quoted(text)


def literal(value: Value | Mapping[str, str]) -> str:
    """A value in TOML; lists with one item per line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{name(key)} = {_quoted(text)}" for key, text in value.items()) + " }" if value else "{}"
        )
    return "[\n" + "".join(f"  {_quoted(item)},\n" for item in value) + "]" if value else "[]"


def _quoted(text: str) -> str:
    return '"' + _ESCAPE.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", text) + '"'
