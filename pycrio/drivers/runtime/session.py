"""A streaming exec: the runtime's exec process with its stdio on pipes or on a pseudo terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Sequence

from pycrio._native import proc
from pycrio._native.base import Fd
from pycrio._native.pools import offload, submit
from pycrio._native.run import Child, settled, spawn
from pycrio._native.tree import kill_tree
from pycrio._native.watch import ARRIVALS, DirectoryWatch
from pycrio.obs import log as obslog

log = obslog.get("runtime")


class Session:
    """See ``flows.ports.ExecSession``. Descriptors that do not exist are -1; ``close`` closes those that are left.

    ``pid`` gives the process in the container once the runtime has written it to a file in ``directory``; ``kill`` ends
    whatever the exec has started, and the trees of the processes that it is told.
    """

    def __init__(
        self,
        child: Child,
        fds: Sequence[int],
        on_close: Callable[[], None],
        pid: Callable[[], int],
        kill: Callable[..., None] = kill_tree,
        directory: str = "",
    ) -> None:
        self.stdin_fd, self.stdout_fd, self.stderr_fd, self.pty_fd = fds
        self._child = child
        self._on_close = on_close
        self._pid = pid
        self._kill = kill
        self._directory = directory
        self._waiting: DirectoryWatch | None = None
        self._size = (0, 0)
        self._closed = False

    async def wait(self) -> int:
        """The exit code (128 + signal when killed)."""
        return await self._child.wait()

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size: of ours, which runc copies to the process's own when told by SIGWINCH, and of that
        one, since crun does not."""
        if self.pty_fd < 0:
            return
        self._size = (width, height)
        _set_size(self.pty_fd, width, height)
        self._child.signal(signal.SIGWINCH)
        if not self._resize_inner() and self._waiting is None and self._directory:
            self._waiting = DirectoryWatch(lambda path, name: self._arrived(), ARRIVALS)
            self._waiting.add(self._directory)
            self._arrived()

    def _arrived(self) -> None:
        if self._resize_inner():
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _resize_inner(self) -> bool:
        """Whether the process is there. Its terminal is found at the runtime, which holds the other side of it: what
        the process itself has open may be anything by now, and even looking at it could block."""
        if not self._pid():
            return False
        try:
            for name in os.listdir(f"/proc/{self._child.pid}/fd"):
                if os.readlink(f"/proc/{self._child.pid}/fd/{name}").endswith("/ptmx"):
                    with Fd(proc.copy_fd(self._child.pidfd.fileno(), int(name))) as fd:
                        _set_size(fd.fileno(), *self._size)
        except OSError as e:
            log.debug("Terminal of an exec not resized", error=str(e))  # it is about to end
        return True

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
        self._stop_waiting()
        if self._child.poll() is None:
            # Until the runtime has written down its process, that one is found as the runtime's child only.
            await offload("proc", self._kill, self._child.pid, self._pid())
            self._child.kill_group()
            await self._child.wait()
        for fd in (self.stdin_fd, self.stdout_fd, self.stderr_fd, self.pty_fd):
            if fd >= 0:
                os.close(fd)
        self.stdin_fd = self.stdout_fd = self.stderr_fd = self.pty_fd = -1
        self._on_close()


def _set_size(fd: int, width: int, height: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


async def start_session(
    command: list[str],
    *,
    tty: bool,
    stdin: bool,
    on_close: Callable[[], None],
    pid: Callable[[], int],
    kill: Callable[..., None] = kill_tree,
    directory: str = "",
    oom_score_adj: int | None = None,
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
        child, cancelled = await settled(submit("proc", _start, command, theirs, oom_score_adj))
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise
    for fd in dict.fromkeys(theirs.values()):
        os.close(fd)
    session = Session(child, ours, on_close, pid, kill, directory)
    if cancelled is not None:
        await settled(asyncio.ensure_future(session.close()))
        raise cancelled
    return session


def _start(command: list[str], fds: dict[int, int], oom_score_adj: int | None) -> Child:
    return spawn(command, fds=fds, oom_score_adj=oom_score_adj)


async def finished(session: Session) -> int:
    """Wait for the end and release the session."""
    try:
        return await asyncio.shield(asyncio.ensure_future(session.wait()))
    finally:
        await session.close()
