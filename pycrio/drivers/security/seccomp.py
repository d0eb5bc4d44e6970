"""seccomp profiles: ours, a file's, reduced to this machine and to a container's capabilities.

Files are in the form that container engines share: next to OCI's fields a rule may have ``includes`` and ``excludes``
(``caps``, ``arches``, ``minKernel``) and the document an ``archMap``.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from typing import Any

from pycrio.drivers.security.profile import ARCHITECTURES, GO_NAMES, default_profile
from pycrio.errors import InvalidRequest, NotFound

ACTIONS = frozenset(
    f"SCMP_ACT_{name}"
    for name in ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
)
FIELDS = ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
RULE_FIELDS = ("names", "action", "errnoRet", "args")


class Profiles:
    """Profiles by path, read again when their file has changed."""

    def __init__(self) -> None:
        self.machine = platform.machine()
        self._files: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}

    def builtin(self, capabilities: frozenset[str]) -> dict[str, Any]:
        """The default profile."""
        return default_profile(self.machine, capabilities)

    def file(self, path: str, capabilities: frozenset[str]) -> dict[str, Any] | None:
        """The profile of a file; None when it says unconfined. NotFound when absent, InvalidRequest when malformed."""
        return reduce(self._load(path), self.machine, capabilities)

    def document(self, name: str, content: bytes, capabilities: frozenset[str]) -> dict[str, Any] | None:
        """The profile with this content; ``name`` is for messages. InvalidRequest when malformed."""
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as e:
            raise InvalidRequest(f"seccomp profile {name} cannot be read: {e}") from e
        check(name, document)
        return reduce(document, self.machine, capabilities)

    def _load(self, path: str) -> dict[str, Any]:
        try:
            with open(path, "rb") as f:
                info = os.fstat(f.fileno())
                key = (info.st_mtime_ns, info.st_ino)
                known = self._files.get(path)
                if known is not None and known[0] == key:
                    return known[1]
                document = json.loads(f.read())
        except FileNotFoundError as e:
            raise NotFound("seccomp profile", path) from e
        except (OSError, ValueError) as e:
            raise InvalidRequest(f"seccomp profile {path} cannot be read: {e}") from e
        check(path, document)
        self._files[path] = (key, document)
        return dict(document)


def check(path: str, document: Any) -> None:
    """InvalidRequest unless the document has the form of a profile."""
    if not isinstance(document, dict) or not isinstance(document.get("defaultAction"), str):
        raise InvalidRequest(f"seccomp profile {path} has no defaultAction")
    if document["defaultAction"] and document["defaultAction"] not in ACTIONS:
        raise InvalidRequest(f"seccomp profile {path}: there is no action {document['defaultAction']!r}")
    rules = document.get("syscalls") or []
    if not isinstance(rules, list):
        raise InvalidRequest(f"seccomp profile {path}: syscalls is not a list")
    for number, rule in enumerate(rules):
        if not isinstance(rule, dict) or not isinstance(rule.get("action"), str):
            raise InvalidRequest(f"seccomp profile {path}: rule {number} has no action")
        if rule["action"] not in ACTIONS:
            raise InvalidRequest(f"seccomp profile {path}: rule {number}: there is no action {rule['action']!r}")
        if not rule.get("names") and not rule.get("name"):
            raise InvalidRequest(f"seccomp profile {path}: rule {number} names no system call")


def reduce(document: Mapping[str, Any], machine: str, capabilities: frozenset[str]) -> dict[str, Any] | None:
    """Drop what does not apply here; an empty profile is none."""
    if not document.get("defaultAction"):
        return None
    out: dict[str, Any] = {k: document[k] for k in FIELDS if document.get(k) is not None}
    out["architectures"] = _architectures(document, machine)
    rules = []
    for rule in document.get("syscalls") or ():
        if not _applies(rule, machine, capabilities):
            continue
        kept = {k: rule[k] for k in RULE_FIELDS if rule.get(k) is not None}
        if not kept.get("names"):
            kept["names"] = [rule["name"]]
        rules.append(kept)
    out["syscalls"] = rules
    return out


def _architectures(document: Mapping[str, Any], machine: str) -> list[str]:
    own = ARCHITECTURES.get(machine, ())
    for entry in document.get("archMap") or ():
        if own and entry.get("architecture") == own[0]:
            return [own[0], *(entry.get("subArchitectures") or ())]
    listed = document.get("architectures")
    return list(listed) if listed else list(own)


def _applies(rule: Mapping[str, Any], machine: str, capabilities: frozenset[str]) -> bool:
    arch = GO_NAMES.get(machine, machine)
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or ()):
        return False
    if any(c not in capabilities for c in includes.get("caps") or ()):
        return False
    if any(c in capabilities for c in excludes.get("caps") or ()):
        return False
    least = includes.get("minKernel")
    return not least or _kernel() >= _version(least)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(p) for p in text.split(".")[:2] if p.isdecimal())


def _kernel() -> tuple[int, ...]:
    return _version(platform.release().partition("-")[0])
