"""The seccomp notifier: forbidden system calls of containers that ask for it are told, and answered with ENOSYS.

The OCI runtime of a container or exec connects to a socket that the profile names and hands the kernel's descriptor
over (runtime-spec, config-linux.md, listenerPath; man 2 seccomp_unotify). With the last process under that filter the
descriptor hangs up. Without a daemon the kernel itself answers ENOSYS.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import functools
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pycrio._native.base import Fd
from pycrio._native.pools import offload
from pycrio._native.run import readable
from pycrio.drivers.security.profile import known_calls
from pycrio.errors import StoreFailure
from pycrio.obs import log as obslog

log = obslog.get("notifier")
NOTIFY = "SCMP_ACT_NOTIFY"
FORBIDDING = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"})
HANDOVER = 10.0  # seconds that a runtime has to say whom its descriptor is of
STATE = 1 << 20
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
_REQUEST, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
Told = Callable[[str], None]


def watched(document: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A profile (OCI linux.seccomp) whose refusals are told at a socket.

    Calls that it fails with ENOSYS stay as they are: they shall look as if the kernel lacked them, so that C libraries
    take older ones, and are no offence. The action for calls without a rule cannot be to notify; those of them that we
    know get a rule.
    """
    rules = [dict(rule) for rule in document.get("syscalls") or ()]
    named = {name for rule in rules for name in rule["names"]}
    for rule in rules:
        if rule["action"] in FORBIDDING and rule.get("errnoRet") != errno.ENOSYS:
            rule["action"] = NOTIFY
            rule.pop("errnoRet", None)
    rest = sorted(known_calls() - named)
    if document["defaultAction"] in FORBIDDING and rest:
        rules.append({"names": rest, "action": NOTIFY})
    return {**document, "syscalls": rules, "listenerPath": path}


@dataclass(frozen=True, slots=True)
class Settings:
    """``directory`` holds a socket per container."""

    directory: str


class Notifier:
    """See ``flows.ports.Notifier``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._served: dict[str, set[asyncio.Task[None]]] = {}

    def profile(self, document: Mapping[str, Any], container_id: str) -> Mapping[str, Any]:
        """The profile with its refusals told at the container's socket."""
        return watched(document, self._path(container_id))

    def _path(self, container_id: str) -> str:
        return os.path.join(self.settings.directory, container_id)

    async def listen(self, container_id: str, told: Told) -> None:
        """Make the container's socket and have ``told`` called with the name of each forbidden call. StoreFailure when
        the socket cannot be made."""
        try:
            sock = await offload("proc", self._bind, self._path(container_id))
        except OSError as e:
            raise StoreFailure(f"socket {self._path(container_id)} of the seccomp notifier: {e.strerror or e}") from e
        task = asyncio.get_running_loop().create_task(self._accept(sock, container_id, told))
        task.add_done_callback(lambda _: sock.close())  # though it may never have begun
        self._listeners[container_id] = task

    def _bind(self, path: str) -> socket.socket:
        os.makedirs(self.settings.directory, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.bind(path)
            sock.listen(16)
        except OSError:
            sock.close()
            raise
        return sock

    async def forget(self, container_id: str) -> None:
        """Close everything of a container; absent is fine."""
        listener = self._listeners.pop(container_id, None)
        if listener is None:
            return
        await _ended(listener, *self._served.pop(container_id, ()))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(container_id))

    async def close(self) -> None:
        """Stop listening to anybody; sockets stay for the next daemon to replace."""
        await _ended(*self._listeners.values(), *(task for tasks in self._served.values() for task in tasks))
        self._listeners.clear()
        self._served.clear()

    # --- one container --------------------------------------------------------------------------------------------

    async def _accept(self, sock: socket.socket, container_id: str, told: Told) -> None:
        loop, tasks = asyncio.get_running_loop(), self._served.setdefault(container_id, set())
        while True:
            link, _ = await loop.sock_accept(sock)
            task = loop.create_task(self._serve(link, container_id, told))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(functools.partial(_close, link))

    async def _serve(self, link: socket.socket, container_id: str, told: Told) -> None:
        """One filter, from its hand-over to its last process."""
        try:
            with link:
                await asyncio.wait_for(readable(link.fileno()), HANDOVER)
                descriptor = _descriptor(link)
        except (OSError, ValueError, asyncio.TimeoutError, TimeoutError) as e:  # two classes before Python 3.11
            log.error("No seccomp descriptor came from the runtime", id=container_id, error=str(e) or type(e).__name__)
            return
        with descriptor:
            while True:
                await readable(descriptor.fileno())
                call = await offload("proc", _answer, descriptor.fileno())
                if call is None:
                    return
                if call:
                    told(call)


def _close(link: socket.socket, _: asyncio.Task[None]) -> None:
    link.close()


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _descriptor(link: socket.socket) -> Fd:
    """The one called seccompFd among those that a runtime sends with the process's state."""
    size = array.array("i").itemsize
    data, ancillary, _, _ = link.recvmsg(STATE, socket.CMSG_SPACE(16 * size))
    got = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            got.frombytes(payload[: len(payload) - len(payload) % size])
    owned = [Fd(number) for number in got]
    try:
        document = json.loads(data)
        names = document.get("fds") if isinstance(document, dict) else None
        if not isinstance(names, list) or names.count("seccompFd") != 1 or names.index("seccompFd") >= len(owned):
            raise ValueError("the runtime's message names no seccomp descriptor")
        return owned.pop(names.index("seccompFd"))
    finally:
        for fd in owned:
            fd.close()


def _answer(fd: int) -> str | None:
    """Take a notification and refuse its call; the call's name, "" when its caller has gone, None at the end of all."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    events = dict(poll.poll(0)).get(fd, 0)
    if not events & select.POLLIN:
        return None if events else ""
    request = bytearray(_REQUEST.size)
    try:
        fcntl.ioctl(fd, _RECEIVE, request)
        ident, _, _, number, machine, *_ = _REQUEST.unpack(request)
        fcntl.ioctl(fd, _SEND, _ANSWER.pack(ident, 0, -errno.ENOSYS, 0))
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.EINTR):
            return ""
        raise
    return call_name(machine, number)


@functools.lru_cache(1024)
def call_name(machine: int, number: int) -> str:
    """A call's name by libseccomp where the host has it, else its number."""
    library = _library()
    if library is not None:
        ffi, lib = library
        text = lib.seccomp_syscall_resolve_num_arch(machine, number)
        if text != ffi.NULL:
            try:
                return bytes(ffi.string(text)).decode("ascii", "replace")
            finally:
                lib.free(text)
    return f"syscall_{number}"


@functools.cache
def _library() -> tuple[Any, Any] | None:
    from cffi import FFI  # late: few nodes have a container with a notifier

    ffi = FFI()
    ffi.cdef("char *seccomp_syscall_resolve_num_arch(uint32_t arch, int number); void free(void *text);")
    try:
        return ffi, ffi.dlopen("libseccomp.so.2")
    except OSError as e:
        log.warning("System calls are told by number, libseccomp is not there", error=str(e))
        return None
