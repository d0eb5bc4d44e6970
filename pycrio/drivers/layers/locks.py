"""Lock files of the shared store: who may write, and whether somebody else has written (store.md section 2).

The peers (podman, buildah, skopeo, CRI-O) take POSIX record locks on the whole file. We take *open file description*
locks (fcntl(2), F_OFD_SETLKW): the kernel lets the two kinds conflict with each other as if they were one, but ours
belong to the descriptor instead of the process. So closing any other descriptor of the file does not drop them, and
two stores in one process exclude each other.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import ClassVar

TOKEN_SIZE = 64
_counter = itertools.count(1)
# struct flock of 64-bit Linux: type, whence, (padding) start, length, pid (0 for OFD locks).
_FLOCK = struct.Struct("hhqqi4x")


def new_token() -> bytes:
    """A token that no writer anywhere has used before: time, counter, pid, random bytes (little endian)."""
    head = struct.pack("<QQI", time.time_ns() & 0xFFFF_FFFF_FFFF_FFFF, next(_counter), os.getpid())
    return head + os.urandom(TOKEN_SIZE - len(head))


def _set(fd: int, kind: int, wait: bool) -> None:
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


class Abandoned(Exception):
    """Whoever wanted the work has given up while it waited for a lock; nothing was done."""


class Job:
    """A piece of work that its caller may give up as long as it only waits for locks.

    Transactions take all their locks before they change anything, so between two locks nothing needs to be undone.
    """

    current: ClassVar[ContextVar[Job | None]] = ContextVar("pycrio_store_job", default=None)

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting = True
        self._abandoned = False

    def wait(self) -> None:
        """The work is about to wait for a lock."""
        with self._mutex:
            self._waiting = True

    def proceed(self) -> None:
        """The work has got its lock; Abandoned when nobody wants it any more."""
        with self._mutex:
            if self._abandoned:
                raise Abandoned
            self._waiting = False

    def abandon(self) -> bool:
        """Give the work up; False when it is under way and has to be waited for."""
        with self._mutex:
            self._abandoned = self._waiting
            return self._abandoned


class LockFile:
    """One lock file: a descriptor, a mutex between our threads, and the token.

    Taking a lock blocks, possibly for as long as another program extracts a layer: only ever in a pool thread. Not
    reentrant. A read-only lock file (additional stores) is never created nor written unless its directory allows it.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self._mutex = threading.Lock()
        self._opening = threading.Lock()
        self._fd = -1
        self._stale: list[int] = []

    def _open(self) -> int:
        """The descriptor; a fresh one when the file was deleted behind our back (a store that was reset)."""
        with self._opening:
            if self._fd >= 0:
                if os.fstat(self._fd).st_nlink:
                    return self._fd
                # Another thread may be waiting for a lock on it: the number must not be given to something else yet.
                self._stale.append(self._fd)
                self._fd = -1
            if self.read_only:
                try:
                    self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                    return self._fd
                except FileNotFoundError:
                    os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
                    self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                    return self._fd
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            return self._fd

    @contextmanager
    def _held(self, kind: int) -> Iterator[None]:
        job = Job.current.get()
        if job is not None:
            job.wait()
        with self._mutex:
            while True:
                fd = self._open()
                _set(fd, kind, wait=True)
                # Deleted while we waited: the lock is on a file that nobody else will open again.
                if os.fstat(fd).st_nlink:
                    break
            try:
                if job is not None:
                    job.proceed()
                yield
            finally:
                _set(fd, fcntl.F_UNLCK, wait=False)

    def write(self) -> AbstractContextManager[None]:
        """Hold the lock exclusively (context manager)."""
        return self._held(fcntl.F_WRLCK)

    @contextmanager
    def try_write(self) -> Iterator[bool]:
        """Hold the lock exclusively if it is free right now: whether it was (context manager)."""
        if not self._mutex.acquire(blocking=False):
            yield False
            return
        try:
            fd = self._open()
            try:
                _set(fd, fcntl.F_WRLCK, wait=False)
            except OSError as e:
                if e.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                yield False
                return
            try:
                yield True
            finally:
                _set(fd, fcntl.F_UNLCK, wait=False)
        finally:
            self._mutex.release()

    def read(self) -> AbstractContextManager[None]:
        """Hold the lock shared with other readers of other processes (context manager)."""
        return self._held(fcntl.F_RDLCK)

    def token(self) -> bytes:
        """The last writer's token, read without the lock; empty for a file that nobody wrote to."""
        return os.pread(self._open(), TOKEN_SIZE, 0)

    def touch(self) -> bytes:
        """Store and return a new token. Call it with the write lock held, before writing what the lock guards."""
        token = new_token()
        if os.pwrite(self._open(), token, 0) != TOKEN_SIZE:
            raise OSError(errno.EIO, "short write of a lock token", self.path)
        return token

    def close(self) -> None:
        """Forget the descriptor (and with it any lock)."""
        with self._opening:
            for fd in (*self._stale, self._fd):
                if fd >= 0:
                    os.close(fd)
            self._stale.clear()
            self._fd = -1


class LockSet:
    """Lock files that are always taken together, in order; the token of the first one counts, all are rewritten.

    Image layers that live apart from container layers (``imagestore``) are one list under two lock files.
    """

    def __init__(self, files: Sequence[LockFile]) -> None:
        self.files = tuple(files)

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold every lock exclusively."""
        with ExitStack() as stack:
            for lock in self.files:
                stack.enter_context(lock.write())
            yield

    @contextmanager
    def try_write(self) -> Iterator[bool]:
        """Hold every lock exclusively if all are free right now: whether they were."""
        with ExitStack() as stack:
            yield all(stack.enter_context(lock.try_write()) for lock in self.files)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold every lock shared."""
        with ExitStack() as stack:
            for lock in self.files:
                stack.enter_context(lock.read())
            yield

    def token(self) -> bytes:
        """The tokens of all the files; a change of any of them counts as a change."""
        return b"".join(lock.token() for lock in self.files)

    def touch(self) -> None:
        """Write a new token to every file."""
        for lock in self.files:
            lock.touch()

    def close(self) -> None:
        """Close every file."""
        for lock in self.files:
            lock.close()


class HeldLock:
    """A lock file that was created to be held for a while and deleted at the end (staging and deletion places)."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def create(cls, path: str) -> HeldLock | None:
        """Create and lock; None when a cleaner took the fresh file away (choose another name then)."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _set(fd, fcntl.F_WRLCK, wait=True)
            if os.fstat(fd).st_nlink:
                return cls(path, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    @classmethod
    def seize(cls, path: str) -> HeldLock | None:
        """Lock an existing file if its owner is gone; None when somebody holds it or it has just vanished."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            _set(fd, fcntl.F_WRLCK, wait=False)
            if os.fstat(fd).st_nlink:
                return cls(path, fd)
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EACCES):
                os.close(fd)
                raise
        os.close(fd)
        return None

    def append(self, data: bytes) -> None:
        """Add to the file's content."""
        os.lseek(self._fd, 0, os.SEEK_END)
        os.write(self._fd, data)

    def read(self) -> bytes:
        """The file's content."""
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def close(self) -> None:
        """Let go and leave the file to whoever seizes it next."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def release(self) -> None:
        """Delete the file, then let go: nobody can seize a name whose content may still be there."""
        if self._fd < 0:
            return
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass  # a reset of the store took it
        finally:
            os.close(self._fd)
            self._fd = -1
