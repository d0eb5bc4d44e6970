"""Capability algebra of the CRI (man 7 capabilities)."""

from __future__ import annotations

from collections.abc import Iterable

from pycrio.errors import InvalidRequest
from pycrio.model.security import Capabilities

ALL = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    )
)


def full_name(name: str) -> str:
    """``net_admin``, ``CAP_NET_ADMIN`` … as ``CAP_NET_ADMIN``; ``ALL`` stays."""
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def effective_set(wanted: Capabilities, defaults: Iterable[str], known: frozenset[str]) -> list[str]:
    """Names that the container gets, in the kernel's order.

    ``known`` is the daemon's own bounding set: what it lacks cannot be handed on. ALL is taken first from either list;
    the defaults count only when neither list has ALL. A name that no kernel knows is InvalidRequest.
    """
    add = [full_name(n) for n in wanted.add]
    drop = [full_name(n) for n in wanted.drop]
    for n in add:
        if n != "ALL" and n not in ALL:
            raise InvalidRequest(f'unknown capability "{n}" to add')
    for n in drop:
        if n != "ALL" and n not in ALL:
            raise InvalidRequest(f'failed to drop cap {n}: unknown capability "{n}"')
    if "ALL" in add:
        base = set(ALL)
    elif "ALL" in drop:
        base = set()
    else:
        base = {full_name(n) for n in defaults}
    base |= {n for n in add if n != "ALL"}
    base -= {n for n in drop if n != "ALL"}
    return [n for n in ALL if n in base and n in known]


def sets(wanted: Capabilities, names: list[str], inheritable: bool) -> dict[str, list[str]]:
    """The five sets of an OCI process. Ambient ones must be inheritable and permitted as well."""
    ambient = [n for n in (full_name(a) for a in wanted.add_ambient) if n in ALL]
    unknown = [a for a in wanted.add_ambient if full_name(a) not in ALL]
    if unknown:
        raise InvalidRequest(f'unknown capability "{unknown[0]}" to add to the ambient set')
    every = [n for n in ALL if n in names or n in ambient]
    return {
        "bounding": every,
        "effective": every,
        "permitted": every,
        "inheritable": every if inheritable else ambient,
        "ambient": ambient,
    }
