"""A corner of the machine for tests and the demonstration: private mount, network and cgroup namespaces.

Bridges, port rules and mounts never touch the host, and the cgroup tree that is seen inside begins with the caller:
what is left in it afterwards was left by the programs under test, and daemons outside (other runs, a real one) are
neither seen nor swept. Only the calling thread moves, so enter before any thread is started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from types import TracebackType

CGROUPS = "/sys/fs/cgroup"
PREFIX = "pycrio-test-"
_NEWNS, _NEWCGROUP, _NEWNET = 0x00020000, 0x02000000, 0x40000000
_REC, _PRIVATE, _NOSUID = 0x4000, 0x40000, 2
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str | os.PathLike[str], kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(source.encode(), os.fsencode(target), kind.encode() or None, flags, data.encode() or None),
        f"mount {target}",
    )


@contextlib.contextmanager
def covered(directory: str) -> Iterator[None]:
    """An empty tmpfs on a directory, which is made if need be and, being the machine's, removed again."""
    missing, path = [], directory
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    mount("tmpfs", directory, "tmpfs")
    try:
        yield
    finally:
        unmount(directory)
        for path in missing:
            with contextlib.suppress(OSError):  # somebody uses it meanwhile
                os.rmdir(path)


def unmount(target: str | os.PathLike[str]) -> None:
    """umount2(2), detached."""
    _check(_libc.umount2(os.fsencode(target), 2), f"umount {target}")


def mounts_below(*directories: str) -> list[str]:
    """Mount points at or below the directories, as the caller sees them, oldest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            point = line.split()[4]
            if any(point == d or point.startswith(d.rstrip("/") + "/") for d in directories):
                found.append(point)
    return found


class Isolation:
    """``with Isolation() as inside:`` – from then on this thread and its children live apart."""

    def __init__(self) -> None:
        self.name = f"{PREFIX}{os.getpid()}"
        self.unified = os.path.exists(f"{CGROUPS}/cgroup.controllers")
        self._outside: list[int] = []

    # --- entering and leaving -------------------------------------------------------------------------------------

    def __enter__(self) -> Isolation:
        self._enter_cgroups()
        _check(_libc.unshare(_NEWNS | _NEWCGROUP | _NEWNET), "unshare mount, cgroup and network namespaces")
        mount("none", "/", flags=_REC | _PRIVATE)
        self._mount_cgroups()
        # The cache of CNI results has one place for the whole machine.
        os.makedirs("/var/lib/cni", exist_ok=True)
        mount("tmpfs", "/var/lib/cni", "tmpfs")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(self.processes())
        for directory in self._outside:
            fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=directory)
            os.write(fd, str(os.getpid()).encode())
            os.close(fd)
            _remove_tree(directory, self.name)
            os.close(directory)
        self._outside.clear()

    def hierarchies(self) -> list[str]:
        """Mount points of the cgroup hierarchies."""
        if self.unified:
            return [CGROUPS]
        return sorted(str(p) for p in pathlib.Path(CGROUPS).iterdir() if p.name != "unified" and not p.is_symlink())

    def _enter_cgroups(self) -> None:
        for top in self.hierarchies():
            directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _sweep(directory)
            self._outside.append(directory)
            own = f"{top}/{self.name}"
            os.mkdir(own)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not self.unified and os.path.exists(f"{own}/{name}"):
                    pathlib.Path(own, name).write_text(pathlib.Path(top, name).read_text())
            pathlib.Path(own, "cgroup.procs").write_text(str(os.getpid()))

    def _mount_cgroups(self) -> None:
        if self.unified:
            mount("cgroup2", CGROUPS, "cgroup2")
            # A group with processes may not hand controllers on: step aside into a leaf.
            os.mkdir(f"{CGROUPS}/self")
            pathlib.Path(CGROUPS, "self", "cgroup.procs").write_text(str(os.getpid()))
            return
        hierarchies = [(p, os.path.basename(p)) for p in self.hierarchies()]
        # Without the unified hierarchy, which crun takes amiss beside the others.
        mount("tmpfs", CGROUPS, "tmpfs", _NOSUID, "mode=755")
        for path, name in hierarchies:
            os.mkdir(path)
            mount("cgroup", path, "cgroup", data="none,name=systemd" if name == "systemd" else name)

    # --- what is in it --------------------------------------------------------------------------------------------

    def cgroups(self) -> list[str]:
        """Every group below the roots of the hierarchies, except the one that the caller lives in."""
        found = set()
        for top in self.hierarchies():
            for path, names, _ in os.walk(top):
                found.update(os.path.relpath(os.path.join(path, n), top) for n in names)
        return sorted(found - {"self"})

    def processes(self) -> dict[int, str]:
        """Command lines of the processes that live in the tree, the caller left out; zombies count."""
        top = CGROUPS if self.unified else f"{CGROUPS}/pids"
        found = {}
        for path, _, _ in os.walk(top):
            for word in pathlib.Path(path, "cgroup.procs").read_text().split():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    line = pathlib.Path("/proc", word, "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(word)] = line.decode("utf-8", "replace").strip() or "(zombie)"
        found.pop(os.getpid(), None)
        return found

    def end(self, pids: dict[int, str]) -> None:
        """SIGKILL to processes of the tree, and wait until they are gone."""
        import select

        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(10_000)
            os.close(fd)


def _remove_tree(directory: int, name: str) -> None:
    """Remove a group and those below it, by descriptor: the path leads elsewhere by now."""
    for _, names, _, here in os.fwalk(name, topdown=False, dir_fd=directory):
        for child in names:
            os.rmdir(child, dir_fd=here)
    os.rmdir(name, dir_fd=directory)


def _sweep(directory: int) -> None:
    """Groups of runs that were killed."""
    for name in os.listdir(directory):
        pid = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):  # a process of that run may still live: its group stays
                _remove_tree(directory, name)


def short_directory() -> str:
    """A scratch directory with a path short enough for sockets, which the root of a user namespace may walk through."""
    path = tempfile.mkdtemp(prefix="py", dir="/tmp")
    os.chmod(path, 0o711)
    return path
