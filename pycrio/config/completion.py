"""Completion scripts for bash, zsh and fish, rendered from the rows of options and commands."""

from __future__ import annotations

from collections.abc import Iterator

from pycrio.config.options import ROWS, Row
from pycrio.config.options.commands import ROOT, Command

NAMES = ("pycrio", "crio")  # the second is what a node that had CRI-O may call it
GLOBAL: tuple[Row, ...] = (*ROWS, *ROOT.flags)
_CHOICES = {
    "cli.log_format": ("text", "json"),
    "crio.runtime.log_level": ("trace", "debug", "info", "warn", "error", "fatal", "panic"),
    "crio.runtime.cgroup_manager": ("systemd", "cgroupfs"),
    "crio.image.image_volumes": ("mkdir", "bind", "ignore"),
    "crio.image.short_name_mode": ("enforcing", "disabled"),
    "crio.api.tls_min_version": ("VersionTLS12", "VersionTLS13"),
    "crio.checkpoint_restore.container_level_enabled": ("none", "checkpoint_only", "checkpoint_restore"),
    "cli.section": ("5", "8"),
}


def script(shell: str) -> str:
    """The script for a shell: bash, fish or zsh. KeyError for another one."""
    return {"bash": _bash, "fish": _fish, "zsh": _zsh}[shell]()


def visible(command: Command) -> list[Command]:
    """Commands below this one that are shown."""
    return [c for c in command.commands if not c.hidden]


def _rows(command: Command) -> list[Row]:
    rows = GLOBAL if command is ROOT else command.flags
    return [row for row in rows if row.flags and not row.hidden]


def _paths(command: Command = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    yield path, command
    for below in visible(command):
        yield from _paths(below, (*path, below.name))


def _summary(row: Row) -> str:
    """The first sentence of the doc."""
    return row.doc.split(". ")[0].rstrip(".")


def _bash() -> str:
    lines = [
        "# bash completion for pycrio",
        "_pycrio() {",
        "    local word previous path=pycrio skip= i",
        '    word="${COMP_WORDS[COMP_CWORD]}"',
        '    previous="${COMP_WORDS[COMP_CWORD-1]}"',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        "        if [[ -n $skip ]]; then skip=; continue; fi",
        '        case "$path ${COMP_WORDS[i]}" in',
    ]
    for path, command in _paths():
        prefix = "/".join(("pycrio", *path))
        for below in visible(command):
            names = "|".join(f'"{prefix} {name}"' for name in (below.name, *below.aliases))
            lines.append(f"            {names}) path={prefix}/{below.name} ;;")
    # The same letter may take a value in one command and none in another.
    takes = [
        (row, "|".join(f'"{"/".join(("pycrio", *path))} {flag}"' for flag in row.flags))
        for path, command in _paths()
        for row in _rows(command)
        if row.kind != "bool"
    ]
    lines += [f"            {spelt}) skip=1 ;;" for _, spelt in takes]
    lines += ["        esac", "    done", '    case "$path $previous" in']
    for row, spelt in takes:
        words = " ".join(_CHOICES.get(row.key, ()))
        source = f'compgen -W "{words}"' if words else "compgen -f"
        lines.append(f'        {spelt}) COMPREPLY=($({source} -- "$word")); return ;;')
    lines += ["    esac", '    case "$path" in']
    for path, command in _paths():
        offers = [flag for row in _rows(command) for flag in row.flags]
        offers += [below.name for below in visible(command)] + list(command.words)
        prefix = "/".join(("pycrio", *path))
        lines.append(f'        {prefix}) COMPREPLY=($(compgen -W "{" ".join(offers)}" -- "$word")) ;;')
    lines += ["    esac", "}", f"complete -F _pycrio {' '.join(NAMES)}", ""]
    return "\n".join(lines)


def _zsh_text(text: str) -> str:
    for char in "\\[]:'":
        text = text.replace(char, {"'": "'\\''"}.get(char, "\\" + char))
    return text


def _zsh_flags(command: Command) -> list[str]:
    out = []
    for row in _rows(command):
        value = ""
        if row.kind != "bool":
            choices = _CHOICES.get(row.key)
            value = f":value:({' '.join(choices)})" if choices else ":value:_files"
        repeat = "*" if row.kind in {"strings", "table"} else ""
        out += [f"'{repeat}{flag}[{_zsh_text(_summary(row))}]{value}'" for flag in row.flags]
    return out


def _zsh() -> str:
    lines = [f"#compdef {' '.join(NAMES)}", "# zsh completion for pycrio"]
    for path, command in _paths():
        name = "_".join(("_pycrio", *path))
        below = visible(command)
        arguments = _zsh_flags(command)
        if below:
            arguments += ["'1:command:->command'", "'*::argument:->argument'"]
        elif command.words:
            arguments.append(f"'1:value:({' '.join(command.words)})'")
        # -A: what stands behind a command is no flag of what stands before it, though it may be spelt alike.
        lines += [f"{name}() {{", "    local state line", "    _arguments -A '-*' -C \\"]
        lines += [f"        {argument} \\" for argument in arguments] + ["        && return 0"]
        if below:
            lines += ["    case $state in", "        command)", "            local -a commands=("]
            lines += [f"                '{c.name}:{_zsh_text(c.doc)}'" for c in below]
            lines += ["            )", "            _describe command commands ;;", "        argument)"]
            lines.append("            case $words[1] in")
            lines += [f"                {'|'.join((c.name, *c.aliases))}) {name}_{c.name} ;;" for c in below]
            lines += ["            esac ;;", "    esac"]
        lines += ["}", ""]
    # Found in fpath, the file is the function's first call; read by source or eval, it has to tell what it is for.
    lines.append(f'if [[ $funcstack[1] == _pycrio ]]; then _pycrio "$@"; else compdef _pycrio {" ".join(NAMES)}; fi')
    return "\n".join([*lines, ""])


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish() -> str:
    lines = ["# fish completion for pycrio", "complete -c pycrio -f"]
    for path, command in _paths():
        condition = _fish_condition(path, command)
        for row in _rows(command):
            spelt = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in row.flags)
            value = ""
            if row.kind != "bool":
                choices = _CHOICES.get(row.key)
                value = f" -x -a {_fish_text(' '.join(choices))}" if choices else " -r -F"
            lines.append(f"complete -c pycrio{condition} {spelt}{value} -d {_fish_text(_summary(row))}")
        for below in visible(command):
            lines.append(f"complete -c pycrio{condition} -a {below.name} -d {_fish_text(below.doc)}")
        lines += [f"complete -c pycrio{condition} -a {word}" for word in command.words]
    lines += [f"complete -c {name} -w pycrio" for name in NAMES[1:]]
    return "\n".join([*lines, ""])


def _fish_condition(path: tuple[str, ...], command: Command) -> str:
    parts = []
    node = ROOT
    for name in path:
        found = node.find(name)
        assert found is not None
        parts.append(f"__fish_seen_subcommand_from {' '.join((found.name, *found.aliases))}")
        node = found
    if len(path) == 1 and path[0] != "status":
        parts.append("not __fish_seen_subcommand_from status")  # it has a config of its own
    below = [name for c in visible(command) for name in (c.name, *c.aliases)]
    if below:
        parts.append(f"not __fish_seen_subcommand_from {' '.join(below)}")
    return f" -n '{'; and '.join(parts)}'" if parts else ""
