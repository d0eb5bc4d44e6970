"""A streaming exec: the runtime's exec process with its stdio on pipes or on a pseudo terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Sequence

from pycrio._native.pools import offload, submit
from pycrio._native.run import Child, settled, spawn
from pycrio._native.tree import kill_tree


class Session:
    """See ``flows.ports.ExecSession``. Descriptors that do not exist are -1; ``close`` closes those that are left."""

    def __init__(self, child: Child, fds: Sequence[int], on_close: Callable[[], None], pid: Callable[[], int]) -> None:
        self.stdin_fd, self.stdout_fd, self.stderr_fd, self.pty_fd = fds
        self._child = child
        self._on_close = on_close
        self._pid = pid
        self._closed = False

    async def wait(self) -> int:
        """The exit code (128 + signal when killed)."""
        return await self._child.wait()

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size; the runtime hands it on when told by SIGWINCH."""
        if self.pty_fd >= 0:
            fcntl.ioctl(self.pty_fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
            self._child.signal(signal.SIGWINCH)

    def close_stdin(self) -> None:
        """End of the process's input (pipes only)."""
        if self.stdin_fd >= 0:
            os.close(self.stdin_fd)
            self.stdin_fd = -1

    async def close(self) -> None:
        """Kill what still runs and release everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._child.poll() is None:
            # Until the runtime has written down its process, that one is found as the runtime's child only.
            await offload("proc", kill_tree, self._child.pid, self._pid())
            self._child.kill_group()
            await self._child.wait()
        for fd in (self.stdin_fd, self.stdout_fd, self.stderr_fd, self.pty_fd):
            if fd >= 0:
                os.close(fd)
        self.stdin_fd = self.stdout_fd = self.stderr_fd = self.pty_fd = -1
        self._on_close()


async def start_session(
    command: list[str], *, tty: bool, stdin: bool, on_close: Callable[[], None], pid: Callable[[], int]
) -> Session:
    """Start ``command`` with pipes, or with one pseudo terminal. Raises NativeError when it cannot be executed.

    When the caller is cancelled meanwhile, the command is killed and reaped first.
    """
    opened: list[int] = []
    try:
        if tty:
            master, slave = os.openpty()
            opened += [master, slave]
            theirs = {0: slave, 1: slave, 2: slave}
            ours = (-1, -1, -1, master)
        else:
            theirs, mine = {}, [-1, -1, -1]
            for number in (0, 1, 2) if stdin else (1, 2):
                read, write = os.pipe2(os.O_CLOEXEC)
                opened += [read, write]
                theirs[number], mine[number] = (read, write) if number == 0 else (write, read)
            ours = (mine[0], mine[1], mine[2], -1)
        child, cancelled = await settled(submit("proc", _start, command, theirs))
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise
    for fd in dict.fromkeys(theirs.values()):
        os.close(fd)
    session = Session(child, ours, on_close, pid)
    if cancelled is not None:
        await settled(asyncio.ensure_future(session.close()))
        raise cancelled
    return session


def _start(command: list[str], fds: dict[int, int]) -> Child:
    return spawn(command, fds=fds)


async def finished(session: Session) -> int:
    """Wait for the end and release the session."""
    try:
        return await asyncio.shield(asyncio.ensure_future(session.wait()))
    finally:
        await session.close()
