"""CPUs of single containers in the cgroup tree: isolated from load balancing, without quota, shared with others.

On v1 a cpuset is taken from load balancing by ``cpuset.sched_load_balance`` alone, provided that every other group with
those CPUs has it off (the kubelet's business). On v2 (5.15, remote partitions 6.7) the way from the root to the
container has to hand the CPUs down in ``cpuset.cpus.exclusive``; the last group becomes an isolated partition (kernel:
cgroup-v2.rst, cpuset). Groups above the container belong to others as well, so their ``cpuset.cpus`` gets every CPU.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pycrio._native.pools import offload
from pycrio.drivers.cgroups.manager import Cgroups
from pycrio.drivers.cgroups.read import INNER
from pycrio.drivers.cgroups.systemd import cpu_mask
from pycrio.drivers.cgroups.tree import Tree
from pycrio.errors import ExternalFailure
from pycrio.model.cpus import CpuTuning, format_cpus, parse_cpus

CHILD = "cgroup-child"  # on v2, where a container with shared CPUs has the isolated ones; agents inside know the name
PERIOD = 100_000


class CpuGroups:
    """See ``flows.ports.CpuGroups``. ``online`` is the file with the node's CPUs."""

    def __init__(self, cgroups: Cgroups, online: str = "/sys/devices/system/cpu/online") -> None:
        self._cgroups = cgroups
        self._online = online

    async def apply(self, path: str, wanted: CpuTuning) -> None:
        """Set them for the container whose group ``container_path`` gave; ExternalFailure says what the kernel
        refused."""
        await self._do(path, wanted, _Groups.apply)

    async def release(self, path: str, wanted: CpuTuning) -> None:
        """Take back what outlives the container's group: on v2 the parents' exclusive CPUs."""
        if wanted.isolated and self._cgroups.unified():
            await self._do(path, wanted, _Groups.release)

    async def unbalance(self, path: str) -> None:
        """On v1: an ended container's group, until it goes, must not keep load balancing on for CPUs of others."""
        if not self._cgroups.unified():
            await self._do(path, CpuTuning(""), _Groups.unbalance)

    async def _do(self, path: str, wanted: CpuTuning, work: Callable[[_Groups], None]) -> None:
        directory = self._cgroups.directory(path)
        groups = _Groups(self._cgroups.tree, directory, wanted, self._online)
        try:
            await offload("mount", work, groups)
            for group, properties in groups.notes.items():
                await self._cgroups.note(group, properties)
        except (OSError, ValueError) as e:
            raise ExternalFailure(f"CPUs of cgroup {directory} cannot be set: {e}") from e


