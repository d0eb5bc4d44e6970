"""Extraction in a process of its own, for pulls that have a control group of their own.

What a layer costs (page cache, processor, disk) is charged to the group of the process that writes it. Threads of one
process cannot be in different groups of the memory controller, so a thread of the daemon will not do; nor does the
whole daemon have to be started again for it: the helper is an interpreter with the extractor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import secrets
import select
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pycrio
from pycrio._native import proc
from pycrio.drivers.layers import worker

# Moves a process (pid) below a parent group into a group with this name, and removes that group when it is empty.
Enter = Callable[[int, str, str], Awaitable[None]]
Leave = Callable[[str, str], Awaitable[None]]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(pycrio.__file__)))
CODE = "import sys; sys.path[:1] = [sys.argv[1]]; from pycrio.drivers.layers.worker import main; main()"


@dataclass(frozen=True, slots=True)
class Groups:
    """Where helpers go."""

    enter: Enter
    leave: Leave


@dataclass(frozen=True, slots=True)
class Result:
    """What the helper reports, as ``pycrio._native.untar.Extracted``."""

    compressed_digest: str
    compressed_size: int
    diff_id: str
    diff_size: int
    compression: str
    entries: int
    uids: list[int]
    gids: list[int]
    split_complete: bool


class StepError(OSError):
    """An extractor's failure as the helper tells it; ``step`` as in NativeError."""

    step = ""


class Apart:
    """``pycrio._native.untar.extract`` for one layer, in a helper below the group ``parent``. To be called in a thread
    while ``loop`` runs."""

    def __init__(self, groups: Groups, parent: str, loop: asyncio.AbstractEventLoop) -> None:
        self._groups = groups
        self._parent = parent
        self._loop = loop
        self._name = f"crio-pull-{secrets.token_hex(8)}"

    def __call__(
        self,
        src_fd: int,
        target_dir_fd: int,
        *,
        split_fd: int = -1,
        keep_root: bool = False,
        limits: Mapping[str, int] | None = None,
        cancel_fd: int = -1,
    ) -> Result:
        """Extract. OSError as the extractor's own; ENOMEM when the helper was killed."""
        _ = keep_root  # the helper always does
        gate, go = os.pipe2(os.O_CLOEXEC)
        answer, result = os.pipe2(os.O_CLOEXEC)
        table = [(0, gate), (1, 2), (2, 2), (worker.BLOB, src_fd), (worker.DIRECTORY, target_dir_fd)]
        table += [(worker.SPLIT, split_fd), (worker.RESULT, result)]
        pidfd = -1
        try:
            argv = [sys.executable, "-c", CODE, ROOT]
            environ = [k + b"=" + v for k, v in os.environb.items()]
            pid, pidfd = proc.spawn(
                [os.fsencode(word) for word in argv], environ, table, pdeathsig=signal.SIGKILL, new_session=True
            )
            os.close(result)
            result = -1
            self._wait(self._groups.enter(pid, self._parent, self._name))
            os.write(go, json.dumps(dict(limits or {})).encode())
            os.close(go)
            go = -1
            return _result(_read(answer, cancel_fd), self._parent)
        finally:
            for fd in (gate, go, answer, result):
                if fd >= 0:
                    os.close(fd)
            if pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    proc.send_signal(pidfd, signal.SIGKILL)
                proc.wait(pidfd)
                os.close(pidfd)
                self._wait(self._groups.leave(self._parent, self._name))

    def _wait(self, work: Awaitable[None]) -> None:
        async def done() -> None:
            await work

        asyncio.run_coroutine_threadsafe(done(), self._loop).result()


def _read(fd: int, cancel_fd: int) -> bytes:
    """Everything from a descriptor; ECANCELED as soon as the other one is readable."""
    poll, data = select.poll(), b""
    poll.register(fd, select.POLLIN)
    if cancel_fd >= 0:
        poll.register(cancel_fd, select.POLLIN)
    while True:
        if any(ready == cancel_fd for ready, _ in poll.poll()):
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        part = os.read(fd, 1 << 16)
        if not part:
            return data
        data += part


def _result(data: bytes, parent: str) -> Result:
    if not data:
        raise OSError(errno.ENOMEM, f"its helper process was killed, perhaps by the memory limit of cgroup {parent}")
    answer: dict[str, Any] = json.loads(data.decode("utf-8", "surrogateescape"))
    if "errno" in answer:
        error = StepError(answer["errno"], answer["strerror"], answer["filename"] or None)
        error.step = answer["step"]
        raise error
    return Result(**answer)
