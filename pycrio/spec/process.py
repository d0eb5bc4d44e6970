"""The process part: arguments, environment, user, limits."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pycrio.errors import InvalidRequest
from pycrio.model.container import ContainerConfig
from pycrio.model.image import ImageConfig
from pycrio.model.security import LinuxUser

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class ProcessParts:
    """What the process part is put together from, already resolved."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: LinuxUser
    tty: bool = False
    capabilities: Mapping[str, list[str]] = field(default_factory=dict)
    rlimits: tuple[tuple[str, int, int], ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor: str = ""
    selinux: str = ""
    umask: int | None = None
    exec_cpu_affinity: str = ""


def arguments(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """The argument vector: a command of the request hides the image's entrypoint and cmd, args alone only its cmd."""
    if config.command:
        args = (*config.command, *config.args)
    elif config.args:
        args = (*image.entrypoint, *config.args)
    else:
        args = (*image.entrypoint, *image.cmd)
    if not args:
        raise InvalidRequest("no command specified: neither the request nor the image has one")
    for arg in args:
        if "\0" in arg:
            raise InvalidRequest("an argument of the command contains a NUL byte")
    return args


def environment(
    config: ContainerConfig, image: ImageConfig, hostname: str, default_env: Iterable[str]
) -> tuple[str, ...]:
    """``KEY=value`` strings; of equal keys the last of: tty, hostname, configuration, image, request."""
    values: dict[str, str] = {}
    if config.tty:
        values["TERM"] = "xterm"
    values["HOSTNAME"] = hostname
    for item in (*default_env, *image.env):
        key, _, value = item.partition("=")
        if key:
            values[key] = value
    for key, raw in config.envs:
        if not key:
            continue
        if "=" in key or "\0" in key or b"\0" in raw:
            raise InvalidRequest(f"environment variable {key!r} has a name or value that no process can have")
        values[key] = raw.decode("utf-8", "surrogateescape")
    if "\n" in values.get("HOME", ""):
        raise InvalidRequest("the environment variable HOME must not contain a newline")
    if is_systemd((*config.command, *config.args) or (*image.entrypoint, *image.cmd)):
        values["container"] = "crio"
    out = [f"{k}={v}" for k, v in values.items()]
    if "PATH" not in values:
        out.append(DEFAULT_PATH)
    return tuple(out)


def is_systemd(args: tuple[str, ...]) -> bool:
    """True when the first argument says that systemd runs as the container's init."""
    return bool(args) and ("/sbin/init" in args[0] or posixpath.basename(args[0]) == "systemd")


def working_dir(config: ContainerConfig, image: ImageConfig) -> str:
    """The request's, else the image's, else the root; always absolute."""
    cwd = config.working_dir or image.working_dir or "/"
    return cwd if cwd.startswith("/") else "/" + cwd


def process(parts: ProcessParts) -> dict[str, Any]:
    """The OCI process object."""
    user: dict[str, Any] = {"uid": parts.user.uid, "gid": parts.user.gid}
    if parts.user.groups:
        user["additionalGids"] = list(parts.user.groups)
    if parts.umask is not None:
        user["umask"] = parts.umask
    out: dict[str, Any] = {
        "terminal": parts.tty,
        "user": user,
        "args": list(parts.args),
        "env": list(parts.env),
        "cwd": parts.cwd,
        "noNewPrivileges": parts.no_new_privileges,
    }
    if parts.capabilities:
        out["capabilities"] = {k: list(v) for k, v in parts.capabilities.items()}
    if parts.rlimits:
        out["rlimits"] = [{"type": t, "soft": s, "hard": h} for t, s, h in parts.rlimits]
    if parts.oom_score_adj is not None:
        out["oomScoreAdj"] = parts.oom_score_adj
    if parts.apparmor:
        out["apparmorProfile"] = parts.apparmor
    if parts.selinux:
        out["selinuxLabel"] = parts.selinux
    if parts.exec_cpu_affinity:
        out["execCPUAffinity"] = {"initial": parts.exec_cpu_affinity}
    return out


def exec_process(base: Mapping[str, Any], argv: Iterable[str], tty: bool) -> dict[str, Any]:
    """The process object of an exec: the container's own with another command and terminal.

    What only the first process has (an oom score is set by the runtime for every process, so it stays) is kept:
    an exec runs with the container's user, groups, environment, capabilities and profiles.
    """
    args = list(argv)
    if not args:
        raise InvalidRequest("exec command cannot be empty")
    if any("\0" in a for a in args):
        raise InvalidRequest("an argument of the command contains a NUL byte")
    out = {**base, "args": args, "terminal": tty}
    if tty and not any(e.startswith("TERM=") for e in out.get("env", ())):
        out["env"] = [*out.get("env", ()), "TERM=xterm"]
    out.pop("consoleSize", None)
    return out


def clamp_rlimits(
    wanted: Iterable[tuple[str, int, int]], own: Mapping[str, tuple[int, int]], may_raise: bool
) -> tuple[tuple[str, int, int], ...]:
    """Limits that this daemon can really hand on: without CAP_SYS_RESOURCE none above its own hard limit."""
    out = []
    for name, soft, hard in wanted:
        if not may_raise and name in own:
            top = own[name][1]
            soft, hard = min(soft, top), min(hard, top)
        out.append((name, soft, hard))
    return tuple(out)
