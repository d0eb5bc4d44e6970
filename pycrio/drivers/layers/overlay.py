"""The overlay driver's directories: links, lowers, writable layers, staged layers, mounts (store.md sections 9, 10).

One *home* holds the directory of each layer and ``l/``, short symbolic links to them. There is a home for container
layers, one for image layers (the same unless ``image_store`` is set) and one for each additional store.
Callers hold the store's locks; nothing here looks at records.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from pycrio.drivers.layers.files import make_dir, remove_tree, rename, write_atomic
from pycrio.drivers.layers.settings import Settings
from pycrio.errors import StoreFailure, Unsupported
from pycrio.model.security import IdMapping

MAX_LOWERS = 500
_BASE_MODE = 0o555
_LINK_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LINK = re.compile(r"[A-Z2-7]{26}")


def new_link() -> str:
    """A fresh link id: 26 base32 characters."""
    return "".join(secrets.choice(_LINK_ALPHABET) for _ in range(26))


def mapped_root(uid_map: Sequence[IdMapping], gid_map: Sequence[IdMapping]) -> tuple[int, int]:
    """Host ids of a container's root."""

    def first(maps: Sequence[IdMapping]) -> int:
        return next((m.host_id for m in maps if m.container_id == 0 and m.length > 0), 0)

    return first(uid_map), first(gid_map)


