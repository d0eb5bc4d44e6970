from collections.abc import Sequence

from pycrio._native.base import Fd

def overlay(
    lowers: Sequence[str],
    upper: str | None,
    work: str | None,
    target: str,
    options: Sequence[str] = (),
    *,
    classic: bool = False,
) -> None: ...
def bind(
    source: str,
    target: str,
    *,
    recursive: bool = False,
    readonly: bool = False,
    propagation: str | None = None,
    attrs: Sequence[str] = (),
) -> None: ...
def idmapped_bind(
    source: str,
    target: str,
    userns_fd: int,
    *,
    recursive: bool = False,
    readonly: bool = False,
    propagation: str | None = None,
    attrs: Sequence[str] = (),
) -> None: ...
def tmpfs(
    target: str,
    *,
    size: int | None = None,
    mode: int,
    attrs: Sequence[str] = ("nosuid", "nodev", "noexec"),
    uid: int = 0,
    gid: int = 0,
    label: str | None = None,
) -> None: ...
def umount(target: str, *, detach: bool = True) -> bool: ...
def set_propagation(target: str, kind: str, recursive: bool = True) -> None: ...
def is_mountpoint(path: str) -> bool: ...
def mount_id(path: str) -> int: ...
def propagation_of(path: str) -> str: ...
def probe(dir: str = "/", userns_fd: int = -1) -> dict[str, bool]: ...
def open_in_root(root: str, path: str, flags: int, mode: int = 0) -> Fd: ...
def resolve_in_root(root: str, path: str) -> str: ...
def mkdirs_in_root(root: str, path: str, mode: int, uid: int, gid: int) -> str: ...
