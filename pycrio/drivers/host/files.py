"""Plain files of ours, and files of container roots, which are resolved inside those roots (man 2 openat2)."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Sequence
from functools import partial

from pycrio._native import mounts
from pycrio._native.files import replace_file
from pycrio._native.pools import offload
from pycrio.errors import Exhausted, InvalidRequest, StoreFailure


def translated(error: OSError, what: str, path: str) -> StoreFailure | Exhausted | InvalidRequest:
    """The domain's class for a failed file operation."""
    text = f"{path} cannot be {what}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
        return Exhausted(text)
    # EEXIST: of a directory that is to be made, where something else has its name or a parent's
    if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EXDEV, errno.EEXIST):
        return InvalidRequest(text)
    return StoreFailure(text)


class Files:
    """See ``flows.ports.Files``."""

    async def write(self, path: str, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        """Create or replace atomically."""
        try:
            theirs = None if owner == (0, 0) else owner
            await offload("mount", partial(replace_file, path, content, f"{path}.tmp", mode=mode, owner=theirs))
        except OSError as e:
            raise translated(e, "written", path) from e

    async def read(self, path: str, limit: int) -> bytes | None:
        """At most ``limit`` bytes; None when absent."""
        try:
            return await offload("mount", _read, path, limit)
        except OSError as e:
            raise translated(e, "read", path) from e

    async def make_dirs(self, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
        """Make a directory and its parents; an existing one is left as it is."""
        try:
            await offload("mount", _make_dirs, path, mode, owner)
        except OSError as e:
            raise translated(e, "made", path) from e

    async def let_through(self, path: str, top: str) -> None:
        """Let everybody walk through a directory of ours and its parents up to ``top``, for user namespaces' roots."""
        try:
            await offload("mount", _let_through, path, top)
        except OSError as e:
            raise translated(e, "opened for user namespaces", path) from e

    async def remove(self, path: str) -> None:
        """Remove a file, link or tree of ours; a mount below makes it fail rather than be emptied."""
        try:
            await offload("mount", _remove, path)
        except OSError as e:
            raise translated(e, "removed", path) from e

    async def real_path(self, path: str) -> str | None:
        """Where a host path leads; None when absent."""
        return await offload("mount", _real_path, path)

    async def check_dir(self, path: str) -> bool:
        """True when the host path is a directory."""
        return await offload("mount", os.path.isdir, path)

    async def names(self, path: str) -> Sequence[str]:
        """Names in a directory, sorted; empty when absent."""
        return await offload("mount", _names, path)

    async def read_in_root(self, root: str, path: str, limit: int) -> bytes | None:
        """A file of a container's root, at most ``limit`` bytes; None when absent or not a file."""
        try:
            return await offload("mount", _read_in_root, root, path, limit)
        except OSError as e:
            raise translated(e, "read", f"{path} in the container's root") from e

    async def make_dir_in_root(self, root: str, path: str, mode: int, owner: tuple[int, int]) -> str:
        """Make a directory (and its parents) inside a root; its path on the host."""
        try:
            return await offload("mount", mounts.mkdirs_in_root, root, path, mode, owner[0], owner[1])
        except OSError as e:
            raise translated(e, "made", f"{path} in the container's root") from e

    async def resolve_in_root(self, root: str, path: str) -> str | None:
        """Where a path leads inside a root, as a path on the host; None when absent."""
        try:
            return await offload("mount", mounts.resolve_in_root, root, path)
        except FileNotFoundError:
            return None
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise translated(e, "resolved", f"{path} in the container's root") from e

    async def symlink_in_root(self, root: str, path: str, target: str) -> None:
        """Make a symbolic link unless something is there or its directory is absent."""
        try:
            await offload("mount", _symlink_in_root, root, path, target)
        except OSError as e:
            raise translated(e, "made", f"{path} in the container's root") from e


def _read(path: str, limit: int) -> bytes | None:
    try:
        with open(path, "rb") as f:
            return f.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _make_dirs(path: str, mode: int, owner: tuple[int, int] | None) -> None:
    if os.path.isdir(path):
        return
    os.makedirs(os.path.dirname(path) or "/", 0o755, exist_ok=True)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    os.chmod(path, mode)
    if owner is not None:
        os.chown(path, *owner)


def _let_through(path: str, top: str) -> None:
    while path == top or path.startswith(top.rstrip("/") + "/"):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o111 != 0o111:
            os.chmod(path, mode | 0o111)
        path = os.path.dirname(path)


def _remove(path: str) -> None:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(path)
        return
    if mounted := mount_points_below(os.path.realpath(path)):
        raise OSError(errno.EBUSY, f"{mounted[0]} is mounted")
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return


def unescaped(word: bytes) -> str:
    """A path as mountinfo writes it, with blanks and line ends in octal (man 5 proc)."""
    return os.fsdecode(word.decode("unicode_escape").encode("latin-1"))


def mount_points_below(path: str) -> list[str]:
    """At and below a path, from /proc/self/mountinfo (man 5 proc), deepest first; one entry per mount."""
    prefix = path.rstrip("/") + "/"
    with open("/proc/self/mountinfo", "rb") as f:
        found = [unescaped(line.split(b" ", 5)[4]) for line in f]
    return sorted((p for p in found if p == path or p.startswith(prefix)), key=len, reverse=True)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _real_path(path: str) -> str | None:
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return None


def _read_in_root(root: str, path: str, limit: int) -> bytes | None:
    try:
        fd = mounts.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    with fd:
        # O_NONBLOCK: an image may put a fifo where a file is expected, and opening that must not hang
        if not stat.S_ISREG(os.fstat(fd.fileno()).st_mode):
            return None
        out = bytearray()
        while len(out) < limit and (chunk := os.read(fd.fileno(), min(65536, limit - len(out)))):
            out += chunk
        return bytes(out)


def _symlink_in_root(root: str, path: str, target: str) -> None:
    head, _, name = path.rpartition("/")
    try:
        fd = mounts.open_in_root(root, head or "/", os.O_PATH | os.O_DIRECTORY)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    with fd:
        try:
            os.symlink(target, name, dir_fd=fd.fileno())
        except FileExistsError:
            return
