"""Small file work that the whole store does: atomic replacement, removal of trees, staging places."""

from __future__ import annotations

import base64
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from functools import partial
from types import TracebackType

from pycrio._native.base import open_child
from pycrio._native.files import replace_file
from pycrio.drivers.layers.locks import HeldLock
from pycrio.obs import log as obslog

log = obslog.get("store")
_PLAIN_KEY = re.compile(r"[0-9a-z.]+")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 64  # directories that a removal has open at once


def write_atomic(path: str, data: bytes, *, durable: bool = True, mode: int = 0o600) -> None:
    """Replace a file under a temporary name that the collection of garbage knows (recover.py). That a crash of the
    machine may bring the old file back the store's order of writes allows for."""
    directory, base = os.path.split(path)
    replace_file(path, data, f"{directory}/.tmp-{base}{secrets.token_hex(8)}", mode=mode, durable=durable)


def data_file(key: str) -> str:
    """File name of a big data item (store.md section 8)."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    return "=" + base64.standard_b64encode(key.encode()).decode()


def make_dir(path: str, mode: int = 0o700) -> None:
    """Make a directory and its parents; the mode holds for what is made, whatever the umask."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        make_dir(parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    os.chmod(path, mode)


def let_through(path: str, top: str) -> None:
    """Let everybody walk through a directory and its parents up to ``top``: whoever a user namespace maps its root to
    must reach what is mounted below. What is in them stays unreadable."""
    while path == top or path.startswith(top.rstrip("/") + "/"):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o111 != 0o111:
            os.chmod(path, mode | 0o111)
        path = os.path.dirname(path)


def rename(source: str, target: str) -> None:
    """rename(2), tried again when another program put its bind mount over the store between the two look-ups."""
    try:
        os.rename(source, target)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        os.rename(source, target)


def remove_tree(path: str) -> None:
    """Delete a file or a tree; absent is fine. Immutable files and mounts of any kind make it fail with OSError; what
    is mounted is left alone.

    Containers and images decide how deep their trees are: neither the length of a path nor the number of directories
    above one another may matter. What is too deep is moved to the top and has its turn there.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path)
        return
    above = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        top = _enter(above, os.path.basename(path))
    finally:
        os.close(above)
    try:
        while _clear(top, top, 0):
            pass
    finally:
        os.close(top)
    os.rmdir(path)


def _enter(directory: int, name: str) -> int:
    """Open a directory below another. EBUSY when something is mounted on it: a bind mount may show another part of the
    same file system, the whole store even, and what is there is not ours to delete."""
    try:
        return open_child(directory, name)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        raise OSError(errno.EBUSY, "something is mounted there", name) from e


def _clear(directory: int, top: int, depth: int) -> bool:
    """Empty a directory; True when something was moved to ``top``, which then is not empty."""
    moved = False
    with os.scandir(directory) as entries:
        found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif depth == _DEPTH:
            os.rename(name, f".deep-{secrets.token_hex(8)}", src_dir_fd=directory, dst_dir_fd=top)
            moved = True
        else:
            child = _enter(directory, name)
            try:
                moved |= _clear(child, top, depth + 1)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=directory)
    return moved


class Place:
    """A private directory below ``base`` under a held lock: work in progress, or things about to be deleted.

    Layout and protocol are those of the peers' ``tempdirs`` (store.md section 13): ``lock-<x>`` beside
    ``temp-dir-<x>/``. While the lock is held nobody touches the directory; once its owner died, anybody may remove it.
    Whatever is renamed into a place has left the store in one step and is deleted later, without a store lock.
    """

    def __init__(self, base: str, name: str, lock: HeldLock) -> None:
        self.path = f"{base}/temp-dir-{name}"
        self._lock = lock
        self._count = 0

    @classmethod
    def create(cls, base: str) -> Place:
        """Make a place; ``base`` is made when missing."""
        make_dir(base)
        while True:
            name = secrets.token_hex(8)
            lock = HeldLock.create(f"{base}/lock-{name}")
            if lock is None:
                continue
            place = cls(base, name, lock)
            try:
                os.mkdir(place.path, 0o700)
            except BaseException:
                lock.release()
                raise
            return place

    def take(self, path: str) -> bool:
        """Move a file or directory in; False when it is not there."""
        target = f"{self.path}/{self._count}-{os.path.basename(path)}"
        try:
            rename(path, target)
        except FileNotFoundError:
            return False
        self._count += 1
        return True

    def remove(self) -> None:
        """Delete the directory with everything in it, then the lock."""
        try:
            remove_tree(self.path)
        finally:
            # After a failure the next cleaner finds the directory without its owner and tries again.
            self._lock.release()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.remove()


def sweep_places(base: str) -> int:
    """Remove the places below ``base`` whose owners died; how many. What resists stays, which is logged."""
    try:
        entries = sorted(os.listdir(base))
    except FileNotFoundError:
        return 0
    removed = 0
    for entry in entries:
        if entry.startswith("lock-"):
            lock = HeldLock.seize(f"{base}/{entry}")
            if lock is not None:
                removed += _removed(Place(base, entry.removeprefix("lock-"), lock).remove)
        elif entry.startswith("temp-dir-") and not os.path.lexists(f"{base}/lock-{entry.removeprefix('temp-dir-')}"):
            # The lock comes before and goes after the directory: without one, a removal failed half-way.
            removed += os.path.lexists(f"{base}/{entry}") and _removed(partial(remove_tree, f"{base}/{entry}"))
    return removed


def _removed(remove: Callable[[], None]) -> bool:
    """Whether a removal worked. A start must not fail because of garbage."""
    try:
        remove()
    except OSError as e:
        log.warning("What an interrupted run left in the store resists its removal, leaving it there", error=str(e))
        return False
    return True
