"""``pycrio version``."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import import_module

import pycrio

_FIELDS = {
    "version": "Version",
    "gitCommit": "GitCommit",
    "gitCommitDate": "GitCommitDate",
    "gitTreeState": "GitTreeState",
    "buildDate": "BuildDate",
    "goVersion": "GoVersion",
    "compiler": "Compiler",
    "platform": "Platform",
    "linkmode": "Linkmode",
    "buildTags": "BuildTags",
    "ldFlags": "LDFlags",
    "seccompEnabled": "SeccompEnabled",
    "appArmorEnabled": "AppArmorEnabled",
    "dependencies": "Dependencies",
}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_UNKNOWN = "unknown"


def facts(verbose: bool) -> dict[str, object]:
    """What this build is. Names are those of CRI-O's JSON; ``goVersion`` is Python's, for readers that want it."""
    machine = platform.machine()
    built = _built()
    tags = built.get("buildTags", "")
    out: dict[str, object] = {
        "version": pycrio.__version__,
        **_source(built),
        "buildDate": built.get("buildDate", _UNKNOWN),
        "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation(),
        "platform": f"linux/{_MACHINES.get(machine, machine)}",
        "linkmode": built.get("linkmode", "dynamic"),
        "buildTags": tags.split(",") if tags else [],
        "ldFlags": built.get("ldFlags", ""),
        "seccompEnabled": _line_in("/proc/self/status", "Seccomp:"),
        "appArmorEnabled": _line_in("/sys/module/apparmor/parameters/enabled", "Y"),
    }
    if verbose:
        out["dependencies"] = _dependencies()
    return out


def text(verbose: bool) -> str:
    """One field per line, values aligned; items of lists on lines of their own."""
    lines = []
    for key, value in facts(verbose).items():
        label = f"{_FIELDS[key]}:".ljust(17)
        if isinstance(value, list):
            lines.append(label.rstrip())
            lines += [f"  {item}" for item in value]
        else:
            lines.append(f"{label}{str(value).lower() if isinstance(value, bool) else value}".rstrip())
    return "\n".join(lines) + "\n"


def run(as_json: bool, verbose: bool) -> int:
    """Print it."""
    sys.stdout.write(json.dumps(facts(verbose), indent=2) + "\n" if as_json else text(verbose))
    return 0


def _dependencies() -> list[str]:
    from importlib import metadata  # late: slow

    try:
        wanted = metadata.requires("pycrio") or []
    except metadata.PackageNotFoundError:
        return []
    out = []
    for requirement in wanted:
        if "extra ==" in requirement:
            continue
        name = "".join(char if char.isalnum() or char in "-_." else " " for char in requirement).split()[0]
        try:
            out.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue  # a requirement for other platforms
    return sorted(out, key=str.lower)


def _built() -> Mapping[str, str]:
    """What setup.py wrote down; empty for a tree that was never built."""
    try:
        facts: Mapping[str, str] = import_module("pycrio._build").FACTS
    except ModuleNotFoundError:
        return {}
    return facts


def _source(built: Mapping[str, str]) -> dict[str, object]:
    """Commit, date and state. In a checkout that has moved on since the build, Python's part is that of its HEAD."""
    names = ("gitCommit", "gitCommitDate", "gitTreeState")
    commit = _commit()
    if commit not in (_UNKNOWN, built.get("gitCommit")):
        return {**dict.fromkeys(names, _UNKNOWN), "gitCommit": commit}
    return {name: built.get(name, _UNKNOWN) for name in names}


def _commit() -> str:
    """The commit of a source checkout; unknown for an installed package."""
    git = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(pycrio.__file__))), ".git")
    head = _read(os.path.join(git, "HEAD"))
    if not head.startswith("ref: "):
        return head or _UNKNOWN
    ref = head.removeprefix("ref: ")
    commit = _read(os.path.join(git, ref))
    if not commit:
        packed = (line.split(" ") for line in _read(os.path.join(git, "packed-refs")).split("\n"))
        commit = next((words[0] for words in packed if words[-1] == ref), "")
    return commit or _UNKNOWN


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _line_in(path: str, start: str) -> bool:
    return any(line.startswith(start) for line in _read(path).split("\n"))
