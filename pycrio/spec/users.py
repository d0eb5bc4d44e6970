"""Who the first process is: CRI user fields and image user against the image's passwd and group files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pycrio.errors import InvalidRequest
from pycrio.model.container import ContainerConfig
from pycrio.model.security import GroupsPolicy, LinuxUser

MAX_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class ResolvedUser:
    """The identity, and the lines that the container's passwd and group files lack for it ("": nothing lacks)."""

    user: LinuxUser
    name: str = ""
    home: str = ""
    passwd_line: str = ""
    group_line: str = ""


@dataclass(frozen=True, slots=True)
class _Passwd:
    name: str
    uid: int
    gid: int
    home: str


def _rows(text: bytes, fields: int) -> Iterator[list[str]]:
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        parts = line.strip().split(":")
        if len(parts) >= fields and parts[0] and not parts[0].startswith("#"):
            yield parts


def _passwd(text: bytes) -> Iterator[_Passwd]:
    for parts in _rows(text, 4):
        if _is_id(parts[2]) and _is_id(parts[3]):
            yield _Passwd(parts[0], int(parts[2]), int(parts[3]), parts[5] if len(parts) > 5 else "")


def _groups(text: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for parts in _rows(text, 3):
        if _is_id(parts[2]):
            yield parts[0], int(parts[2]), [m for m in (parts[3] if len(parts) > 3 else "").split(",") if m]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text)
    if value > MAX_ID:
        raise InvalidRequest(f"user or group id {text} is out of range: ids go up to {MAX_ID}")
    return value


def _wanted(config: ContainerConfig, image_user: str) -> tuple[str, str]:
    """User and group as text, by priority: name, number, image."""
    security = config.security
    if security.run_as_username:
        user = security.run_as_username
    elif security.run_as_user is not None:
        user = str(security.run_as_user)
    else:
        if security.run_as_group is not None:
            raise InvalidRequest("run_as_group needs run_as_user or run_as_username beside it")
        user, _, group = image_user.partition(":")
        return user, group
    user, _, group = user.partition(":")
    if security.run_as_group is not None:
        group = str(security.run_as_group)
    return user, group


def resolve(config: ContainerConfig, image_user: str, passwd: bytes, group: bytes) -> ResolvedUser:
    """Resolve the process identity.

    ``passwd`` and ``group`` are the contents of the image's files (empty when absent). InvalidRequest when a name is
    not in them.
    """
    wanted_user, wanted_group = _wanted(config, image_user)
    entries = list(_passwd(passwd))
    groups = list(_groups(group))
    uid, entry = 0, None
    if wanted_user:
        entry = next((e for e in entries if e.name == wanted_user), None)
        number = _number(wanted_user)
        if entry is None and number is None:
            raise InvalidRequest(f"user {wanted_user!r} is not in the image's /etc/passwd")
        if entry is None:
            entry = next((e for e in entries if e.uid == number), None)
        uid = entry.uid if entry is not None else number or 0
    else:
        entry = next((e for e in entries if e.uid == 0), None)
    gid = _gid(wanted_group, entry.gid if entry is not None else 0, groups)
    return ResolvedUser(
        user=LinuxUser(uid, gid, _supplementary(config, entry.name if entry else "", gid, groups)),
        name=entry.name if entry else "",
        home=entry.home if entry else "",
        passwd_line=_passwd_line(config, uid, gid) if entry is None and uid != 0 else "",
        group_line=f"{gid}:x:{gid}:" if gid != 0 and all(g[1] != gid for g in groups) else "",
    )


def _gid(wanted: str, default: int, groups: Iterable[tuple[str, int, list[str]]]) -> int:
    if not wanted:
        return default
    for name, gid, _ in groups:
        if name == wanted:
            return gid
    number = _number(wanted)
    if number is None:
        raise InvalidRequest(f"group {wanted!r} is not in the image's /etc/group")
    return number


def _supplementary(
    config: ContainerConfig, name: str, gid: int, groups: Iterable[tuple[str, int, list[str]]]
) -> tuple[int, ...]:
    """Requested groups, the primary one, and under MERGE those that the image's /etc/group gives the user."""
    found = [*config.security.supplemental_groups, gid]
    if config.security.groups_policy is GroupsPolicy.MERGE and name:
        found += [g for _, g, members in groups if name in members]
    for g in found:
        if not 0 <= g <= MAX_ID:
            raise InvalidRequest(f"supplemental group {g} is out of range")
    return tuple(dict.fromkeys(found))


def _passwd_line(config: ContainerConfig, uid: int, gid: int) -> str:
    name = "default"
    home = config.working_dir or "/tmp"
    for key, value in config.envs:
        if key == "HOME" and value.startswith(b"/"):
            home = value.decode("utf-8", "surrogateescape")
    if ":" in home or "\n" in home:
        raise InvalidRequest("the home directory of an unknown user must contain neither a colon nor a newline")
    return f"{name}:x:{uid}:{gid}:{name} user:{home}:/sbin/nologin"
