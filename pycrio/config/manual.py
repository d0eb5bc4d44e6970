"""Help text, manual pages and Markdown, rendered from the rows of options and commands.

A page is a list of blocks: a heading, a paragraph, a list of terms with their explanation, or literal text.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pycrio.config import render
from pycrio.config.completion import GLOBAL, visible
from pycrio.config.options import FILE_ROWS, HANDLER, RESOURCES, WORKLOAD, Row
from pycrio.config.options.commands import ROOT, Command
from pycrio.config.options.handlers import BUILT_IN


@dataclass(frozen=True, slots=True)
class Block:
    """``terms`` are pairs of term and explanation; ``level`` of headings from 1."""

    kind: Literal["heading", "text", "terms", "literal"]
    text: str = ""
    level: int = 1
    terms: tuple[tuple[str, str], ...] = ()


_BREAKS = re.compile("[:._]")
_SOURCES = (
    "Values come, in rising order of precedence, from built-in defaults with the store's part from "
    "containers-storage.conf(5); the main file; every file below the drop-in directory, in the order of their paths; "
    "environment variables; flags. A list replaces the earlier one, except storage_option, which is appended to it. A "
    "runtime handler or workload that is declared again is replaced altogether."
)
_FILES = (
    ("/etc/crio/crio.conf", "Main configuration file, crio.conf(5)."),
    ("/etc/crio/crio.conf.d/", "Drop-in files."),
    ("/etc/containers/storage.conf", "Defaults of the store."),
    ("/etc/containers/registries.conf", "Registries, mirrors and short names; registries.conf.d/ beside it."),
    ("/etc/containers/policy.json", "Which signatures images need."),
    ("/etc/cni/net.d/", "Networks of pods."),
    ("/var/run/crio/crio.sock", "Socket for the kubelet and for the status pages."),
)
_VARIABLES = (
    (
        "KUBENSMNT",
        "File on which a mount namespace is bound, which pycrio joins before it does anything else. Where that cannot "
        "be done it runs in that of its parent and logs a warning.",
    ),
    ("CONTAINERS_STORAGE_CONF", "Read this file instead of containers-storage.conf(5)."),
    ("STORAGE_DRIVER, STORAGE_OPTS", "Driver and options of the store, instead of those in that file."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd(1): readiness, reloads and signs of life are told there."),
    ("TMPDIR", "Directory of the files that SIGUSR1 and status heap write."),
)
_SIGNALS = (
    ("SIGHUP", "Read the files again and take over what may change live. Flags and environment are not applied again."),
    ("SIGUSR1", "Write the stacks of all tasks and threads to a file in the temporary directory."),
    ("SIGUSR2", "Collect garbage and give freed memory back to the kernel."),
    ("SIGINT, SIGTERM", "Stop serving. Containers run on."),
)
_EXITS = (("0", "Success."), ("1", "Any failure: configuration, flags, store, socket, a check or wipe that failed."))


def program_page() -> list[Block]:
    """pycrio(8)."""
    blocks = [
        Block("heading", "NAME"),
        Block("text", "pycrio - run pods and containers for the kubelet"),
        Block("heading", "SYNOPSIS"),
        Block("literal", "pycrio [FLAG...] [COMMAND [FLAG...] [ARGUMENT...]]"),
        Block("heading", "DESCRIPTION"),
        Block(
            "text",
            "pycrio serves the Container Runtime Interface (CRI, runtime.v1) on a unix socket. Without a command it "
            "runs as the daemon. It takes the place of CRI-O: configuration, flags, socket, store and metrics are the "
            "same. " + _SOURCES,
        ),
        Block("heading", "COMMANDS"),
    ]
    blocks += _command_blocks(ROOT, "pycrio")
    blocks += [
        Block("heading", "FLAGS"),
        Block("text", "Lists may be given by repeating a flag, or once with commas."),
        Block("terms", terms=tuple(_flag_term(row) for row in GLOBAL if row.flags and not row.hidden)),
        Block("heading", "ENVIRONMENT"),
        Block("text", "Most flags have a variable of their own, named above. Besides these:"),
        Block("terms", terms=_VARIABLES),
        Block("heading", "SIGNALS"),
        Block("terms", terms=_SIGNALS),
        Block("heading", "EXIT STATUS"),
        Block("terms", terms=_EXITS),
        Block("heading", "FILES"),
        Block("terms", terms=_FILES),
        Block("heading", "SEE ALSO"),
        Block("text", "crio.conf(5), containers-storage.conf(5), containers-registries.conf(5), crictl(1)"),
    ]
    return blocks


def _command_blocks(command: Command, prefix: str) -> Iterator[Block]:
    for below in visible(command):
        name = f"{prefix} {below.name}"
        words = f" [{'|'.join(below.words)}]" if below.words else ""
        also = f" Also called {', '.join(below.aliases)}." if below.aliases else ""
        yield Block("heading", name + words, level=2)
        yield Block("text", below.doc + also)
        if below.flags:
            yield Block("terms", terms=tuple(_flag_term(row) for row in below.flags))
        yield from _command_blocks(below, name)


def _flag_term(row: Row) -> tuple[str, str]:
    term = ", ".join(row.flags) + ("" if row.kind == "bool" else f" {_metavar(row)}")
    text = row.doc
    if row.deprecated:
        text += f" Deprecated: {row.deprecated}."
    if row.kind not in {"bool", "table"} and row.default not in ("", ()):
        text += f" Default: {default_text(row)}."
    elif row.kind == "bool" and row.default:
        text += " Default: true."
    if row.env:
        text += f" Environment: {', '.join(row.env)}."
    if row.in_file:
        text += f" Key: {row.key}."
    return term, text


def _metavar(row: Row) -> str:
    return {"int": "NUMBER", "duration": "DURATION", "strings": "LIST", "table": "LIST"}.get(row.kind, "TEXT")


def default_text(row: Row) -> str:
    """The default for people."""
    if isinstance(row.default, tuple):
        return ", ".join(row.default)
    return row.default if isinstance(row.default, str) else render.literal(row.default)


def file_page() -> list[Block]:
    """crio.conf(5)."""
    blocks = [
        Block("heading", "NAME"),
        Block("text", "crio.conf - configuration of pycrio"),
        Block("heading", "DESCRIPTION"),
        Block("text", f"The file is in TOML. {_SOURCES}"),
        Block(
            "text",
            "Keys marked (reload) are taken over by SIGHUP, all others at the next start. Unknown keys are ignored "
            "with a warning that names the nearest known one. pycrio config prints the file that is in force, with "
            "every key explained.",
        ),
    ]
    table = ""
    for row in FILE_ROWS:
        if row.table != table:
            table = row.table
            rows = [r for r in FILE_ROWS if r.table == table and r.kind != "table"]
            blocks += [Block("heading", f"[{table}]"), Block("terms", terms=tuple(_key_term(r) for r in rows))]
            if table == "crio.runtime":
                blocks += _entry_blocks()
    return blocks


def _entry_blocks() -> list[Block]:
    built_in = ", ".join(BUILT_IN)
    return [
        Block("heading", "[crio.runtime.runtimes.NAME]"),
        Block(
            "text",
            f"A runtime handler each. The handler {built_in} is there unless a file declares it. A handler that cannot "
            "be used is left out with a warning; if it is the default one, the daemon does not start. (reload)",
        ),
        Block("terms", terms=tuple(_key_term(row) for row in HANDLER)),
        Block("heading", "[crio.runtime.workloads.NAME]"),
        Block("text", "Resources and allowed annotations for pods that carry an annotation, whatever its value."),
        Block("terms", terms=tuple(_key_term(row) for row in WORKLOAD)),
        Block("heading", "[crio.runtime.workloads.NAME.resources]"),
        Block("terms", terms=tuple(_key_term(row) for row in RESOURCES)),
    ]


def _key_term(row: Row) -> tuple[str, str]:
    kinds = {"strings": "list of strings", "map": "table of strings"}
    default = default_text(row) or ('""' if row.kind in {"string", "duration"} else "none")
    text = f"{row.doc} Type: {kinds.get(row.kind, row.kind)}. Default: {default}."
    if row.deprecated:
        text += f" Deprecated: {row.deprecated}."
    if row.later:
        text += f" This version lacks {row.later}."
    if row.flags and not row.hidden:
        text += f" Flag: {row.flags[0]}."
    if row.env:
        text += f" Environment: {', '.join(row.env)}."
    if row.reload == "sighup" and ".*." not in row.key:
        text += " (reload)"
    elif row.reload == "watch":
        text += " (the file is followed)"
    return row.name, text


def roff(title: str, section: int, blocks: list[Block]) -> str:
    """A page for man(1)."""
    lines = [f'.TH "{title}" "{section}" "" "pycrio" ""', ".nh", ".ad l"]
    for block in blocks:
        if block.kind == "heading":
            lines.append(f'.{"SH" if block.level == 1 else "SS"} "{_roff(block.text)}"')
        elif block.kind == "text":
            lines += [".PP", _roff(block.text)]
        elif block.kind == "literal":
            lines += [".PP", ".nf", *(_roff(line) for line in block.text.split("\n")), ".fi"]
        else:
            for term, text in block.terms:
                lines += [".TP", f"\\fB{_roff(term)}\\fR", _roff(text)]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    # Long words get places where groff may break them.
    text = " ".join(_BREAKS.sub(r"\g<0>\\:", word) if len(word) > 50 else word for word in text.split(" "))
    return "\\&" + text if text[:1] in {".", "'"} else text


def markdown(title: str, blocks: list[Block]) -> str:
    """A page in Markdown."""
    lines = [f"# {title}", ""]
    for block in blocks:
        if block.kind == "heading":
            lines += ["#" * (block.level + 1) + f" {block.text}", ""]
        elif block.kind == "text":
            lines += [block.text.replace("<", "\\<"), ""]
        elif block.kind == "literal":
            lines += ["```", *block.text.split("\n"), "```", ""]
        else:
            lines += [
                f"- `{term}`: {text.replace('<', chr(92) + '<').replace('*', chr(92) + '*')}"
                for term, text in block.terms
            ] + [""]
    return "\n".join(lines)


def help_text(command: Command, prefix: str = "pycrio") -> str:
    """What ``--help`` prints."""
    below = visible(command)
    lines = [f"{prefix} - {command.doc}", "", f"Usage: {prefix} [FLAG...]" + (" [COMMAND]" if below else ""), ""]
    if command.words:
        lines[2] += f" [{'|'.join(command.words)}]"
    if below:
        lines += ["Commands:", *_columns([(", ".join((c.name, *c.aliases)), c.doc) for c in below], 28), ""]
    rows = GLOBAL if command is ROOT else command.flags
    shown = [_flag_term(row) for row in rows if row.flags and not row.hidden]
    if shown:
        lines += ["Flags:", *_columns(shown, 44), ""]
    return "\n".join(lines)


def _columns(rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    for term, text in rows:
        wrapped = textwrap.wrap(text, 116 - width, break_on_hyphens=False) or [""]
        first = f"  {term}".ljust(width)
        if len(first) > width:
            yield first
            first = " " * width
        yield first + wrapped[0]
        yield from (" " * width + line for line in wrapped[1:])
