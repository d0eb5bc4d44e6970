"""Id ranges for user namespaces asked for by annotation (``userns-mode``), from /etc/subuid and /etc/subgid."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pycrio.errors import Exhausted, InvalidRequest, Unsupported
from pycrio.model.security import IdMapping, IdMaps

DEFAULT_SIZE = 65536
_MAP = re.compile(r"(\d+):(\d+):(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Range:
    """``length`` ids from ``start``."""

    start: int
    length: int


def parse_sub(text: str, user: str) -> list[Range]:
    """The ranges of a user (man 5 subuid); malformed lines are skipped, as by other tools."""
    out = []
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[0] == user and parts[1].isdecimal() and parts[2].isdecimal():
            out.append(Range(int(parts[1]), int(parts[2])))
    return out


class Ranges:
    """Hands out ranges that no pod of ours uses; ``take`` and ``give_back`` keep the books."""

    def __init__(self, subuid: str, subgid: str, user: str) -> None:
        self._paths = (subuid, subgid)
        self._user = user
        self._used: dict[int, int] = {}

    def reserve(self, start: int, length: int) -> None:
        """Book a range that a known pod holds (restart)."""
        self._used[start] = max(length, self._used.get(start, 0))

    def give_back(self, start: int) -> None:
        """A pod is gone."""
        self._used.pop(start, None)

    def maps(self, mode: str) -> IdMaps:
        """uid and gid maps for ``auto[:option;option…]`` or ``private:option…``; ``host`` and "" give none."""
        kind, _, rest = mode.partition(":")
        options = _options(rest)
        if kind in ("host", ""):
            return (), ()
        uids, gids = _given(options, "uidmapping"), _given(options, "gidmapping")
        if options.get("keep-id") == "true" and options.get("map-to-root") == "true":
            raise InvalidRequest(f"userns-mode {mode!r}: keep-id and map-to-root exclude each other")
        if kind == "private":
            if not uids or not gids:
                raise InvalidRequest(f"userns-mode {mode!r}: private needs uidmapping and gidmapping")
            return uids, gids
        if kind != "auto":
            raise InvalidRequest(f"userns-mode {mode!r} is neither auto, private nor host")
        if uids and gids:
            return uids, gids
        size = options.get("size", str(DEFAULT_SIZE))
        if not size.isdecimal() or int(size) == 0:
            raise InvalidRequest(f"userns-mode {mode!r}: size must be a positive number")
        start = self._free(int(size))
        self.reserve(start, int(size))
        one = (IdMapping(0, start, int(size)),)
        return uids or one, gids or one

    def _free(self, size: int) -> int:
        both = []
        for path in self._paths:
            try:
                with open(path, encoding="utf-8") as f:
                    both.append(parse_sub(f.read(), self._user))
            except OSError as e:
                raise Unsupported(
                    f"userns-mode auto needs ranges of user {self._user!r} in {path}: {e.strerror}"
                ) from e
        for first in both[0]:
            for second in both[1]:
                low = max(first.start, second.start)
                high = min(first.start + first.length, second.start + second.length)
                at = low
                for start, length in sorted(self._used.items()):
                    if at + size <= start:
                        break
                    if start + length > at and start < high:
                        at = max(at, start + length)
                if at + size <= high:
                    return at
        raise Exhausted(f"no range of {size} ids is left in {self._paths[0]} and {self._paths[1]} for {self._user!r}")


def _options(text: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for item in re.split(r"[;,]", text):
        key, _, value = item.strip().partition("=")
        if key:
            # a mapping may be given several times; keep them all
            out[key] = f"{out[key]}@{value}" if key in out and key.endswith("mapping") else value
    return out


def _given(options: dict[str, str], key: str) -> tuple[IdMapping, ...]:
    out = []
    for item in filter(None, options.get(key, "").split("@")):
        match = _MAP.match(item)
        if match is None:
            raise InvalidRequest(f"{key} {item!r} is not of the form container:host:size")
        out.append(IdMapping(int(match[1]), int(match[2]), int(match[3])))
    return tuple(out)
