"""Copies of directory trees whose owners are shifted on the way: contents, holes, links, attributes, times."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from pycrio.errors import Unsupported
from pycrio.model.security import IdMapping

_DEEPEST = 200  # directories that are open at once, two descriptors each
_CHUNK = 1 << 30
_CAPABILITY = "security.capability"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Copier:
    """Copies what is below an open directory. ``maps``: of users and of groups, from the ids that files have."""

    def __init__(self, source_fd: int, maps: tuple[Sequence[IdMapping], Sequence[IdMapping]]) -> None:
        self._source = source_fd
        self._uids, self._gids = maps
        self._linked: dict[tuple[int, int], str] = {}
        self._top = -1

    def copy(self, target: str) -> None:
        """Fill an empty directory; blocks. OSError; Unsupported names a file whose owner is not mapped."""
        self._top = os.open(target, _DIRECTORY)
        try:
            self._fill(self._source, self._top, "")
            self._dress(self._source, self._top, os.stat(self._source), ".")
        finally:
            os.close(self._top)

    def _fill(self, source: int, target: int, at: str) -> None:
        if at.count("/") >= _DEEPEST:
            raise Unsupported(
                f"directories are nested more than {_DEEPEST} deep at {at[:100]!r}: ids cannot be shifted"
            )
        for name in sorted(os.listdir(source)):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            path = f"{at}{name}"
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                self._enter(source, target, name, path)
            elif not self._again(target, name, path, status):
                _make(source, target, name, status)
            else:
                continue
            self._dress_entry(source, target, name, status)

    def _enter(self, source: int, target: int, name: str, path: str) -> None:
        below = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            made = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self._fill(below, made, f"{path}/")
            finally:
                os.close(made)
        finally:
            os.close(below)

    def _again(self, target: int, name: str, path: str, status: os.stat_result) -> bool:
        """Link a file that was copied under another name; False when it was not."""
        if status.st_nlink < 2:
            return False
        first = self._linked.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        os.link(first, name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
        return True

    def _dress_entry(self, source: int, target: int, name: str, status: os.stat_result) -> None:
        where = (f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}")
        os.chown(name, *self._owner(status, name), dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        self._attributes(*where, status)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _dress(self, source: int, target: int, status: os.stat_result, name: str) -> None:
        os.fchown(target, *self._owner(status, name))
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _owner(self, status: os.stat_result, name: str) -> tuple[int, int]:
        return _shift(status.st_uid, self._uids, f"user of {name!r}"), _shift(
            status.st_gid, self._gids, f"group of {name!r}"
        )

    def _attributes(self, source: str, target: str, status: os.stat_result) -> None:
        for key in os.listxattr(source, follow_symlinks=False):
            value = os.getxattr(source, key, follow_symlinks=False)
            if key == _CAPABILITY:
                value = _capability(value, _shift(0, self._uids, "root"))
            os.setxattr(target, key, value, follow_symlinks=False)


def _shift(ident: int, maps: Sequence[IdMapping], what: str) -> int:
    for m in maps:
        if m.container_id <= ident < m.container_id + m.length:
            return m.host_id + ident - m.container_id
    if not maps:
        return ident
    raise Unsupported(f"{what} has the id {ident}, which the user namespace does not map: its range is too short")


def _capability(value: bytes, root: int) -> bytes:
    """A file capability that counts where ``root`` is root (capabilities(7), VFS_CAP_REVISION_3)."""
    magic = int.from_bytes(value[:4], "little") & 0x00FFFFFF | 0x03000000
    return magic.to_bytes(4, "little") + value[4:20] + root.to_bytes(4, "little") if len(value) >= 20 else value


def _make(source: int, target: int, name: str, status: os.stat_result) -> None:
    """A new file, link or node with the content of another."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif not stat.S_ISREG(status.st_mode):
        os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=target)
    else:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                _content(fd, out, status.st_size)
            finally:
                os.close(out)
        finally:
            os.close(fd)


def _content(source: int, target: int, size: int) -> None:
    """Copy the data of a file, not its holes."""
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            return  # only a hole is left
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            done = os.sendfile(target, source, at, min(end - at, _CHUNK))
            if done == 0:
                raise OSError(errno.EIO, "a file became shorter while it was copied")
            at += done
