"""Mounts on the host that belong to pods and containers."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pycrio._native import mounts
from pycrio._native.pools import offload
from pycrio.drivers.host.files import mount_points_below, translated, unescaped
from pycrio.errors import StoreFailure
from pycrio.model.mount import OciMount
from pycrio.model.stats import FsSpace


class Mounts:
    """See ``flows.ports.Mounts``."""

    async def shm(self, path: str, size: int, label: str, owner: tuple[int, int]) -> None:
        """A tmpfs for /dev/shm (mode 1777) on a new directory."""
        try:
            await offload("mount", _shm, path, size, label, owner)
        except OSError as e:
            raise translated(e, "mounted", path) from e

    async def bind(self, mount: OciMount) -> None:
        """A bind mount on the host, made now."""
        try:
            await offload("mount", _bind, mount)
        except OSError as e:
            raise translated(e, f"mounted on {mount.destination}", mount.source) from e

    async def unmount(self, path: str) -> None:
        """Detach whatever is mounted at a path, once per mount."""
        try:
            await offload("mount", _unmount, path)
        except OSError as e:
            raise translated(e, "unmounted", path) from e

    async def unmount_top(self, path: str) -> None:
        """Detach the mount that was made last at a path, and none below it."""
        try:
            await offload("mount", mounts.umount, path)
        except OSError as e:
            raise translated(e, "unmounted", path) from e

    async def below(self, path: str) -> Sequence[str]:
        """Mount points at and below a path, deepest first."""
        return await offload("mount", mount_points_below, path)

    async def binds(self, path: str) -> Sequence[tuple[str, str]]:
        """Mount points at and below a path, each with what it shows, as a path within that file system."""
        return await offload("mount", _binds, path)

    def propagation(self, path: str) -> str:
        """``shared``, ``slave`` or ``private`` for the mount that holds a path."""
        try:
            return mounts.propagation_of(path)
        except OSError as e:
            raise StoreFailure(f"propagation of {path} cannot be read: {e.strerror}") from e

    async def space(self, path: str) -> FsSpace | None:
        """Size and free room of the file system at a path; None when the path is gone."""
        try:
            info = await offload("mount", os.statvfs, path)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StoreFailure(f"the file system of {path} cannot be measured: {e.strerror}") from e
        unit = info.f_frsize
        return FsSpace(info.f_blocks * unit, info.f_bavail * unit, info.f_files, info.f_ffree)


def _shm(path: str, size: int, label: str, owner: tuple[int, int]) -> None:
    os.makedirs(path, 0o700, exist_ok=True)
    mounts.tmpfs(path, size=size, mode=0o1777, uid=owner[0], gid=owner[1], label=label or None)


def _bind(mount: OciMount) -> None:
    options = set(mount.options)
    propagation = next((o for o in mount.options if o.lstrip("r") in ("private", "slave", "shared")), None)
    mounts.bind(
        mount.source,
        mount.destination,
        recursive="rbind" in options,
        readonly="ro" in options,
        propagation=propagation,
        attrs=[o for o in mount.options if o in ("nosuid", "nodev", "noexec")],
    )


def _binds(top: str) -> list[tuple[str, str]]:
    with open("/proc/self/mountinfo", "rb") as f:  # man 5 proc: the fourth field, and the fifth
        rows = [line.split()[3:5] for line in f]
    pairs = [(unescaped(point), unescaped(root)) for root, point in rows]
    return [(point, root) for point, root in pairs if point == top or point.startswith(f"{top}/")]


def _unmount(path: str) -> None:
    for _ in range(64):  # mounts stacked on one point; a bound in case somebody keeps adding
        if not mounts.umount(path):
            return
    raise OSError(16, "something keeps mounting on it")
