"""CPUs of containers in made-up cgroup trees of both versions, and the real v1 files of this machine."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pycrio.drivers.cgroups import cpus as module
from pycrio.drivers.cgroups.cpus import CpuGroups
from pycrio.drivers.cgroups.manager import Cgroups, Settings
from pycrio.drivers.cgroups.tree import Tree
from pycrio.errors import ExternalFailure
from pycrio.model.cpus import CpuTuning

ID = "c" * 64
POD = "kubepods/pod1"
V1 = {"cpu.cfs_quota_us": "100000\n", "cpuset.sched_load_balance": "1\n", "cpuset.cpus": "0-3\n"}
V2 = {
    "cpu.max": "100000 100000\n",
    "cpuset.cpus": "",
    "cpuset.cpus.exclusive": "",
    "cpuset.cpus.partition": "member\n",
    "cgroup.subtree_control": "",
}


class Groups:
    """A tree below ``root``: the way to one container, with files of one version."""

    def __init__(self, root: pathlib.Path, files: Mapping[str, str], unified: bool, inner: bool = False) -> None:
        self.root = root
        (root / "online").write_text("0-3\n")
        ways = ["kubepods", POD, f"{POD}/crio-{ID}"] + ([f"{POD}/crio-{ID}/container"] if inner else [])
        for way in ways:
            (root / way).mkdir(parents=True)
            for name, text in files.items():
                (root / way / name).write_text(text)
        cgroups = Cgroups(Settings("cgroupfs"))
        points = {"": str(root)} if unified else {"cpu": str(root), "cpuset": str(root)}
        cgroups.tree = Tree(unified, points, frozenset({"cpu", "cpuset"}))
        self.manager = cgroups
        self.cpus = CpuGroups(cgroups, f"{root}/online")
        self.path = f"/{POD}/crio-{ID}"

    def read(self, name: str, way: str = f"{POD}/crio-{ID}") -> str:
        return (self.root / way / name).read_text().strip()


# --- v1 ---------------------------------------------------------------------------------------------------------------


async def test_v1_load_balancing(tmp_path: pathlib.Path) -> None:
    groups = Groups(tmp_path, V1, False, inner=True)
    await groups.cpus.apply(groups.path, CpuTuning("2-3", isolated=True))
    assert groups.read("cpuset.sched_load_balance") == "0"
    assert groups.read("cpuset.sched_load_balance", f"{POD}/crio-{ID}/container") == "0"
    assert groups.read("cpuset.sched_load_balance", POD) == "1"
    assert groups.read("cpu.cfs_quota_us") == "100000"
    await groups.cpus.release(groups.path, CpuTuning("2-3", isolated=True))


async def test_v1_quota_goes_for_the_pod_as_well(tmp_path: pathlib.Path) -> None:
    groups = Groups(tmp_path, V1, False)
    await groups.cpus.apply(groups.path, CpuTuning("2-3", unlimited=True))
    assert [groups.read("cpu.cfs_quota_us", w) for w in (POD, f"{POD}/crio-{ID}")] == ["-1", "-1"]
    assert groups.read("cpuset.sched_load_balance") == "1"


async def test_v1_shared_cpus_raise_the_quota(tmp_path: pathlib.Path) -> None:
    groups = Groups(tmp_path, V1, False)
    await groups.cpus.apply(groups.path, CpuTuning("2-3", shared="0", period=50000))
    assert groups.read("cpu.cfs_quota_us", POD) == "150000"
    assert groups.read("cpu.cfs_quota_us") == "150000"
    await groups.cpus.apply(groups.path, CpuTuning("2-3", shared="0", period=50000))
    assert groups.read("cpu.cfs_quota_us", POD) == "150000"
    (groups.root / POD / "cpu.cfs_quota_us").write_text("-1\n")
    await groups.cpus.apply(groups.path, CpuTuning("2-3", shared="0"))
    assert groups.read("cpu.cfs_quota_us", POD) == "-1"
    assert groups.read("cpu.cfs_quota_us") == "300000"


async def test_v1_an_ended_container_balances_nothing(tmp_path: pathlib.Path) -> None:
    groups = Groups(tmp_path, V1, False)
    await groups.cpus.unbalance(groups.path)
    assert groups.read("cpuset.sched_load_balance") == "0"
    await groups.cpus.unbalance(f"/{POD}/crio-gone")


async def test_a_group_that_is_not_there(tmp_path: pathlib.Path) -> None:
    groups = Groups(tmp_path, V1, False)
    with pytest.raises(ExternalFailure, match=f"CPUs of cgroup /{POD}/crio-gone cannot be set"):
        await groups.cpus.apply(f"/{POD}/crio-gone", CpuTuning("2-3", isolated=True))


# --- v2 ---------------------------------------------------------------------------------------------------------------


async def test_v2_isolated_cpus_are_handed_down_and_back(tmp_path: pathlib.Path) -> None:
    groups, wanted = Groups(tmp_path, V2, True, inner=True), CpuTuning("2-3", isolated=True)
    inner = f"{POD}/crio-{ID}/container"
    (groups.root / "kubepods/cpuset.cpus.exclusive").write_text("1\n")
    await groups.cpus.apply(groups.path, wanted)
    assert groups.read("cpuset.cpus", "kubepods") == groups.read("cpuset.cpus", POD) == "0-3"
    assert groups.read("cpuset.cpus.exclusive", "kubepods") == "1-3"
    assert groups.read("cpuset.cpus.exclusive", inner) == groups.read("cpuset.cpus", inner) == "2-3"
    assert groups.read("cpuset.cpus.partition", inner) == "isolated"
    assert groups.read("cpuset.cpus.partition") == "member"
    await groups.cpus.release(groups.path, wanted)
    assert groups.read("cpuset.cpus.exclusive", "kubepods") == "1"
    assert groups.read("cpuset.cpus", "kubepods") == "0-3"
    assert groups.read("cpuset.cpus.exclusive", inner) == groups.read("cpuset.cpus", inner) == ""
    await groups.cpus.unbalance(groups.path)  # a matter of v1


async def test_v2_a_group_that_went_first(tmp_path: pathlib.Path) -> None:
    groups, wanted = Groups(tmp_path, V2, True), CpuTuning("2-3", isolated=True)
    await groups.cpus.apply(groups.path, wanted)
    for name in V2:
        (groups.root / POD / f"crio-{ID}" / name).unlink()
    (groups.root / POD / f"crio-{ID}").rmdir()
    await groups.cpus.release(groups.path, wanted)
    assert groups.read("cpuset.cpus.exclusive", POD) == ""


async def test_v2_a_kernel_that_refuses(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write succeeds, and reading tells why nothing came of it (cgroup-v2.rst)."""
    groups, real = Groups(tmp_path, V2, True), module._write

    def write(path: str, text: str) -> None:
        real(path, "isolated invalid (Cpu list in cpuset.cpus not exclusive)" if text == "isolated" else text)

    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(ExternalFailure, match=r"does not isolate CPUs 2-3: isolated invalid \(Cpu list"):
        await groups.cpus.apply(groups.path, CpuTuning("2-3", isolated=True))
    assert groups.read("cpuset.cpus.exclusive", POD) == groups.read("cpuset.cpus.exclusive", "kubepods") == ""


