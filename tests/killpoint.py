"""End a process with SIGKILL right before the n-th of its system calls that change files, whatever thread makes it.

``run(work, kill_at)`` forks; the child installs a seccomp filter that hands each such call to us (seccomp_unotify(2))
and does the work; we count and let it go on, or kill. So what is seen is what the kernel sees: calls of the
interpreter, of the compiled core and of libraries alike, and all threads are cut off in the middle of what they do.

Which calls count: everything that makes, changes, moves, removes, syncs or mounts. Opening counts when it is for
writing or creates; writing counts when it goes to a regular file, not to a pipe, a socket or an eventfd.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import stat
import struct
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Numbers on x86_64 and aarch64 (None: the architecture does not have the call).
_CALLS: dict[str, tuple[int, int | None]] = {
    "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "pwritev": (296, 70), "pwritev2": (328, 287),
    "sendfile": (40, 71), "splice": (275, 76), "copy_file_range": (326, 285), "fallocate": (285, 47),
    "truncate": (76, 45), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83), "sync": (162, 81),
    "syncfs": (306, 267), "sync_file_range": (277, 84), "open": (2, None), "creat": (85, None), "openat": (257, 56),
    "openat2": (437, 437), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "mknod": (133, None), "mknodat": (259, 33), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mount": (165, 40), "umount2": (166, 39), "move_mount": (429, 429), "mount_setattr": (442, 442),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# Index of the argument that is the descriptor written to.
_TO = {"write": 0, "pwrite64": 0, "writev": 0, "pwritev": 0, "pwritev2": 0, "sendfile": 0, "splice": 2}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_RET_ALLOW, _RET_NOTIFY = 0x7FFF0000, 0x7FC00000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_RECV, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, …_SEND
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_CONTINUE = 1
_NO_FILE = -1  # truncating it is our mark for the beginning
FAILED = 1  # exit status of work that raised
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Outcome:
    """How a run ended: its exit status, negative for a signal, and the names of the calls that were counted."""

    status: int = 0
    calls: list[str] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def begin() -> None:
    """Called by work that runs ``gated``: from here on calls count."""
    with contextlib.suppress(OSError):
        os.ftruncate(_NO_FILE, 0)


def run(work: Callable[[], None], kill_at: int = 0, *, gated: bool = False) -> Outcome:
    """Do ``work`` in a child, killed before its call number ``kill_at`` (from 1; 0: never)."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _child(work, theirs)
    theirs.close()
    with ours:
        try:
            listener = _received(ours)
            try:
                outcome = Outcome()
                _supervise(pid, listener, kill_at, gated, outcome)
            finally:
                os.close(listener)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    outcome.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return outcome


def in_child(work: Callable[[], None]) -> int:
    """Exit status of a forked child that does the work, unwatched."""
    pid = os.fork()
    if pid == 0:
        _finish(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _child(work: Callable[[], None], link: socket.socket) -> None:
    def watched() -> None:
        listener = _install()
        socket.send_fds(link, [b"x"], [listener])
        os.close(listener)
        link.close()
        work()

    _finish(watched)


def _finish(work: Callable[[], None]) -> None:
    try:
        work()
        os._exit(0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(FAILED)


def _install() -> int:
    """Filter this thread and those that it will start; the descriptor that tells of their calls."""
    machine = platform.machine()
    column, architecture = _ARCHITECTURES[machine]
    numbers = [row[column] for row in _CALLS.values()]
    wanted = [n for n in numbers if n is not None]
    program = [
        _instruction(0x20, 0, 0, 4),
        _instruction(0x15, 1, 0, architecture),
        _instruction(0x06, 0, 0, _RET_ALLOW),
    ]
    program.append(_instruction(0x20, 0, 0, 0))
    for position, number in enumerate(wanted):
        program.append(_instruction(0x15, len(wanted) - position, 0, number))
    program += [_instruction(0x06, 0, 0, _RET_ALLOW), _instruction(0x06, 0, 0, _RET_NOTIFY)]
    code = ctypes.create_string_buffer(b"".join(program))
    head = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(code)))
    fd = _libc.syscall(_SECCOMP[machine], _SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, head)
    if fd < 0:
        code_ = ctypes.get_errno()
        raise OSError(code_, f"seccomp: {os.strerror(code_)}")
    return int(fd)


def _instruction(code: int, true: int, false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def _received(link: socket.socket) -> int:
    _, fds, _, _ = socket.recv_fds(link, 1, 1)
    if not fds:
        raise ChildProcessError("the child ended before it was watched")
    return fds[0]


def _supervise(pid: int, listener: int, kill_at: int, gated: bool, outcome: Outcome) -> None:
    begun = not gated
    names = {row[_ARCHITECTURES[platform.machine()][0]]: name for name, row in _CALLS.items()}
    process = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.register(process, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if process in ready:
                return
            notice = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(listener, _RECV, notice)
            except OSError as e:
                if e.errno in (errno.ENOENT, errno.EINTR):
                    continue  # the thread went away meanwhile
                raise
            ident, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(notice)
            if names[number] == "ftruncate" and arguments[0] & 0xFFFFFFFF == _NO_FILE & 0xFFFFFFFF:
                begun = True
            elif begun and _changes(names[number], thread, arguments):
                outcome.calls.append(names[number])
                if len(outcome.calls) == kill_at:
                    os.kill(pid, signal.SIGKILL)
                    return
            try:
                fcntl.ioctl(listener, _SEND, _RESPONSE.pack(ident, 0, 0, _CONTINUE))
            except OSError as e:
                if e.errno != errno.ENOENT:
                    raise
    finally:
        os.close(process)


def _changes(name: str, thread: int, arguments: Sequence[int]) -> bool:
    if name == "openat":
        return bool(arguments[2] & _WRITING)
    if name == "open":
        return bool(arguments[1] & _WRITING)
    if name == "openat2":
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(arguments[2])
            return bool(struct.unpack("=Q", memory.read(8))[0] & _WRITING)
    if name in _TO:
        try:
            return stat.S_ISREG(os.stat(f"/proc/{thread}/fd/{arguments[_TO[name]] & 0xFFFFFFFF}").st_mode)
        except FileNotFoundError:
            return False
    return True
