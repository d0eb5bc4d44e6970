from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pycrio._native.base import Fd

IdMap = Sequence[tuple[int, int, int]]

@dataclass(frozen=True, slots=True)
class LinkStats:
    name: str
    index: int
    up: bool
    mtu: int
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int

class Keeper(NamedTuple):
    pid: int
    pidfd: Fd

def create(
    pins: Mapping[str, str],
    *,
    sysctls: Sequence[tuple[str, str]] = (),
    hostname: str | None = None,
    loopback_up: bool = True,
    uid_map: IdMap = (),
    gid_map: IdMap = (),
    userns_fd: int = -1,
) -> None: ...
def create_kept(
    pins: Mapping[str, str],
    keeper: Sequence[str],
    *,
    sysctls: Sequence[tuple[str, str]] = (),
    hostname: str | None = None,
    loopback_up: bool = True,
    uid_map: IdMap = (),
    gid_map: IdMap = (),
    userns_fd: int = -1,
) -> Keeper: ...
def hold_userns(uid_map: IdMap, gid_map: IdMap) -> Fd: ...
def pin(source: str, path: str) -> None: ...
def unpin(path: str) -> bool: ...
def ns_inode(path: str) -> int: ...
def is_pinned(path: str) -> bool: ...
def join_mount(path: str) -> None: ...
def sysctl_kind(name: str) -> str: ...
def connect_in(netns: str, host: str, port: int, timeout_ms: int) -> Fd: ...
def link_stats(netns: str) -> list[LinkStats]: ...
def addresses(netns: str, ifname: str) -> list[str]: ...
