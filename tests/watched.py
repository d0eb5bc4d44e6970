"""Daemons that are ended with SIGKILL right before the n-th state-changing system call after ``arm``.

What counts is what ``tests.killpoint`` counts, made by the daemon or, if wanted, by any process that it started:
runtimes, plugins and monitors go by the same filter. Only the daemon is killed; what it started goes on, as it does in
life, and so this watcher stays until the last process is gone.

``python -m tests.watched ADDRESS ARGUMENT …`` is the daemon's side: it installs the filter, hands its descriptor to the
watcher at ADDRESS (a unix socket) and becomes ``pycrio ARGUMENT …``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import runpy
import select
import signal
import socket
import sys
import threading

from tests import killpoint

# Beside what changes files: processes are made and ended.
MORE = {"execve": (59, 221), "kill": (62, 129), "pidfd_send_signal": (424, 424)}


class Watcher:
    """Watches every daemon that reports to ``address``; ``close`` when all of their processes are gone."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.steps: list[str] = []
        self.killed = threading.Event()
        self._kill_at = -1
        self._children = False
        self._daemon = 0
        self._lock = threading.Lock()
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.bind(address)
        self._door.listen(8)
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="watcher", daemon=True)
        self._failure: BaseException | None = None
        column = killpoint._ARCHITECTURES[platform.machine()][0]
        self._names = {row[column]: name for name, row in {**killpoint._CALLS, **MORE}.items()}
        self._thread.start()

    @property
    def program(self) -> tuple[str, ...]:
        """For ``tests.daemon.Daemon``."""
        return ("-m", "tests.watched", self.address)

    def arm(self, kill_at: int = 0, *, children: bool = False) -> None:
        """Count from now on, with ``children`` the steps of every process; kill before step ``kill_at`` (from 1; 0:
        never)."""
        with self._lock:
            self._children = children
            self.steps.clear()
            self.killed.clear()
            self._kill_at = kill_at

    def disarm(self) -> list[str]:
        """Count no more; what was counted."""
        with self._lock:
            self._kill_at = -1
            if self._failure is not None:
                raise self._failure
            return list(self.steps)

    def close(self) -> None:
        """End the watch."""
        os.write(self._woken, b"x")
        self._thread.join()
        self._door.close()
        os.close(self._wake)
        os.close(self._woken)
        if self._failure is not None:
            raise self._failure

    # --- the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = select.poll()
        for fd in (self._wake, self._door.fileno()):
            poller.register(fd, select.POLLIN)
        listeners: set[int] = set()
        try:
            while True:
                for fd, event in poller.poll():
                    if fd == self._wake:
                        return
                    if fd == self._door.fileno():
                        listener = self._greet()
                        listeners.add(listener)
                        poller.register(listener, select.POLLIN)
                    elif event & select.POLLIN:
                        self._notice(fd)
                    else:  # POLLHUP: the last process of that daemon has gone
                        poller.unregister(fd)
                        listeners.discard(fd)
                        os.close(fd)
        except BaseException as e:
            self._failure = e
            raise
        finally:
            for fd in listeners:
                os.close(fd)

    def _greet(self) -> int:
        with self._door.accept()[0] as link:
            text, fds, _, _ = socket.recv_fds(link, 64, 1)
            with self._lock:
                self._daemon = int(text)
            link.send(b"x")
            return fds[0]

    def _notice(self, listener: int) -> None:
        notice = bytearray(killpoint._NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, killpoint._RECV, notice)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.EINTR):
                return  # the thread went away meanwhile
            raise
        ident, thread, _, number, _, _, *arguments = killpoint._NOTIFICATION.unpack(notice)
        if self._kill_at >= 0 and self._counts(self._names[number], thread, arguments):
            with self._lock:
                self.steps.append(self._names[number])
                if len(self.steps) == self._kill_at:
                    self._kill_at = -1
                    os.kill(self._daemon, signal.SIGKILL)
                    self.killed.set()
                    if self._own(thread):
                        return  # unanswered, so it is not made
        try:
            fcntl.ioctl(listener, killpoint._SEND, killpoint._RESPONSE.pack(ident, 0, 0, killpoint._CONTINUE))
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise

    def _counts(self, name: str, thread: int, arguments: list[int]) -> bool:
        if not self._children and not self._own(thread):
            return False
        if name in MORE:
            return True
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, OSError):
            return killpoint._changes(name, thread, arguments)
        return False

    def _own(self, thread: int) -> bool:
        return os.path.isdir(f"/proc/{self._daemon}/task/{thread}")


def main() -> None:
    """Be a watched daemon."""
    address, *arguments = sys.argv[1:]
    killpoint._CALLS.update(MORE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.connect(address)
        listener = killpoint._install()
        socket.send_fds(link, [str(os.getpid()).encode()], [listener])
        os.close(listener)
        link.recv(1)
    sys.argv = ["pycrio", *arguments]
    runpy.run_module("pycrio", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
