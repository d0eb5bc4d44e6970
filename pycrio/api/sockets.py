"""The files of unix sockets: the public one that clients know, and the directory of the inner ones."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat

from pycrio.errors import AlreadyExists, ConfigError, StoreFailure, Unavailable

MODE = 0o660
BACKLOG = 4096
_LONGEST = 107
"""Bytes of a path in sockaddr_un less the final NUL (man 7 unix)."""


class Listener:
    """The listening public socket. ``close`` takes its file away unless another daemon has replaced it by then."""

    def __init__(self, path: str) -> None:
        """Listen on ``path`` (parents are made with mode 0755). AlreadyExists when somebody answers there, ConfigError
        when the path cannot be used."""
        _check_length(path)
        _check_length(_beside(path))
        try:
            os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
            _refuse_live(path)
            self.socket, self._inode = _bind(path)
        except OSError as e:
            raise ConfigError([f"cannot listen on {path}: {e.strerror}"]) from e
        self.path = path

    def fileno(self) -> int:
        """The listening descriptor; it stays ours."""
        return self.socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)


async def reach(path: str) -> None:
    """Ask what listens on a public socket as a client does: through the file, the front, and HTTP. Unavailable when it
    answers anything but its information, OSError when nobody is reached."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(b"GET /info HTTP/1.0\r\nHost: localhost\r\n\r\n")
        line = await reader.readline()
    finally:
        writer.close()
    if b" 200 " not in line:
        raise Unavailable(f"{path} answers {line.decode('latin-1').strip() or 'nothing'}")


def private_directory(path: str) -> str:
    """Make a directory for inner sockets that nobody else may enter, without those of an earlier run."""
    _check_length(os.path.join(path, "http.sock"))
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError([f"{path} must be a directory of our own: remove what is there"])
        os.chmod(path, 0o700)
        for entry in os.scandir(path):
            if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                os.unlink(entry.path)
    except OSError as e:
        raise StoreFailure(f"cannot prepare {path} for inner sockets: {e.strerror}") from e
    return path


def _check_length(path: str) -> None:
    if len(os.fsencode(path)) > _LONGEST:
        raise ConfigError([f"socket path {path} is longer than the {_LONGEST} bytes that the kernel allows"])


def _refuse_live(path: str) -> None:
    """Raise unless ``path`` is free or a socket that nobody listens on."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError([f"cannot listen on {path}: something else than a socket is there, remove it"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        failure = probe.connect_ex(path)
    # A full backlog (EAGAIN) has a listener as well; only a refusal tells that the file is stale.
    if failure not in (errno.ECONNREFUSED, errno.ENOENT):
        raise AlreadyExists(f"cannot listen on {path}: another daemon answers there, stop it first")


def _bind(path: str) -> tuple[socket.socket, int]:
    """Bind beside the path and rename over it, so that clients never meet a socket that is not listening yet or has
    the wrong mode; the socket and its inode."""
    beside = _beside(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        listener.bind(beside)
        try:
            os.chmod(beside, MODE)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            inode = os.lstat(beside).st_ino
            os.rename(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except BaseException:
        listener.close()
        raise
    return listener, inode


def _beside(path: str) -> str:
    return os.path.join(os.path.dirname(path), f".s{os.getpid()}")
