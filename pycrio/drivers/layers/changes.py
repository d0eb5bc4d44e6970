"""The Changes port: what a container changed in its root file system, taken along by checkpoints.

What lies in the writable layer tells *what* changed; the content is read through the mount, which alone shows files
that the layer holds in part (metacopy, renamed directories) as they are.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pycrio._native import mounts
from pycrio._native.pools import submit
from pycrio.drivers.layers.index import Index
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.turn import guarded, settle
from pycrio.drivers.layers.unpack import MALFORMED
from pycrio.errors import BadImage, NotFound, WrongState
from pycrio.model.security import IdMapping

DIFF = "rootfs-diff.tar"
DELETED = "deleted.files"
_LIST_LIMIT = 256 << 20
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a container's root file system lies; paths inside are relative, without a leading slash."""

    upper: str
    merged: str
    lowers: tuple[str, ...]
    uid_map: tuple[IdMapping, ...]
    gid_map: tuple[IdMapping, ...]


class Changes:
    """See ``flows.ports.Changes``."""

    def __init__(self, index: Index, overlay: Overlay, mounter: Mounter) -> None:
        self._index = index
        self._overlay = overlay
        self._mounter = mounter

    async def save(self, container_id: str, directory: str) -> None:
        """Write the two files. WrongState when the root file system is not mounted."""
        place = await self._place(container_id)
        await settle(submit("unpack", guarded, lambda: self._save(place, container_id, directory)))

    def _save(self, place: _Place, container_id: str, directory: str) -> None:
        if not self._mounter.is_mounted(place.merged):
            raise WrongState(f"the root file system of container {container_id} is not mounted")
        fd = os.open(f"{directory}/{DIFF}", _NEW, 0o600)
        with open(fd, "wb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            deleted = sorted(_Saving(place, tar).below(""))
        with open(os.open(f"{directory}/{DELETED}", _NEW, 0o600), "wb") as out:
            out.write(json.dumps(deleted).encode("utf-8", "surrogateescape"))

    async def load(self, container_id: str, directory: str) -> None:
        """Make the changes in a root file system that is new and not mounted yet."""
        place = await self._place(container_id)
        await settle(submit("unpack", guarded, lambda: _load(place, directory)))

    async def _place(self, container_id: str) -> _Place:
        record = (await self._index.current()).containers.by_id.get(container_id)
        if record is None:
            raise NotFound("container", container_id, "the store does not know it")
        plan = self._overlay.plan(record.layer, None, False, "")
        return _Place(plan.upper, plan.target, plan.lowers, record.uidmap, record.gidmap)


# --- saving -----------------------------------------------------------------------------------------------------------


class _Saving:
    """One walk through a writable layer. The container is frozen, so what was a directory stays one."""

    def __init__(self, place: _Place, tar: tarfile.TarFile) -> None:
        self._place = place
        self._tar = tar

    def below(self, path: str) -> Iterator[str]:
        """Archive what is below a directory of the layer; yields what was deleted there."""
        for entry in sorted(os.scandir(os.path.join(self._place.upper, path)), key=lambda e: e.name):
            name = os.path.join(path, entry.name)
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                yield name
            elif not stat.S_ISDIR(info.st_mode):
                self._add(name)
            elif _marked(entry.path, "opaque") or _marked(entry.path, "redirect"):
                yield from self._whole(name)
            else:
                self._add(name)
                yield from self.below(name)

    def _whole(self, path: str) -> Iterator[str]:
        """A directory that hides the one below it, or shows another one: all that is seen in it is new."""
        self._add(path)
        here = os.path.join(self._place.merged, path)
        for at, directories, files in os.walk(here):
            directories.sort()
            inside = os.path.relpath(at, self._place.merged)
            for name in sorted((*directories, *files)):
                self._add(os.path.join(inside, name))
        yield from (os.path.join(path, n) for n in _lower_names(self._place.lowers, path) - set(os.listdir(here)))

    def _add(self, path: str) -> None:
        full = os.path.join(self._place.merged, path)
        info = os.lstat(full)
        if stat.S_ISSOCK(info.st_mode):  # archives cannot hold sockets; CRIU makes those in use anew
            return
        entry = self._tar.gettarinfo(full, path)
        entry.uid = _inside(info.st_uid, self._place.uid_map)
        entry.gid = _inside(info.st_gid, self._place.gid_map)
        entry.uname = entry.gname = ""
        entry.pax_headers = {"mtime": f"{info.st_mtime_ns // 10**9}.{info.st_mtime_ns % 10**9:09d}", **_xattrs(full)}
        if entry.isreg():
            with open(full, "rb") as f:
                self._tar.addfile(entry, f)
        else:
            self._tar.addfile(entry)


def _marked(path: str, mark: str) -> bool:
    """True when overlay marked a directory of its upper layer."""
    for space in ("trusted", "user"):
        try:
            return os.getxattr(path, f"{space}.overlay.{mark}", follow_symlinks=False) != b"n"
        except OSError as e:
            if e.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
    return False


def _xattrs(path: str) -> dict[str, str]:
    """Extended attributes as pax records. Labels of SELinux belong to the pod, not to the content."""
    out = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if name != "security.selinux" and not name.startswith(("trusted.overlay.", "user.overlay.")):
            value = os.getxattr(path, name, follow_symlinks=False)
            out[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
    return out


def _lower_names(lowers: Sequence[str], path: str) -> set[str]:
    """Names that a directory may have in the image. Some may be hidden there already: to delete those hurts nothing."""
    found: set[str] = set()
    for lower in lowers:
        with contextlib.suppress(OSError), mounts.open_in_root(lower, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            found.update(os.listdir(fd.fileno()))
    return found


def _inside(host_id: int, maps: Iterable[IdMapping]) -> int:
    """The container's id for one of the host; ids that it cannot have stay as they are."""
    for m in maps:
        if m.host_id <= host_id < m.host_id + m.length:
            return m.container_id + host_id - m.host_id
    return host_id


def _outside(container_id: int, maps: Iterable[IdMapping]) -> int:
    for m in maps:
        if m.container_id <= container_id < m.container_id + m.length:
            return m.host_id + container_id - m.container_id
    return container_id


# --- loading ----------------------------------------------------------------------------------------------------------


def _load(place: _Place, directory: str) -> None:
    try:
        source = os.open(f"{directory}/{DIFF}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        source = -1
    if source >= 0:
        try:
            _extract(place, source)
        finally:
            os.close(source)
    for parts in _deleted(directory):
        _hide(place, parts)


def _extract(place: _Place, source: int) -> None:
    from pycrio._native.untar import extract

    uid_map, gid_map = ([(m.container_id, m.host_id, m.length) for m in p] for p in (place.uid_map, place.gid_map))
    upper = os.open(place.upper, _DIR)
    try:
        extract(source, upper, keep_root=True, uid_map=uid_map, gid_map=gid_map)
    except OSError as e:
        if e.errno in MALFORMED:
            raise BadImage(f"{DIFF} of the checkpoint {MALFORMED[e.errno]}: {e}") from e
        raise
    finally:
        os.close(upper)
    for parts in _implied(source):
        with contextlib.suppress(OSError), mounts.open_in_root(place.upper, "/".join(parts), _DIR) as fd:
            _resemble(place, fd.fileno(), parts)


def _implied(source: int) -> list[list[str]]:
    """Directories that an archive has files in, but no entry of: other engines write such ones."""
    os.lseek(source, 0, os.SEEK_SET)
    named: set[str] = set()
    needed: set[str] = set()
    with open(source, "rb", closefd=False) as f, tarfile.open(fileobj=f, mode="r:*") as tar:
        for entry in tar:
            name = entry.name.strip("/").removeprefix("./")
            named.add(name)
            while name := os.path.dirname(name):
                needed.add(name)
    return [name.split("/") for name in sorted(needed - named)]


def _deleted(directory: str) -> list[list[str]]:
    try:
        with open(f"{directory}/{DELETED}", "rb") as f:
            text = f.read(_LIST_LIMIT)
    except FileNotFoundError:
        return []
    try:
        paths = json.loads(text or b"[]")
        names = [[part for part in str(path).split("/") if part not in ("", ".")] for path in paths or ()]
    except (ValueError, TypeError) as e:
        raise BadImage(f"{DELETED} of the checkpoint is not a JSON list of paths: {e}") from e
    if any(".." in parts or "\0" in "".join(parts) for parts in names):
        raise BadImage(f"{DELETED} of the checkpoint has a path that leads out of the root file system")
    return [parts for parts in names if parts]


def _hide(place: _Place, parts: list[str]) -> None:
    """Put a whiteout above a path that the image has."""
    if not any(_has(lower, parts) for lower in place.lowers):
        return
    at = os.open(place.upper, _DIR)
    try:
        for depth, part in enumerate(parts[:-1], start=1):
            with contextlib.suppress(FileExistsError):
                _copy_up(place, at, parts[:depth])
            try:
                below = os.open(part, _DIR, dir_fd=at)
            except OSError as e:
                if e.errno in (errno.ENOTDIR, errno.ELOOP):
                    return  # the checkpoint put something else there
                raise
            os.close(at)
            at = below
        with contextlib.suppress(FileExistsError):
            os.mknod(parts[-1], stat.S_IFCHR, os.makedev(0, 0), dir_fd=at)
    finally:
        os.close(at)


def _has(lower: str, parts: list[str]) -> bool:
    try:
        with mounts.open_in_root(lower, "/".join(parts[:-1]) or "/", os.O_PATH | os.O_DIRECTORY) as fd:
            os.stat(parts[-1], dir_fd=fd.fileno(), follow_symlinks=False)
            return True
    except OSError:
        return False


def _copy_up(place: _Place, at: int, parts: list[str]) -> None:
    """Make a directory in the writable layer that looks like the image's."""
    os.mkdir(parts[-1], 0o755, dir_fd=at)
    fd = os.open(parts[-1], _DIR, dir_fd=at)
    try:
        _resemble(place, fd, parts)
    finally:
        os.close(fd)


def _resemble(place: _Place, directory: int, parts: list[str]) -> None:
    """Give a directory the owner and mode that the image's has, if it has one."""
    for lower in place.lowers:
        try:
            with mounts.open_in_root(lower, "/".join(parts), os.O_PATH | os.O_DIRECTORY) as fd:
                info = os.fstat(fd.fileno())
        except OSError:
            continue
        os.fchown(directory, _outside(info.st_uid, place.uid_map), _outside(info.st_gid, place.gid_map))
        os.fchmod(directory, stat.S_IMODE(info.st_mode))
        return
