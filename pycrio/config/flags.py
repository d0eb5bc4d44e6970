"""The command line, parsed by the rows: ``--flag value``, ``--flag=value``, one dash or two, as CRI-O's own does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pycrio.config.decode import from_text
from pycrio.config.options import BY_FLAG, Row, Value
from pycrio.config.values import Origin


@dataclass(slots=True)
class Parsed:
    """``settings`` by row key, ``rest`` from the first argument that is no flag, ``faults`` as sentences."""

    settings: dict[str, tuple[Value, Origin]] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def parse(argv: Sequence[str], known: Mapping[str, Row] = BY_FLAG) -> Parsed:
    """Parse flags up to the first argument that is none (a command), or to ``--``.

    A boolean flag takes a value only behind ``=``. Lists may be repeated. Every fault is collected.
    """
    parsed = Parsed()
    given: dict[str, tuple[Row, str, list[str]]] = {}
    items = list(argv)
    at = 0
    while at < len(items):
        word = items[at]
        if word == "--" or not word.startswith("-") or word == "-":
            at += word == "--"
            break
        at += 1
        name, equals, value = word.partition("=")
        row = known.get(name) or _other_dashes(name, known)
        if row is None:
            parsed.faults.append(_unknown(name, known))
            continue
        if not equals and row.kind == "bool":
            value = "true"
        elif not equals:
            if at >= len(items):
                parsed.faults.append(f"flag {name} needs a value")
                break
            value = items[at]
            at += 1
        given.setdefault(row.key, (row, name, []))[2].append(value)
    parsed.rest = items[at:]
    for key, (row, name, values) in given.items():
        try:
            parsed.settings[key] = (from_text(row, values), Origin("flag", name))
        except ValueError as error:
            parsed.faults.append(f"flag {name}: {error}")
    return parsed


def _other_dashes(name: str, known: Mapping[str, Row]) -> Row | None:
    body = name.lstrip("-")
    if not 1 <= len(name) - len(body) <= 2:
        return None
    return known.get(f"--{body}") or known.get(f"-{body}")


def _unknown(name: str, known: Mapping[str, Row]) -> str:
    import difflib  # late: only for mistakes

    near = difflib.get_close_matches(name, known, 1, 0.7)
    return f"flag {name} is not defined" + (f"; did you mean {near[0]}?" if near else "")
