"""WWW-Authenticate challenges (RFC 9110 section 11) and the answers of token services, parsed without I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SPACE = re.compile(r"[ \t]*")
MIN_LIFE = 60.0


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: ``scheme`` in lower case, parameters by lower-case name."""

    scheme: str
    params: dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Every challenge of the header's values; text that is no challenge ends the reading of its value."""
    out: list[Challenge] = []
    for value in headers:
        at = 0
        current: Challenge | None = None
        while at < len(value):
            at = _skip(value, at)
            word = _TOKEN.match(value, at)
            if word is None:
                break
            at = _skip_spaces(value, word.end())
            if value[at : at + 1] != "=":
                current = Challenge(word.group().lower(), {})
                out.append(current)
                continue
            text, at = _parameter(value, _skip_spaces(value, at + 1))
            if current is None or at < 0:
                break
            current.params.setdefault(word.group().lower(), text)
    return out


def _skip(value: str, at: int) -> int:
    while at < len(value) and value[at] in ", \t":
        at += 1
    return at


def _skip_spaces(value: str, at: int) -> int:
    match = _SPACE.match(value, at)
    return match.end() if match else at


def _parameter(value: str, at: int) -> tuple[str, int]:
    """A token or quoted string and where it ends, -1 when it is neither."""
    quoted = _QUOTED.match(value, at)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted.group(1)), quoted.end()
    token = _TOKEN.match(value, at)
    return (token.group(), token.end()) if token is not None else ("", -1)


def parse_token(body: bytes) -> tuple[str, float]:
    """Token and lifetime in seconds of a token service's answer. ValueError when there is no token in it."""
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise ValueError("no token in it")
    life = document.get("expires_in")
    usable = isinstance(life, (int, float)) and not isinstance(life, bool)
    return token, max(float(life), MIN_LIFE) if usable and life is not None else MIN_LIFE