async def test_v2_shared_cpus_leave_the_own_ones_to_a_child(tmp_path: pathlib.Path) -> None:
    groups, wanted = Groups(tmp_path, V2, True), CpuTuning("2-3", shared="0", isolated=True, unlimited=True)
    child = f"{POD}/crio-{ID}/cgroup-child"
    (groups.root / child).mkdir()
    for name, text in V2.items():
        (groups.root / child / name).write_text(text)
    await groups.cpus.apply(groups.path, wanted)
    assert groups.read("cgroup.subtree_control") == "+cpu +cpuset"
    assert groups.read("cpuset.cpus") == "0,2-3"
    assert groups.read("cpuset.cpus", child) == groups.read("cpuset.cpus.exclusive", child) == "2-3"
    assert groups.read("cpuset.cpus.partition", child) == "isolated"
    assert groups.read("cpuset.cpus.partition") == "member"
    assert {groups.read("cpu.max", w) for w in (POD, f"{POD}/crio-{ID}", child)} == {"max"}
    await groups.cpus.release(groups.path, wanted)
    assert groups.read("cpuset.cpus.exclusive", child) == groups.read("cpuset.cpus", child) == ""
    assert groups.read("cpuset.cpus") == "0,2-3"


async def test_systemd_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Sequence[tuple[str, str, Any]]]] = []

    async def note(self: Cgroups, path: str, properties: Sequence[tuple[str, str, Any]]) -> None:
        told.append((path.removeprefix(f"{tmp_path}/"), properties))

    monkeypatch.setattr(Cgroups, "note", note)
    groups = Groups(tmp_path, V2, True)
    (groups.root / f"{POD}/crio-{ID}/cgroup-child").mkdir()
    (groups.root / f"{POD}/crio-{ID}/cgroup-child/cpuset.cpus").write_text("")
    await groups.cpus.apply(groups.path, CpuTuning("2-3", shared="0", period=50000))
    assert told == [
        (POD, [("CPUQuotaPerSecUSec", "t", 3_000_000)]),
        (f"{POD}/crio-{ID}", [("CPUQuotaPerSecUSec", "t", 3_000_000)]),
    ]
    told.clear()
    await groups.cpus.apply(groups.path, CpuTuning("2-3", isolated=True, unlimited=True))
    assert (f"{POD}/crio-{ID}", [("AllowedCPUs", "ay", b"\x0c"), ("CPUQuotaPerSecUSec", "t", (1 << 64) - 1)]) in told
