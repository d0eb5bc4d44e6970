"""``pycrio version``."""

from __future__ import annotations

import json
import os
import platform
import sys

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
    out: dict[str, object] = {
        "version": pycrio.__version__,
        "gitCommit": _commit(),
        "gitCommitDate": _UNKNOWN,
        "gitTreeState": _UNKNOWN,
        "buildDate": _UNKNOWN,
        "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation(),
        "platform": f"linux/{_MACHINES.get(machine, machine)}",
        "linkmode": "dynamic",
        "buildTags": [],
        "ldFlags": "",
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
