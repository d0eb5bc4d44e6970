"""The tree on a made-up file system, and on this kernel."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from pycrio.drivers.cgroups import tree as trees
from pycrio.drivers.cgroups.tree import Tree

GROUP = f"/pycrio-test-tree-{os.getpid()}"


@pytest.fixture
def real() -> Iterator[Tree]:
    tree = trees.find("/sys/fs/cgroup")
    yield tree
    assert tree.remove(GROUP)


def test_groups_are_made_in_every_hierarchy_and_removed_with_those_below(real: Tree) -> None:
    real.make(f"{GROUP}/a/b")
    real.make(f"{GROUP}/a/b")
    for root in real.roots():
        assert os.path.isdir(f"{root}{GROUP}/a/b")
    assert f"{GROUP}/a"[1:] in real.named("a")
    assert real.processes(GROUP) == []
    assert real.remove(GROUP)
    assert not any(os.path.exists(f"{root}{GROUP}") for root in real.roots())
    assert real.remove(GROUP)
    assert real.processes(GROUP) == []


def test_a_busy_group_stays(real: Tree) -> None:
    real.make(f"{GROUP}/x")
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        real.enter(f"{GROUP}/x", child.pid)
        assert real.processes(GROUP) == [child.pid]
        assert not real.remove(GROUP)
        assert real.processes(f"{GROUP}/x") == [child.pid]
    finally:
        child.communicate()
        for _ in range(500):
            if real.remove(GROUP):
                break


def test_frozen_groups_run_again_with_those_below(real: Tree) -> None:
    real.make(f"{GROUP}/a/b")
    name, frozen, runs = ("cgroup.freeze", "1", "0\n") if real.unified else ("freezer.state", "FROZEN", "THAWED\n")
    states = [pathlib.Path(real.path("freezer", group) or "", name) for group in (f"{GROUP}/a", f"{GROUP}/a/b")]
    assert not real.thaw(GROUP)
    for state in states:
        state.write_text(frozen)
    assert real.thaw(GROUP)
    assert [state.read_text() for state in states] == [runs, runs]
    assert not real.thaw(f"{GROUP}/gone")


def test_limits_of_a_group(real: Tree) -> None:
    real.make(GROUP)
    real.limit(GROUP, "0", 512)
    if real.unified:
        assert (pathlib.Path(real.path("", GROUP) or "") / "cpu.weight").read_text() == "20\n"
    else:
        assert (pathlib.Path(real.path("cpu", GROUP) or "") / "cpu.shares").read_text() == "512\n"
        assert (pathlib.Path(real.path("cpuset", GROUP) or "") / "cpuset.cpus").read_text() == "0\n"
    with pytest.raises(OSError, match=r"."):
        real.limit(GROUP, "999", 0)


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (0, 1), (1 << 30, 10000)])
def test_weights(shares: int, weight: int) -> None:
    assert trees.weight(shares) == weight


# --- a version 2 tree of plain directories ------------------------------------------------------------------------


@pytest.fixture
def unified(tmp_path: pathlib.Path) -> Tree:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    return Tree(True, {"": str(tmp_path)}, frozenset({"cpu", "memory", "pids"}))


def test_frozen_v2_groups_run_again(unified: Tree, tmp_path: pathlib.Path) -> None:
    freeze = tmp_path / "pod/cgroup.freeze"
    freeze.parent.mkdir()
    freeze.write_text("1\n")
    assert unified.thaw("/pod")
    assert freeze.read_text() == "0\n"
    assert not unified.thaw("/pod")


def test_controllers_are_handed_down(unified: Tree, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str]] = []
    real_open = open

    class Control:
        def __init__(self, path: str) -> None:
            self.path = path

        def write(self, text: str) -> None:
            written.append((os.path.relpath(self.path, tmp_path), text))
            if text == "+pids":
                raise OSError(errno.EBUSY, "busy")

        def __enter__(self) -> Control:
            return self

        def __exit__(self, *exc: object) -> None:
            return None

    def fake(path: str, mode: str = "r", **more: object) -> object:
        return Control(path) if mode == "w" else real_open(path, mode, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", fake)
    unified.make("/pods/one")
    assert (tmp_path / "pods/one").is_dir()
    assert written == [("cgroup.subtree_control", "+memory"), ("cgroup.subtree_control", "+pids")]


def test_mounts_of_every_kind_are_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = open
    mountinfo = tmp_path / "mountinfo"

    def fake(path: str, *args: object, **more: object) -> object:
        return real_open(mountinfo if path == "/proc/self/mountinfo" else path, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", fake)
    root = str(tmp_path)
    mountinfo.write_text(
        f"30 1 0:26 / {root} rw - tmpfs tmpfs rw\n"
        f"31 30 0:27 / {root}/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n"
        f"32 30 0:28 / {root}/systemd rw shared:9 - cgroup cgroup rw,name=systemd\n"
        f"33 30 0:29 / {root}/unified rw - cgroup2 cgroup2 rw\n"
        "34 30 0:30 / /elsewhere/memory rw - cgroup cgroup rw,memory\n"
    )
    hybrid = trees.find(root)
    assert not hybrid.unified
    assert hybrid.controllers == {"cpu", "cpuacct"}
    assert hybrid.hierarchies.keys() == {"cpu", "cpuacct", "systemd"}
    assert len(hybrid.roots()) == 2
    assert hybrid.path("memory", "/x") is None
    with open(mountinfo, "a") as f:
        f.write(f"35 30 0:31 / {root}/memory rw - cgroup cgroup rw,memory\n")
    assert trees.find(root).controllers == {"cpu", "cpuacct", "memory"}  # swap is not counted
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.memsw.limit_in_bytes").touch()
    assert trees.find(root).controllers == {"cpu", "cpuacct", "memory", "swap"}
    mountinfo.write_text(f"33 30 0:29 / {root} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cgroup.controllers").write_text("cpu io\n")
    found = trees.find(root)
    assert found.unified
    assert found.controllers == {"cpu", "io"}
    assert found.path("anything", "/a/b") == f"{root}/a/b"
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert "swap" in trees.find(root).controllers  # no group has the controller yet
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice" / "memory.max").touch()
    assert trees.find(root).controllers == {"cpu", "memory"}
    (tmp_path / "system.slice" / "memory.swap.max").touch()
    assert "swap" in trees.find(root).controllers
