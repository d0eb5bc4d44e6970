"""External programs under asyncio: run one to its end, or start one and keep it.

Built on the ``proc`` unit (exact descriptor table, pidfd): no SIGCHLD handler, no child watcher, no thread per
child; works in any thread that has a running loop. Every child is reaped by its owner here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal as signals
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pycrio._native import proc
from pycrio._native.base import Fd, NativeError, count_handle
from pycrio._native.pipes import Pipes
from pycrio._native.pools import submit

T = TypeVar("T")

CAP = 16 << 20
_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended and what it wrote.

    ``code``: 0 to 255, or 128 + the signal that ended it. ``truncated``: a stream exceeded the cap and what was
    beyond it is lost. ``timed_out``: it was killed because its time was up.
    """

    code: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    timed_out: bool


def find(name: str) -> str:
    """The program of that name along PATH of our environment; a name with a slash is taken as it is.

    Raises NativeError (step "exec", the name as filename) when there is none.
    """
    return os.fsdecode(_found(os.fsencode(name), os.environb))


def _found(name: bytes, variables: Mapping[bytes, bytes]) -> bytes:
    return proc.find_program(name, variables.get(b"PATH", _DEFAULT_PATH))


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    fds: Mapping[int, int] | None = None,
    new_session: bool = True,
    cgroup_fd: int = -1,
    cgroup_procs: Sequence[int] = (),
    oom_score_adj: int | None = None,
) -> Child:
    """Start a program and return once it runs (about a millisecond, in which the calling thread sleeps).

    ``fds`` maps descriptors of the program to ours, which stay open and ours; 0, 1 and 2 are /dev/null unless they
    are mapped, and nothing else is inherited. ``env`` None: our environment. A name without a slash is searched along
    PATH of that environment. ``new_session``: own session and process group. ``cgroup_fd``: an open cgroup v2
    directory to be born in; ``cgroup_procs``: open cgroup.procs files to join (cgroup v1).
    Raises NativeError (step "exec", the program as filename) when it cannot be executed.
    """
    variables = os.environb if env is None else {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
    words = [os.fsencode(word) for word in argv]
    if not words:
        raise ValueError("argv is empty")
    table = dict(fds or {})
    null = -1
    try:
        for stdio in (0, 1, 2):
            if stdio not in table:
                if null < 0:
                    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                table[stdio] = null
        pid, pidfd = proc.spawn(
            words,
            [k + b"=" + v for k, v in variables.items()],
            list(table.items()),
            path=_found(words[0], variables),
            cwd=None if cwd is None else os.fsencode(cwd),
            new_session=new_session,
            cgroup_fd=cgroup_fd,
            cgroup_procs=cgroup_procs,
            oom_score_adj=oom_score_adj,
        )
    finally:
        if null >= 0:
            os.close(null)
    return Child(pid, Fd(pidfd), leads=new_session)


class Child:
    """A running child and the duty to reap it: ``wait`` or ``poll`` until it has ended, or ``release`` it.

    ``pidfd`` is closed with the reaping. Not for use by several threads at once.
    """

    def __init__(self, pid: int, pidfd: Fd, *, leads: bool) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._leads = leads
        self._code: int | None = None
        self._ended: asyncio.Future[int] | None = None
        count_handle("Child", 1)

    @property
    def code(self) -> int | None:
        """0 to 255, or 128 + signal, once it has been reaped."""
        return self._code

    def poll(self) -> int | None:
        """Reap without waiting: the code, or None while it runs."""
        if self._code is None:
            ended = proc.wait(self.pidfd.fileno(), nohang=True)
            if ended is not None:
                self._settle(ended[1] + 128 if ended[1] else ended[0])
        return self._code

    async def wait(self) -> int:
        """The code once it has ended; any number of tasks may wait, and a cancelled one disturbs nobody.

        Raises NativeError ECHILD when something else in the process reaped it (see ``proc.wait``).
        """
        return self._code if self._code is not None else await asyncio.shield(self.watch())

    def watch(self) -> asyncio.Future[int]:
        """The future behind ``wait``, for one who shields it himself."""
        loop = asyncio.get_running_loop()
        if self._ended is None:
            self._ended = loop.create_future()
            if self._code is None:
                loop.add_reader(self.pidfd.fileno(), self._readable)
            else:
                self._ended.set_result(self._code)
        return self._ended

    def _readable(self) -> None:
        try:
            self.poll()
        except NativeError as error:
            if self._ended is not None and not self._ended.done():
                self._ended.set_exception(error)
            self.release()

    def _settle(self, code: int) -> None:
        self._code = code
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(code)
        self.release()

    def signal(self, sig: int) -> bool:
        """Send a signal to the child alone; False when it has ended."""
        return not self.pidfd.closed and _delivered(lambda: proc.send_signal(self.pidfd.fileno(), sig))

    def kill_group(self, sig: int = signals.SIGKILL) -> bool:
        """Send SIGKILL (or ``sig``) to its whole process group; False when it was reaped or nobody is left.

        A child that does not lead a group gets the signal alone.
        """
        if not self._leads:
            return self.signal(sig)
        return not self.pidfd.closed and _delivered(lambda: proc.signal_group(self.pidfd.fileno(), self.pid, sig))

    def release(self) -> None:
        """Give up the child, unreaped if it has not ended; the process itself is left alone. Idempotent.

        Who still waits for it is cancelled.
        """
        if self.pidfd.closed:
            return
        if self._ended is not None and not self._ended.get_loop().is_closed():
            self._ended.get_loop().remove_reader(self.pidfd.fileno())
            if not self._ended.done():
                self._ended.cancel()
        self.pidfd.close()
        count_handle("Child", -1)

    def __del__(self) -> None:
        if not self.pidfd.closed and not sys.is_finalizing():
            warnings.warn(
                f"child {self.pid} was collected before it was reaped", ResourceWarning, stacklevel=2, source=self
            )
            self.pidfd.close()
            count_handle("Child", -1)


def _delivered(send: Callable[[], None]) -> bool:
    try:
        send()
    except NativeError as error:
        if error.errno != errno.ESRCH:
            raise
        return False
    return True


async def settled(future: asyncio.Future[T]) -> tuple[T, asyncio.CancelledError | None]:
    """Wait for the future whatever happens to us; its result, and the cancellation that came meanwhile.

    Futures only: a task would be cancelled beside us when the loop is torn down.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and future.exception() is not None:
        raise cancelled
    return future.result(), cancelled


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout: float | None = None,
    cap: int = CAP,
    kill_group: bool = True,
    cgroup_fd: int = -1,
    cgroup_procs: Sequence[int] = (),
    oom_score_adj: int | None = None,
) -> Completed:
    """Run a program in a session of its own until it ends; what it wrote and how it ended, whatever its code.

    ``timeout`` in seconds counts from the start of the program; when it is up, or when the caller is cancelled, the
    whole process group (with ``kill_group`` False the program alone) gets SIGKILL, and the program is reaped before
    this returns or raises. ``cap``: bytes kept per stream; more is drained and dropped. Processes that the program
    leaves behind with its pipes open are not waited for: what was in the pipes when it ended is what counts.
    Raises NativeError (step "exec", the program as filename) when it cannot be executed.
    """
    loop = asyncio.get_running_loop()
    pipes = Pipes(stdin, cap)
    try:
        starting = submit(
            "proc",
            spawn,
            argv,
            env=env,
            cwd=cwd,
            fds=pipes.theirs,
            cgroup_fd=cgroup_fd,
            cgroup_procs=cgroup_procs,
            oom_score_adj=oom_score_adj,
        )
        child, cancelled = await settled(starting)
        return await _supervise(loop, child, pipes, cancelled, timeout, kill_group)
    finally:
        pipes.close()


async def _supervise(
    loop: asyncio.AbstractEventLoop,
    child: Child,
    pipes: Pipes,
    cancelled: asyncio.CancelledError | None,
    timeout: float | None,
    kill_group: bool,
) -> Completed:
    timed_out = False

    def kill() -> None:
        if kill_group:
            child.kill_group()
        else:
            child.signal(signals.SIGKILL)

    def expire() -> None:
        nonlocal timed_out
        timed_out = True
        kill()

    ended = child.watch()
    alarm = None if timeout is None else loop.call_later(timeout, expire)
    try:
        if cancelled is None:
            pipes.start(loop)
            try:
                code = await asyncio.shield(ended)
                return Completed(code, *pipes.finish(), timed_out)
            except asyncio.CancelledError as error:
                cancelled = error
        kill()
        await settled(ended)
        raise cancelled
    finally:
        if alarm is not None:
            alarm.cancel()


async def readable(fd: int) -> None:
    """Wait until ``fd`` is readable: for a pidfd, until its process has ended. One waiter per descriptor."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, settle)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
