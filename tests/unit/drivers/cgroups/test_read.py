"""Readings: version 2 from recorded files, version 1 from files and from this kernel."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.cgroups import read
from pycrio.drivers.cgroups.tree import Tree, find
from pycrio.model.stats import DiskIo, HugepageUsage, Pressure, PressureData

V2 = {
    "cpu.stat": "usage_usec 9000123\nuser_usec 5000001\nsystem_usec 4000122\ncore_sched.force_idle_usec 0\n"
    "nr_periods 11\nnr_throttled 12\nthrottled_usec 13000\nnr_bursts 0\nburst_usec 0\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.75 avg300=0.10 total=3000000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
    "memory.current": "104857600\n",
    "memory.peak": "204857600\n",
    "memory.max": "max\n",
    "memory.swap.current": "4096\n",
    "memory.swap.max": "8192\n",
    "memory.stat": "anon 50000\nfile 40000\nkernel 9000\nkernel_stack 16384\nslab 1000\nfile_mapped 8000\n"
    "inactive_file 4857600\npgfault 7\npgmajfault 6\n",
    "memory.events": "low 0\nhigh 1\nmax 5\noom 3\noom_kill 2\noom_group_kill 0\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=2\n",
    "pids.current": "3\n",
    "pids.max": "20\n",
    "io.stat": "8:16 rbytes=2 wbytes=4 rios=1 wios=3 dbytes=6 dios=5\n253:0 rbytes=9\n(unknown) rbytes=1\n8:32 \n",
    "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=4\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.rsvd.current": "0\n",
    "hugetlb.1GB.current": "0\n",
}
V1 = {
    "cpu": {"cpu.stat": "nr_periods 11\nnr_throttled 12\nthrottled_time 13\n"},
    "cpuacct": {
        "cpuacct.usage": "900\n",
        "cpuacct.stat": "user 5\nsystem 4\n",
        "cpuacct.usage_percpu": "700 0 200 \n",
    },
    "memory": {
        "memory.usage_in_bytes": "100\n",
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.max_usage_in_bytes": "120\n",
        "memory.failcnt": "5\n",
        "memory.memsw.usage_in_bytes": "104\n",
        "memory.memsw.limit_in_bytes": "9223372036854771712\n",
        "memory.kmem.usage_in_bytes": "9\n",
        "memory.stat": "cache 1\nrss 2\ntotal_cache 40\ntotal_rss 50\ntotal_mapped_file 8\ntotal_inactive_file 20\n"
        "total_pgfault 7\ntotal_pgmajfault 6\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    },
    "pids": {"pids.current": "3\n", "pids.max": "max\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes": "8:16 Read 999\nTotal 999\n",
        "blkio.throttle.io_service_bytes_recursive": "8:16 Read 2\n8:16 Write 4\n8:16 Sync 6\n8:16 Discard 6\n"
        "8:16 Total 6\nTotal 6\n",
        "blkio.throttle.io_serviced_recursive": "8:16 Read 1\n8:16 Write 3\n8:16 Discard 5\nTotal 4\n",
    },
    "hugetlb": {"hugetlb.2MB.usage_in_bytes": "1\n", "hugetlb.2MB.max_usage_in_bytes": "2\n"},
}


def put(directory: pathlib.Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)


@pytest.fixture
def v2(tmp_path: pathlib.Path) -> Tree:
    put(tmp_path / "pod" / "c", V2)
    return Tree(True, {"": str(tmp_path)}, frozenset())


@pytest.fixture
def v1(tmp_path: pathlib.Path) -> Tree:
    for controller, files in V1.items():
        put(tmp_path / controller / "pod/c", files)
    return Tree(False, {c: str(tmp_path / c) for c in V1}, frozenset(V1))


def test_version_2(v2: Tree) -> None:
    found = read.read_stats(v2, "/pod/c")
    assert found is not None
    cpu, memory = found.cpu, found.memory
    assert cpu is not None
    assert (cpu.total, cpu.user, cpu.system) == (9000123000, 5000001000, 4000122000)
    assert (cpu.periods, cpu.throttled_periods, cpu.throttled_time, cpu.per_cpu) == (11, 12, 13000000, ())
    assert cpu.pressure == Pressure(PressureData(3 * 10**9, 1.5, 0.75, 0.1), PressureData(7000, 0, 0, 0))
    assert memory is not None
    assert (memory.usage, memory.working_set, memory.max_usage) == (104857600, 100000000, 204857600)
    assert (memory.rss, memory.cache, memory.kernel, memory.mapped_file) == (50000, 40000, 9000, 8000)
    assert (memory.page_faults, memory.major_page_faults, memory.failcnt, memory.oom_kills) == (7, 6, 5, 2)
    assert (memory.limit, memory.swap_usage, memory.swap_limit) == (None, 4096, 8192)
    assert (found.pids, found.pids_limit) == (3, 20)
    assert found.io == (DiskIo(8, 16, 1, 2, 3, 4, 5, 6), DiskIo(253, 0, 0, 9), DiskIo(8, 32))
    assert found.io_pressure == Pressure(PressureData(4000, 0, 0, 0), PressureData(5000, 0, 0, 0))
    assert found.hugepages == (HugepageUsage("1GB", 0), HugepageUsage("2MB", 2097152))


def test_version_2_with_cruns_group_inside_the_scope(v2: Tree, tmp_path: pathlib.Path) -> None:
    """Usage adds up in the scope; limits, and what was throttled by them, are where crun set them."""
    scope = tmp_path / "pod" / "c"
    (scope / "cpu.stat").write_text("usage_usec 9000123\nuser_usec 1\nsystem_usec 2\nnr_periods 0\nnr_throttled 0\n")
    for name in ("memory.swap.max", "pids.max"):
        (scope / name).write_text("max\n")
    inside = {
        "cpu.stat": "usage_usec 77\nnr_periods 5\nnr_throttled 4\nthrottled_usec 3\n",
        "memory.max": "200000000\n",
        "memory.current": "1\n",
        "memory.swap.max": "300\n",
        "pids.max": "9\n",
    }
    put(scope / "container", inside)
    found = read.read_stats(v2, "/pod/c")
    assert found is not None
    assert found.cpu is not None
    assert found.memory is not None
    assert (found.cpu.total, found.cpu.periods, found.cpu.throttled_periods) == (9000123000, 5, 4)
    assert found.cpu.throttled_time == 3000
    assert (found.memory.usage, found.memory.limit, found.memory.swap_limit) == (104857600, 200000000, 300)
    assert found.pids_limit == 9


def test_version_2_without_what_older_kernels_lack(v2: Tree, tmp_path: pathlib.Path) -> None:
    for name in ("memory.peak", "cpu.pressure", "memory.pressure", "io.pressure", "memory.swap.current", "io.stat"):
        (tmp_path / "pod/c" / name).unlink()
    (tmp_path / "pod/c/memory.stat").write_text("anon 1\nkernel_stack 16384\nslab 1000\ninactive_file 999999999999\n")
    found = read.read_stats(v2, "/pod/c")
    assert found is not None
    assert found.cpu is not None
    assert found.memory is not None
    assert (found.cpu.pressure, found.memory.pressure, found.io_pressure, found.io) == (None, None, None, ())
    assert (found.memory.max_usage, found.memory.swap_usage) == (0, None)
    assert found.memory.kernel == 17384
    assert found.memory.working_set == 0


def test_version_2_without_controllers(tmp_path: pathlib.Path) -> None:
    put(tmp_path / "x", {"cgroup.procs": ""})
    found = read.read_stats(Tree(True, {"": str(tmp_path)}, frozenset()), "x")
    assert found is not None
    assert (found.cpu, found.memory, found.pids, found.hugepages) == (None, None, None, ())


def test_version_1(v1: Tree) -> None:
    found = read.read_stats(v1, "/pod/c")
    assert found is not None
    cpu, memory = found.cpu, found.memory
    assert cpu is not None
    assert (cpu.total, cpu.user, cpu.system) == (900, 5 * read.TICK, 4 * read.TICK)
    assert (cpu.periods, cpu.throttled_periods, cpu.throttled_time) == (11, 12, 13)
    assert cpu.per_cpu == (700, 0, 200)
    assert memory is not None
    assert (memory.usage, memory.working_set, memory.rss, memory.cache) == (100, 80, 50, 40)
    assert (memory.kernel, memory.mapped_file, memory.max_usage, memory.failcnt) == (9, 8, 120, 5)
    assert (memory.limit, memory.swap_usage, memory.swap_limit, memory.oom_kills) == (None, 4, None, 2)
    assert (found.pids, found.pids_limit) == (3, None)
    assert found.io == (DiskIo(8, 16, 1, 2, 3, 4, 5, 6),)
    assert found.hugepages == (HugepageUsage("2MB", 1, 2),)


def test_version_1_limits(v1: Tree, tmp_path: pathlib.Path) -> None:
    (tmp_path / "memory/pod/c/memory.limit_in_bytes").write_text("1000\n")
    (tmp_path / "memory/pod/c/memory.memsw.limit_in_bytes").write_text("1500\n")
    found = read.read_stats(v1, "/pod/c")
    assert found is not None
    assert found.memory is not None
    assert (found.memory.limit, found.memory.swap_limit) == (1000, 500)


def test_a_controller_that_is_not_mounted_reads_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even from the working directory."""
    put(tmp_path / "memory/c", V1["memory"])
    put(tmp_path / "cwd", {**V1["cpuacct"], **V1["pids"]})
    monkeypatch.chdir(tmp_path / "cwd")
    found = read.read_stats(Tree(False, {"memory": str(tmp_path / "memory")}, frozenset({"memory"})), "c")
    assert found is not None
    assert (found.cpu, found.pids, found.io, found.hugepages) == (None, None, (), ())
    assert found.memory is not None


