"""OCI hooks from directories: ``*.json`` files of schema 1.0.0, later directories win by file name (oci-hooks(5))."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio.errors import InvalidRequest
from pycrio.obs import log as obslog

log = obslog.get("hooks")
STAGES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@dataclass(frozen=True, slots=True)
class Settings:
    """``directories``: later ones win."""

    directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hook:
    """One file: what to run, at which stages, and the conditions, all of which must hold."""

    entry: Mapping[str, Any]
    stages: tuple[str, ...]
    always: bool | None = None
    annotations: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = ()
    commands: tuple[re.Pattern[str], ...] = ()
    has_bind_mounts: bool | None = None

    def matches(self, annotations: Mapping[str, str], command: str, has_bind_mounts: bool) -> bool:
        """Whether it applies; a hook without any condition never does."""
        given = False
        if self.always is not None:
            if not self.always:
                return False
            given = True
        if self.has_bind_mounts is not None:
            if not (self.has_bind_mounts and has_bind_mounts):
                return False
            given = True
        for key, value in self.annotations:
            if not any(key.search(k) and value.search(v) for k, v in annotations.items()):
                return False
            given = True
        if self.commands:
            if not any(c.search(command) for c in self.commands):
                return False
            given = True
        return given


@dataclass(slots=True)
class _Loaded:
    stamp: tuple[object, ...] = ()
    hooks: list[Hook] = field(default_factory=list)


class Hooks:
    """See ``flows.ports.Hooks``. Directories are read again when they have changed."""

    def __init__(self, settings: Settings) -> None:
        """Make what is missing, so that what is put there later is seen where others look for it, too."""
        self.settings = settings
        self._loaded = _Loaded()
        for directory in settings.directories:
            try:
                os.makedirs(directory, mode=0o755, exist_ok=True)
            except OSError as e:
                log.warning("OCI hooks directory is left out", path=directory, error=e.strerror)

    def apply(self, config: dict[str, Any], annotations: Mapping[str, str], has_bind_mounts: bool) -> None:
        """Add the hooks that match, in the order of their file names."""
        files = _files(self.settings.directories)
        stamp = tuple(sorted(files.items()))
        if stamp != self._loaded.stamp:
            self._loaded = _Loaded(stamp, _load(files))
        args = config.get("process", {}).get("args") or [""]
        for hook in self._loaded.hooks:
            if hook.matches(annotations, args[0], has_bind_mounts):
                for stage in hook.stages:
                    config.setdefault("hooks", {}).setdefault(stage, []).append(dict(hook.entry))


def _files(directories: Sequence[str]) -> dict[str, tuple[str, int, int]]:
    """File name → path, mtime, inode; later directories replace earlier ones."""
    found: dict[str, tuple[str, int, int]] = {}
    for directory in directories:
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            if entry.name.endswith(".json") and entry.is_file():
                info = entry.stat()
                found[entry.name] = (entry.path, info.st_mtime_ns, info.st_ino)
    return found


def _load(files: Mapping[str, tuple[str, int, int]]) -> list[Hook]:
    hooks = []
    for name in sorted(files):
        path = files[name][0]
        try:
            with open(path, "rb") as f:
                hooks.append(parse(json.loads(f.read())))
        except (OSError, ValueError, TypeError, AttributeError, InvalidRequest, re.error) as e:
            log.warning("OCI hook ignored", path=path, error=str(e))
    return hooks


def parse(document: Any) -> Hook:
    """One file's content; InvalidRequest says what is wrong."""
    if not isinstance(document, dict) or document.get("version") != "1.0.0":
        raise InvalidRequest("version is not 1.0.0")
    hook, when, stages = document.get("hook") or {}, document.get("when") or {}, document.get("stages") or []
    if not os.path.isabs(str(hook.get("path", ""))) or not os.path.exists(hook["path"]):
        raise InvalidRequest(f"hook.path {hook.get('path')!r} is not an existing absolute path")
    if not stages or any(s not in STAGES for s in stages):
        raise InvalidRequest(f"stages {stages!r} are not among {', '.join(STAGES)}")
    return Hook(
        entry={k: hook[k] for k in ("path", "args", "env", "timeout") if hook.get(k)},
        stages=tuple(stages),
        always=when.get("always"),
        annotations=tuple((re.compile(k), re.compile(v)) for k, v in (when.get("annotations") or {}).items()),
        commands=tuple(re.compile(c) for c in when.get("commands") or ()),
        has_bind_mounts=when.get("hasBindMounts"),
    )