@dataclass(frozen=True, slots=True)
class MountPlan:
    """Arguments of an overlay mount; without ``upper`` it is read-only."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    target: str
    options: tuple[str, ...]


class Overlay:
    """Directories of layers in one or more homes."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.image_home = settings.image_home
        own = [self.home] if self.home == self.image_home else [self.home, self.image_home]
        self.own_homes = tuple(own)
        self.homes = (*own, *(f"{root}/overlay" for root in settings.additional_stores))
        self.mount_options = settings.mount_options

    def prepare(self) -> None:
        """Make the homes."""
        for home in self.own_homes:
            make_dir(home)
            make_dir(f"{home}/l", 0o755)
        # Peers write this flag when they first see the store; without it they probe each time.
        for name in os.listdir(self.home):  # of one who died over it; the caller holds the lock for this
            if name.startswith(".tmp-.has-mount-program"):
                os.unlink(f"{self.home}/{name}")
        flag = f"{self.home}/.has-mount-program"
        if not os.path.exists(flag):
            write_atomic(flag, b"false", mode=0o644)

    # --- finding ---

    def find(self, layer_id: str) -> str | None:
        """Directory of a layer, in whatever home; None when there is none."""
        for home in self.homes:
            path = f"{home}/{layer_id}"
            if os.path.isdir(f"{path}/diff"):
                return path
        return None

    def directory(self, layer_id: str) -> str:
        """Directory of a layer; StoreFailure when its record has no directory."""
        path = self.find(layer_id)
        if path is None:
            raise StoreFailure(
                f"layer {layer_id} has a record but no directory below {self.home}: remove the image and pull it again"
            )
        return path

    def diff(self, layer_id: str) -> str:
        """Directory with a layer's own content."""
        return f"{self.directory(layer_id)}/diff"

    def _link_of(self, path: str) -> str:
        try:
            with open(f"{path}/link", encoding="ascii") as f:
                link = f.read().strip()
        except FileNotFoundError:
            link = ""
        if not _LINK.fullmatch(link):
            raise StoreFailure(f"layer directory {path!r} has no valid link file: restart pycrio to have it repaired")
        return link

    def _lower_of(self, path: str) -> list[str]:
        try:
            with open(f"{path}/lower", encoding="ascii") as f:
                return [entry for entry in f.read().strip().split(":") if entry]
        except FileNotFoundError:
            return []

    def chain(self, layer_id: str) -> list[str]:
        """Entries for the ``lower`` file of a child: the layer itself, then its ancestors."""
        path = self.directory(layer_id)
        return [f"l/{self._link_of(path)}", *self._lower_of(path)]

    def _resolve(self, entry: str) -> str:
        for home in self.homes:
            if os.path.exists(f"{home}/{entry}"):
                return f"{home}/{entry}"
        raise StoreFailure(
            f"lower layer {entry!r} is in none of {', '.join(self.homes)}: restart pycrio to repair links"
        )

    # --- making ---

    def make_writable(self, layer_id: str, parent: str, owner: tuple[int, int]) -> None:
        """The directory of a container's layer above ``parent`` ("": above nothing)."""
        path = f"{self.home}/{layer_id}"
        os.mkdir(path, 0o700)
        mode = _BASE_MODE
        lower = self.chain(parent) if parent else []
        if parent:
            status = os.stat(self.diff(parent))
            mode = stat.S_IMODE(status.st_mode)
            if owner == (0, 0):
                owner = (status.st_uid, status.st_gid)
        os.mkdir(f"{path}/diff", 0o700)
        if owner != (0, 0):
            os.chown(path, *owner)
            os.chown(f"{path}/diff", *owner)
        os.chmod(f"{path}/diff", mode)
        self._furnish(self.home, path, layer_id, lower, owner)

    def stage(self, path: str) -> str:
        """Make the directory of a layer to be extracted at ``path``; returns its (empty) ``diff``."""
        os.mkdir(path, 0o700)
        os.mkdir(f"{path}/diff", 0o700)
        return f"{path}/diff"

    def adopt(self, path: str, layer_id: str, parent: str, owner: tuple[int, int] = (0, 0)) -> None:
        """Turn a staged directory into the layer's: one rename, everything in it being in place before. ``owner``
        other than root has it for a user namespace."""
        lower = self.chain(parent) if parent else []
        mode = _BASE_MODE
        if parent:
            # All layers of an image show the mode and owner that the base layer was made with.
            status = os.stat(self.diff(parent))
            mode = stat.S_IMODE(status.st_mode)
            os.chown(f"{path}/diff", status.st_uid, status.st_gid)
        if owner != (0, 0):
            os.chown(path, *owner)
            os.chown(f"{path}/diff", *owner)
        os.chmod(f"{path}/diff", mode)
        self._furnish(self.image_home, path, layer_id, lower, owner)
        rename(path, f"{self.image_home}/{layer_id}")

    def _furnish(self, home: str, path: str, layer_id: str, lower: list[str], owner: tuple[int, int]) -> None:
        if len(lower) > MAX_LOWERS:
            raise Unsupported(f"layer {layer_id} has {len(lower)} layers below it: overlay takes {MAX_LOWERS} at most")
        link = new_link()
        os.symlink(f"../{layer_id}/diff", f"{home}/l/{link}")
        _write(f"{path}/link", link, 0o644)
        if lower:
            _write(f"{path}/lower", ":".join(lower), 0o644)
        for name in ("work", "merged") if lower else ("work", "merged", "empty"):
            os.mkdir(f"{path}/{name}", 0o700)
            if owner != (0, 0):
                os.chown(f"{path}/{name}", *owner)

    def paths(self, layer_id: str) -> list[str]:
        """Paths that belong to a layer of our own homes: its directory and its link."""
        paths = []
        for home in self.own_homes:
            path = f"{home}/{layer_id}"
            if os.path.isdir(path):
                with contextlib.suppress(StoreFailure):
                    paths.append(f"{home}/l/{self._link_of(path)}")
                paths.append(path)
        return paths

    # --- mounting ---

    def plan(self, layer_id: str, extra: Sequence[str] | None, volatile: bool, label: str) -> MountPlan:
        """How to mount a container's layer on its ``merged``. ``extra`` replaces the configured options."""
        path = self.directory(layer_id)
        lowers = tuple(self._resolve(entry) for entry in self._lower_of(path)) or (f"{path}/empty",)
        options = list(self.mount_options if extra is None else extra)
        if extra is not None and "metacopy=on" in self.mount_options and "metacopy=on" not in options:
            options.append("metacopy=on")
        if volatile:
            options.append("volatile")
        if label:
            options.append(f'context="{label}"')
        return MountPlan(lowers, f"{path}/diff", f"{path}/work", f"{path}/merged", tuple(options))

    def image_lowers(self, layer_id: str) -> tuple[str, ...]:
        """Directories that show an image's content when stacked, uppermost first."""
        path = self.directory(layer_id)
        return (f"{path}/diff", *(self._resolve(entry) for entry in self._lower_of(path)))

    def clear_volatile(self, path: str) -> None:
        """Remove the mark of an unclean unmount: a volatile layer is used as it is, or not at all."""
        remove_tree(f"{path}/work/work/incompat/volatile")

    def renew_target(self, path: str) -> None:
        """Put a fresh directory in the place of an unmounted mount point, so that nobody's stale mount sticks to it."""
        merged = f"{path}/merged"
        fresh = f"{merged}.1"
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(fresh, 0o700)
            status = os.stat(path)
            os.chown(fresh, status.st_uid, status.st_gid)
            os.rename(fresh, merged)
        except FileNotFoundError:
            pass  # the layer is being removed

    # --- repair ---

    def heal_links(self) -> int:
        """Make links and layer directories of our homes agree; how many things were changed."""
        return sum(self._heal(home) for home in self.own_homes)

    def _heal(self, home: str) -> int:
        changed = 0
        good: set[str] = set()
        # A layer that lost its link file gets the name back under which its children know it.
        known: dict[str, str] = {}
        for link in os.listdir(f"{home}/l"):
            with contextlib.suppress(OSError):
                known[os.readlink(f"{home}/l/{link}")] = link
        for layer_id in os.listdir(home):
            path = f"{home}/{layer_id}"
            if layer_id == "l" or not re.fullmatch(r"[0-9a-f]{64}", layer_id) or not os.path.isdir(f"{path}/diff"):
                continue
            target = f"../{layer_id}/diff"
            try:
                link = self._link_of(path)
            except StoreFailure:
                link = known.get(target, "")
                link = link if _LINK.fullmatch(link) else new_link()
                _write(f"{path}/link", link, 0o644)
                changed += 1
            good.add(link)
            at = f"{home}/l/{link}"
            if not os.path.islink(at) or os.readlink(at) != target:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(at)
                os.symlink(target, at)
                changed += 1
        for link in os.listdir(f"{home}/l"):
            if link not in good and not os.path.exists(f"{home}/l/{link}"):
                os.unlink(f"{home}/l/{link}")
                changed += 1
        return changed


def _write(path: str, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "w", encoding="ascii") as f:
        f.write(text)


def sync_filesystem(path: str) -> None:
    """Write everything of the file system that holds ``path`` to disk (syncfs(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)