@dataclass(frozen=True, slots=True)
class _Step:
    """A v2 group on the way down, with the CPUs that its ``cpuset.cpus`` must have."""

    path: str
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Groups:
    """One container's groups; every method blocks."""

    tree: Tree
    directory: str
    wanted: CpuTuning
    online: str
    notes: dict[str, list[tuple[str, str, Any]]] = field(default_factory=dict)

    # --- both versions ------------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Shares, then isolation, then quota."""
        child = ""
        if self.wanted.shared:
            if self.tree.unified:
                child = self._make_child()
            self._raise_quota()
        if self.wanted.isolated:
            if self.tree.unified:
                self._isolate(child)
            else:
                self.unbalance(must=True)
        if self.wanted.unlimited:
            self._unlimit(child)

    def _inner(self, controller: str) -> list[str]:
        """Directories of the container: its group and, with crun, the one inside."""
        own = self.tree.path(controller, self.directory)
        if own is None:
            raise FileNotFoundError(errno.ENOENT, f"the controller {controller} is not mounted")
        inside = f"{own}/{INNER}"
        return [own, inside] if os.path.isdir(inside) else [own]

    def _pod(self, controller: str) -> str:
        return os.path.dirname(self._inner(controller)[0])

    def _unlimit(self, child: str) -> None:
        for path in (self._pod("cpu"), *self._inner("cpu"), *((child,) if child else ())):
            self._write_quota(path, -1)

    def _raise_quota(self) -> None:
        """Shared CPUs come on top of the pod's quota; the container's own limit is all of its CPUs."""
        own, shared = parse_cpus(self.wanted.cpus), parse_cpus(self.wanted.shared)
        period = self.wanted.period or PERIOD
        pod = self._pod("cpu")
        if self._read_quota(self._inner("cpu")[0]) == len(own | shared) * period:
            return  # a start that was cut off has been here
        quota = self._read_quota(pod)
        if quota >= 0:
            self._write_quota(pod, quota + len(shared) * period)
        self._write_quota(self._inner("cpu")[0], len(own | shared) * period)

    def _read_quota(self, path: str) -> int:
        """µs per period, -1 for none."""
        if self.tree.unified:
            word = _read(f"{path}/cpu.max").split()[0]
            return -1 if word == "max" else int(word)
        return int(_read(f"{path}/cpu.cfs_quota_us"))

    def _write_quota(self, path: str, quota: int) -> None:
        per_second = quota * 1_000_000 // (self.wanted.period or PERIOD) if quota >= 0 else (1 << 64) - 1
        self.notes.setdefault(path, []).append(("CPUQuotaPerSecUSec", "t", per_second))
        if self.tree.unified:
            _write(f"{path}/cpu.max", "max" if quota < 0 else str(quota))
        else:
            _write(f"{path}/cpu.cfs_quota_us", str(quota))

    # --- v1 -----------------------------------------------------------------------------------------------------------

    def unbalance(self, *, must: bool = False) -> None:
        """No load balancing in the container's cpuset, the innermost group first."""
        if not must and self.tree.path("cpuset", self.directory) is None:
            return
        for path in reversed(self._inner("cpuset")):
            try:
                _write(f"{path}/cpuset.sched_load_balance", "0")
            except FileNotFoundError:
                if must:
                    raise

    # --- v2 -----------------------------------------------------------------------------------------------------------

    def _make_child(self) -> str:
        last = self._inner("")[-1]
        _write(f"{last}/cgroup.subtree_control", "+cpu +cpuset")
        child = f"{last}/{CHILD}"
        os.makedirs(child, exist_ok=True)
        _write(f"{child}/cpuset.cpus", self.wanted.cpus)
        return child

    def _steps(self, child: str) -> list[_Step]:
        """From the first group below the root down to the one that is to be isolated."""
        own = parse_cpus(self.wanted.cpus)
        everything = parse_cpus(_read(self.online))
        inner = self._inner("")
        root = self.tree.hierarchies[""]
        names = [n for n in os.path.relpath(os.path.dirname(inner[0]), root).split("/") if n != "."]
        steps = [_Step(os.path.join(root, *names[: i + 1]), everything) for i in range(len(names))]
        steps += [_Step(path, own | parse_cpus(self.wanted.shared)) for path in inner]
        if child:
            steps.append(_Step(child, own))
        return steps

    def _isolate(self, child: str) -> None:
        steps = self._steps(child)
        try:
            for step in steps:
                allowed = _merge(f"{step.path}/cpuset.cpus", step.cpus)
                self.notes.setdefault(step.path, []).append(("AllowedCPUs", "ay", cpu_mask(format_cpus(allowed))))
                _merge(f"{step.path}/cpuset.cpus.exclusive", parse_cpus(self.wanted.cpus))
            _write(f"{steps[-1].path}/cpuset.cpus.partition", "isolated")
            state = _read(f"{steps[-1].path}/cpuset.cpus.partition").strip()
            if state != "isolated":  # the kernel takes the write, and says here why it does not do it
                raise OSError(errno.EINVAL, f"the kernel does not isolate CPUs {self.wanted.cpus}: {state}")
        except OSError:
            self._hand_back(steps)
            raise

    def release(self) -> None:
        """Take the CPUs from ``cpuset.cpus.exclusive`` again, from below."""
        last = self._inner("")[-1]
        child = f"{last}/{CHILD}"
        self._hand_back(self._steps(child if os.path.isdir(child) else ""))

    def _hand_back(self, steps: list[_Step]) -> None:
        own = parse_cpus(self.wanted.cpus)
        for step in reversed(steps):
            for name in ("cpuset.cpus.exclusive", *(("cpuset.cpus",) if step.cpus == own else ())):
                try:
                    _merge(f"{step.path}/{name}", frozenset(), own)
                except OSError as e:
                    if e.errno not in (errno.ENOENT, errno.ENODEV):  # the group is going
                        raise


def _merge(path: str, add: frozenset[int], remove: frozenset[int] = frozenset()) -> frozenset[int]:
    """Add CPUs to a cpuset file, or take them away; nothing is written when nothing changes. What it has then."""
    old = parse_cpus(_read(path))
    new = (old | add) - remove
    if new != old:
        _write(path, format_cpus(new) or "\n")  # the kernel takes no empty write for "none"
    return new


def _read(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as e:
        raise OSError(e.errno, e.strerror, path) from e
    finally:
        os.close(fd)
