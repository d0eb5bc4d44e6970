"""The mounted cgroup hierarchies: one for v2, one per controller (or pair) for v1, also in hybrid set-ups."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tree:
    """``hierarchies`` maps a v1 controller to its mount point; on v2 it has the one key "". ``controllers`` has
    ``swap`` as well where that of memory can limit it."""

    unified: bool
    hierarchies: dict[str, str]
    controllers: frozenset[str]

    def roots(self) -> list[str]:
        """Mount points, each once (cpu and cpuacct are often one)."""
        return list(dict.fromkeys(os.path.realpath(p) for p in self.hierarchies.values()))

    def path(self, controller: str, directory: str) -> str | None:
        """A group's directory in a controller's hierarchy; None when the controller is not there."""
        root = self.hierarchies.get("" if self.unified else controller)
        return None if root is None else os.path.join(root, directory.lstrip("/"))

    def make(self, directory: str) -> None:
        """Make the group in every hierarchy. On v1 a cpuset that is empty takes no process: it gets its parent's."""
        for root in self.roots():
            current = root
            for part in directory.strip("/").split("/"):
                current = os.path.join(current, part)
                try:
                    os.mkdir(current, 0o755)
                except FileExistsError:
                    continue
                if self.unified:
                    _delegate(os.path.dirname(current))
                elif os.path.exists(os.path.join(current, "cpuset.cpus")):
                    _inherit(current)

    def enter(self, directory: str, pid: int) -> None:
        """Move a process into the group in every hierarchy."""
        for root in self.roots():
            path = os.path.join(root, directory.lstrip("/"), "cgroup.procs")
            with open(path, "w", encoding="ascii") as f:
                f.write(str(pid))

    def limit(self, directory: str, cpuset: str, shares: int) -> None:
        """Set CPUs ("": as the parent) and CPU weight in v1 shares (0: the kernel's default) of a group."""
        wanted = [("cpuset", "cpuset.cpus", cpuset)] if cpuset else []
        if shares and self.unified:
            wanted.append(("cpu", "cpu.weight", str(weight(shares))))
        elif shares:
            wanted.append(("cpu", "cpu.shares", str(shares)))
        for controller, name, value in wanted:
            path = self.path(controller, directory)
            if path is not None and controller in self.controllers:
                with open(os.path.join(path, name), "w", encoding="ascii") as f:
                    f.write(value)

    def remove(self, directory: str) -> bool:
        """Remove the group and those below it; False when one is busy."""
        free = True
        for root in self.roots():
            top = os.path.join(root, directory.lstrip("/"))
            for path in _below(top):
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    continue
                except OSError as e:
                    if e.errno != errno.EBUSY:
                        raise
                    free = False
        return free

    def processes(self, directory: str) -> list[int]:
        """Pids in the group and below."""
        found: set[int] = set()
        for root in self.roots():
            for path in _below(os.path.join(root, directory.lstrip("/"))):
                try:
                    with open(os.path.join(path, "cgroup.procs"), "rb") as f:
                        found.update(int(word) for word in f.read().split())
                except OSError as e:
                    if e.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                        raise
        found.discard(0)  # processes of other pid namespaces
        return sorted(found)

    def thaw(self, directory: str) -> bool:
        """Let the group and those below it run; True when one was frozen (v1: freezer.state, v2: cgroup.freeze)."""
        top = self.path("freezer", directory)
        name, frozen, run = ("cgroup.freeze", b"1", "0") if self.unified else ("freezer.state", b"FR", "THAWED")
        found = False
        for path in () if top is None else _below(top):
            try:
                with open(os.path.join(path, name), "r+b", buffering=0) as f:
                    if f.read(2).strip() == frozen:
                        f.seek(0)
                        f.write(run.encode())
                        found = True
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        return found

    def named(self, prefix: str) -> list[str]:
        """Groups whose name begins so, as paths below a hierarchy's root."""
        found: set[str] = set()
        for root in self.roots():
            found.update(path[len(root) + 1 :] for path in _groups(root) if path.rpartition("/")[2].startswith(prefix))
        return sorted(found)


def weight(shares: int) -> int:
    """cgroup v2's cpu.weight (1 to 10000) for v1's cpu.shares (2 to 262144), as OCI runtimes convert."""
    shares = min(max(shares, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def _groups(top: str) -> Iterator[str]:
    """The groups below one. A group has dozens of files: one that its link count shows to have no groups inside (as
    kernfs counts) is not looked into."""
    try:
        with os.scandir(top) as entries:
            inside = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return  # removed meanwhile
    for entry in inside:
        yield entry.path
        try:
            if entry.stat(follow_symlinks=False).st_nlink != 2:
                yield from _groups(entry.path)
        except FileNotFoundError:
            continue


def _below(top: str) -> Iterator[str]:
    """The directory and those below it, deepest first."""
    for path, _, _ in os.walk(top, topdown=False):
        yield path


def _inherit(path: str) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        with open(os.path.join(os.path.dirname(path), name), encoding="ascii") as f:
            value = f.read().strip()
        with open(os.path.join(path, name), "w", encoding="ascii") as f:
            f.write(value)


def _delegate(path: str) -> None:
    """Let the children of a v2 group use what the group itself may use. A controller that is refused stays off."""
    try:
        with open(os.path.join(path, "cgroup.controllers"), encoding="ascii") as f:
            wanted = f.read().split()
        with open(os.path.join(path, "cgroup.subtree_control"), encoding="ascii") as f:
            have = f.read().split()
    except FileNotFoundError:
        return
    for controller in wanted:
        if controller not in have:
            try:
                with open(os.path.join(path, "cgroup.subtree_control"), "w", encoding="ascii") as f:
                    f.write(f"+{controller}")
            except OSError as e:
                if e.errno not in (errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
                    raise


def find(root: str) -> Tree:
    """Look at the mounts at and below ``root`` (man 5 proc, mountinfo)."""
    v1: dict[str, str] = {}
    v2 = ""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            point, kind = left.split()[4], right.split()[0]
            if point != root and not point.startswith(root.rstrip("/") + "/"):
                continue
            if kind == "cgroup2" and point == root:
                v2 = point
            elif kind == "cgroup":
                options = right.split()[2].split(",")
                names = [o for o in options if o in _V1]
                v1 |= dict.fromkeys(names, point)
                if "name=systemd" in options:
                    v1["systemd"] = point
    if v2:
        with open(os.path.join(v2, "cgroup.controllers"), encoding="ascii") as f:
            usable = frozenset(f.read().split())
        return Tree(True, {"": v2}, usable | ({"swap"} if "memory" in usable and _limits_swap(v2) else set()))
    usable = frozenset(v1) - {"systemd"}
    # The kernel may have no account of swap: swapaccount=0, which Debian's kernels took for the default on v1.
    swap = "memory" in v1 and os.path.exists(os.path.join(v1["memory"], "memory.memsw.limit_in_bytes"))
    return Tree(False, v1, usable | ({"swap"} if swap else set()))


def _limits_swap(root: str) -> bool:
    """Whether v2 groups can have a limit of swap. The root group never has, so another one is asked; where none has
    the controller yet, it will be as almost everywhere."""
    with os.scandir(root) as entries:
        groups = [root, *(e.path for e in entries if e.is_dir(follow_symlinks=False))]
    one = next((g for g in groups if os.path.exists(os.path.join(g, "memory.max"))), None)
    return one is None or os.path.exists(os.path.join(one, "memory.swap.max"))


_V1 = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio"}
    | {"perf_event", "rdma", "misc"}
)
