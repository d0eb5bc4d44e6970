"""Values in the notation of Go, which crio.conf and its flags use: durations, booleans, sizes, CPU lists, id maps."""

from __future__ import annotations

import re

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([kmgtp]?)(i?b)?", re.IGNORECASE)
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def nanoseconds(text: str) -> int:
    """A Go duration (``1h30m``, ``-1.5s``, ``0``) in nanoseconds; "" is 0. ValueError when malformed."""
    body = text.lstrip("+-")
    if not text or body == "0":
        return 0
    if len(text) - len(body) > 1:
        raise ValueError(f"{text!r} is not a duration")
    total, at = 0, 0
    for part in _PART.finditer(body):
        if part.start() != at:
            break
        whole, _, fraction = part[1].partition(".")
        unit = _UNITS[part[2]]
        total += int(whole or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        at = part.end()
    if at != len(body) or not body:
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 1h30m")
    return -total if text[0] == "-" else total


def duration(value: int) -> str:
    """Nanoseconds as Go prints them: ``1m0s``, ``1.5s``, ``20ms``."""
    if value == 0:
        return "0s"
    sign, value = ("-", -value) if value < 0 else ("", value)
    if value < 10**9:
        unit = "ns" if value < 1_000 else "µs" if value < 10**6 else "ms"
        return sign + _decimal(value, _UNITS[unit]) + unit
    minutes, rest = divmod(value, _UNITS["m"])
    out = _decimal(rest, 10**9) + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        out = (f"{hours}h" if hours else "") + f"{minutes}m" + out
    return sign + out


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = len(str(unit)) - 1
    return str(whole) + (f".{rest:0{digits}d}".rstrip("0") if rest else "")


def boolean(text: str) -> bool:
    """A Go boolean (1, t, true, 0, f, false and their capitals). ValueError otherwise."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def integer(text: str) -> int:
    """A 64-bit integer in decimal, hexadecimal, octal or binary notation. ValueError otherwise."""
    body = text.lower().lstrip("+-")
    legacy_octal = len(body) > 1 and body[0] == "0" and body[1:].isdigit()
    try:
        value = int(text, 8 if legacy_octal else 0)
    except ValueError:
        raise ValueError(f"{text!r} is not an integer") from None
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{text!r} does not fit 64 bits")
    return value


def size(text: str) -> int:
    """Bytes of a size such as ``12MiB``, ``500 KiB``, ``8m``; every unit counts in 1024s. ValueError when malformed."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 12MiB")
    return int(float(found[1]) * _BINARY[found[2].lower()])


def cpus(text: str) -> frozenset[int]:
    """CPU numbers of a list such as ``0-3,8``. ValueError when malformed or a number exceeds 65535."""
    out: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is not a CPU list such as 0-3,8")
        low, high = int(first), int(last if dash else first)
        if not low <= high <= 65535:
            raise ValueError(f"{part!r} is not a range of CPU numbers")
        out.update(range(low, high + 1))
    return frozenset(out)


def split_list(items: list[str]) -> tuple[str, ...]:
    """Items of a list flag or variable: given several times, or once with commas; blanks around items are dropped."""
    if len(items) == 1:
        items = items[0].split(",")
    return tuple(text for item in items if (text := item.strip()))
