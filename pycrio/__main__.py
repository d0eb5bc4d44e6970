"""The program: flags, then a command or the daemon. Nothing heavy is imported before it is known what is wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pycrio.config import flags
from pycrio.config.options import BY_FLAG, Row, Value
from pycrio.config.options.commands import HELP, ROOT, VERSION, Command
from pycrio.errors import ConfigError, PycrioError

_GLOBAL: dict[str, Row] = {**BY_FLAG, **{flag: row for row in (HELP, VERSION) for flag in row.flags}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit code is 0 for success, 1 for any failure."""
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except ConfigError as error:
        for fault in error.faults:
            sys.stderr.write(f"pycrio: {fault}\n")
    except PycrioError as error:
        sys.stderr.write(f"pycrio: {error}\n")
    except BrokenPipeError:
        # The reader of our output has gone (head, less): the interpreter must not stumble over it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    return 1


def _main(argv: list[str]) -> int:
    parsed = flags.parse(argv, _GLOBAL)
    _require(parsed)
    if HELP.key in parsed.settings:
        return _help(parsed.rest)
    if VERSION.key in parsed.settings:
        from pycrio.commands import version

        sys.stdout.write(f"crio version {version.facts(False)['version']}\n{version.text(False)}")
        return 0
    if not parsed.rest:
        from pycrio.commands import run

        return run.run(parsed.settings, os.environ)
    command = ROOT.find(parsed.rest[0])
    if command is None:
        raise PycrioError(f'command "{parsed.rest[0]}" not supported')
    if command.name == "help":
        return _help(parsed.rest[1:])
    return _command(command, parsed.rest[1:], parsed)


def _require(parsed: flags.Parsed) -> None:
    if parsed.faults:
        raise ConfigError(parsed.faults)


def _help(words: Sequence[str]) -> int:
    from pycrio.config import manual

    command, prefix = ROOT, "pycrio"
    for word in words:
        found = command.find(word)
        if found is None:
            raise PycrioError(f'command "{" ".join([*prefix.split()[1:], word])}" not supported')
        command, prefix = found, f"{prefix} {found.name}"
    sys.stdout.write(manual.help_text(command, prefix))
    return 0


class _Own:
    """A command's own flags, by name."""

    def __init__(self, command: Command, argv: list[str]) -> None:
        known = {flag: row for row in (*command.flags, HELP) for flag in row.flags}
        parsed = flags.parse(argv, known)
        _require(parsed)
        self.rest = parsed.rest
        self.help = HELP.key in parsed.settings
        self._values: dict[str, Value] = {row.key: row.default for row in command.flags}
        self._values |= {key: value for key, (value, _) in parsed.settings.items()}
        for row in command.flags:
            for rule in row.rules:
                if fault := rule(self._values[row.key]):
                    raise ConfigError([f"flag {row.flags[0]}: {fault}"])

    def text(self, name: str) -> str:
        return str(self._values[f"cli.{name}"])

    def flag(self, name: str) -> bool:
        return bool(self._values[f"cli.{name}"])

    def number(self, name: str) -> int:
        value = self._values[f"cli.{name}"]
        assert isinstance(value, int)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._values[f"cli.{name}"]
        assert isinstance(value, tuple)
        return value


def _command(command: Command, argv: list[str], parsed: flags.Parsed) -> int:
    own = _Own(command, argv)
    if own.help:
        return _help([command.name, *own.rest])
    settings, name = parsed.settings, command.name
    if name == "status":
        return _status(command, own)
    if name == "complete":
        from pycrio.commands import documents

        if len(own.rest) > 1:
            raise PycrioError(f'pycrio complete takes no argument "{own.rest[1]}"')
        return documents.complete(own.rest)
    if own.rest:
        raise PycrioError(f'pycrio {name} takes no argument "{own.rest[0]}"')
    if name in {"config", "man", "markdown"}:
        from pycrio.commands import documents

        if name == "config":
            return documents.config(settings, os.environ, own.flag("default"))
        return documents.page(own.number("section"), "roff" if name == "man" else "markdown")
    if name == "version":
        from pycrio.commands import version

        return version.run(own.flag("json"), own.flag("verbose"))
    if name == "publish":
        from pycrio.drivers.shim.publish import publish

        event = sys.stdin.buffer.read()
        if own.text("address"):  # else there is nobody to tell
            publish(own.text("address"), own.text("topic"), own.text("namespace"), event)
        return 0
    from pycrio.commands import node

    if name == "wipe":
        return node.wipe(settings, os.environ, own.flag("force"))
    from pycrio.config import units

    options = node.CheckOptions(
        age=units.nanoseconds(own.text("age")) / 1e9,
        **{word: own.flag(word) for word in ("force", "repair", "quick", "wipe")},
    )
    return node.check(settings, os.environ, options)


def _status(command: Command, outer: _Own) -> int:
    if not outer.rest or outer.rest[0] in ("help", "h"):
        return _help([command.name, *outer.rest[1:]])
    below = command.find(outer.rest[0])
    if below is None:
        raise PycrioError(f'command "status {outer.rest[0]}" not supported')
    own = _Own(below, outer.rest[1:])
    if own.help:
        return _help([command.name, below.name])
    if own.rest:
        raise PycrioError(f'pycrio status {below.name} takes no argument "{own.rest[0]}"')
    from pycrio.commands import status

    client = status.Client(outer.text("socket"))
    if below.name == "timeline":
        return _timeline(client, own)
    if below.name == "containers":
        out = status.container(client, own.text("id"))
    elif below.name == "heap":
        out = status.heap(client, own.text("file"))
    else:
        out = {"config": status.config, "info": status.info, "goroutines": status.tasks}[below.name](client)
    sys.stdout.write(out)
    return 0


def _timeline(client: object, own: _Own) -> int:
    from pycrio.commands import status, timeline

    assert isinstance(client, status.Client)
    calls = timeline.fetch(client, own.texts("kind"), own.number("last"))
    target = own.text("html")
    if not target:
        sys.stdout.write(timeline.text(calls))
    elif target == "-":
        sys.stdout.write(timeline.page(calls))
    else:
        try:
            with open(target, "w", encoding="utf-8") as file:
                file.write(timeline.page(calls))
        except OSError as error:
            raise PycrioError(f"{target} cannot be written: {error.strerror}") from error
        sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
