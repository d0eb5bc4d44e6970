"""Commands that only print: ``config``, ``complete``, ``man``, ``markdown``, help."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from pycrio.config.load import Settings

PAGES = {8: "pycrio", 5: "crio.conf"}


def config(settings: Settings, environ: Mapping[str, str], default: bool) -> int:
    """``pycrio config``: the file on standard output, warnings on standard error."""
    from pycrio.commands import mount_namespace
    from pycrio.config import load, render

    failure = mount_namespace.join(environ)
    if failure:
        sys.stderr.write(f"warning: mount namespace of {mount_namespace.VARIABLE} is not joined: {failure}\n")
    loaded = load.load(settings, environ, read_files=not default)
    for warning in loaded.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    sys.stdout.write(render.document(loaded))
    return 0


def complete(arguments: list[str]) -> int:
    """``pycrio complete [bash|fish|zsh]``."""
    from pycrio.config import completion

    shell = arguments[0] if arguments else "bash"
    try:
        sys.stdout.write(completion.script(shell))
    except KeyError:
        sys.stderr.write(f"pycrio: there is no completion for {shell!r}, only for bash, fish and zsh\n")
        return 1
    return 0


def page(section: int, form: str) -> int:
    """``pycrio man`` and ``pycrio markdown``."""
    from pycrio.config import manual

    if section not in PAGES:
        sys.stderr.write("pycrio: there are pages for the sections 5 and 8 only\n")
        return 1
    blocks = manual.program_page() if section == 8 else manual.file_page()
    title = PAGES[section]
    if form == "roff":
        sys.stdout.write(manual.roff(title, section, blocks))
    else:
        sys.stdout.write(manual.markdown(f"{title}({section})", blocks))
    return 0