@pytest.mark.parametrize("unified", [True, False])
def test_a_group_that_is_gone(tmp_path: pathlib.Path, unified: bool) -> None:
    tree = Tree(unified, {"" if unified else "memory": str(tmp_path)}, frozenset())
    assert read.read_stats(tree, "gone") is None
    assert read.read_stats(Tree(False, {}, frozenset()), "gone") is None


@given(text=st.text(alphabet=st.characters(max_codepoint=127), max_size=80))
def test_garbage_is_no_reading_and_no_failure(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    directory = tmp_path_factory.mktemp("g") / "c"
    put(directory, dict.fromkeys(V2, text))
    tree = Tree(True, {"": str(directory.parent)}, frozenset())
    assert read.read_stats(tree, "c") is not None
    for controller, files in V1.items():
        put(directory.parent / controller / "c", dict.fromkeys(files, text))
    old = Tree(False, {c: str(directory.parent / c) for c in V1}, frozenset(V1))
    assert read.read_stats(old, "c") is not None


def test_this_kernel() -> None:
    """A process that burns and allocates shows up, on whatever version this host has."""
    tree = find("/sys/fs/cgroup")
    group = f"/pycrio-test-read-{os.getpid()}"
    tree.make(group)
    code = """
import sys
sys.stdin.readline()
x = bytearray(40 << 20)
sum(range(3000000))
print('ready', flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        tree.enter(group, child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"ready\n"
        assert tree.processes(group) == [child.pid]
        found = read.read_stats(tree, group)
        assert found is not None
        assert found.cpu is not None
        assert found.cpu.total > 1_000_000
        assert found.memory is not None
        assert found.memory.usage > 40 << 20
        assert found.memory.rss > 40 << 20
        assert found.memory.page_faults > 100
        assert found.memory.limit is None
        assert found.pids == 1
        assert not tree.remove(group)
    finally:
        child.kill()
        child.communicate()
        for _ in range(200):
            if tree.remove(group):
                break
    assert read.read_stats(tree, group) is None
