"""Names and places of groups under both managers; pods' groups on this kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.cgroups.manager import Cgroups, Settings
from pycrio.drivers.cgroups.systemd import cpu_mask, expand_slice
from pycrio.errors import ExternalFailure, InvalidRequest
from pycrio.model.ids import new_id
from pycrio.model.node import Handler
from pycrio.model.requests import MonitorRequest

PARENT = f"/pycrio-test-manager-{os.getpid()}"
FS, SYSTEMD = Cgroups(Settings("cgroupfs")), Cgroups(Settings("systemd"))


@pytest.mark.parametrize(
    ("manager", "parent", "expected"),
    [
        (FS, "", "/crio"),
        (FS, "/kubepods/pod1", "/kubepods/pod1"),
        (FS, "kubepods/pod1/", "/kubepods/pod1"),
        (FS, "/", "/"),
        (SYSTEMD, "", "system.slice"),
        (SYSTEMD, "kubepods-pod1.slice", "kubepods-pod1.slice"),
        (SYSTEMD, "/kubepods.slice/kubepods-pod1.slice/", "kubepods-pod1.slice"),
    ],
)
def test_parents(manager: Cgroups, parent: str, expected: str) -> None:
    assert manager.check_parent(parent) == expected


@pytest.mark.parametrize(
    ("manager", "parent", "text"),
    [
        (FS, "kubepods.slice", "cgroupfs cgroup manager, but received systemd slice as parent: kubepods.slice"),
        (SYSTEMD, "/kubepods", "systemd cgroup manager, but did not receive slice as parent: /kubepods"),
        (FS, "/a/../../b", "leaves"),
        (FS, "..", "leaves"),
        (SYSTEMD, "/../x.slice", "leaves"),
        (FS, "/a\0b", "leaves"),
    ],
)
def test_parents_that_do_not_fit(manager: Cgroups, parent: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        manager.check_parent(parent)


def test_an_unknown_manager() -> None:
    with pytest.raises(InvalidRequest, match="neither systemd nor cgroupfs"):
        Cgroups(Settings("openrc"))


def test_places_of_containers() -> None:
    assert FS.container_path("/pod", "abc") == "/pod/crio-abc"
    assert FS.container_path("/", "abc") == "/crio-abc"
    assert FS.directory("/pod/crio-abc") == "/pod/crio-abc"
    assert FS.directory("/with:two:colons") == "/with:two:colons"
    assert SYSTEMD.container_path("a-b.slice", "abc") == "a-b.slice:crio:abc"
    assert SYSTEMD.directory("a-b.slice:crio:abc") == "/a.slice/a-b.slice/crio-abc.scope"
    assert SYSTEMD.directory("a-b.slice") == "/a.slice/a-b.slice"
    assert (FS.driver(), SYSTEMD.driver()) == ("cgroupfs", "systemd")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.slice", "/a.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        (
            "kubepods-besteffort-pod1_2.slice",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice",
        ),
        ("-.slice", "/"),
    ],
)
def test_slices_expand(name: str, expected: str) -> None:
    assert expand_slice(name) == expected


@pytest.mark.parametrize("name", ["", "a", ".slice", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice", "a.scope"])
def test_what_is_no_slice(name: str) -> None:
    with pytest.raises(InvalidRequest):
        expand_slice(name)


@given(cpus=st.sets(st.integers(0, 200), min_size=1))
def test_cpu_masks(cpus: set[int]) -> None:
    mask = int.from_bytes(cpu_mask(",".join(map(str, sorted(cpus)))), "little")
    assert {n for n in range(201) if mask >> n & 1} == cpus


def test_cpu_ranges() -> None:
    assert cpu_mask("0-3,8") == bytes([0x0F, 0x01])
    for text in ("a", "1-", "-1", "1-b"):
        with pytest.raises(InvalidRequest):
            cpu_mask(text)


# --- on this kernel -----------------------------------------------------------------------------------------------


@pytest.fixture
async def manager() -> AsyncIterator[Cgroups]:
    cgroups = Cgroups(Settings("cgroupfs"))
    yield cgroups
    await cgroups._remove(PARENT)
    assert not any(os.path.exists(f"{root}{PARENT}") for root in cgroups.tree.roots())


async def test_a_pod_s_group_comes_and_goes(manager: Cgroups) -> None:
    pod = new_id()
    path = await manager.make_pod(PARENT, pod)
    assert path == f"{PARENT}/crio-{pod}"
    found = await manager.stats(path)
    assert found is not None
    assert found.pids == 0
    assert await manager.processes(path) == []
    await manager.remove_pod(PARENT, pod)
    assert await manager.stats(path) is None
    await manager.remove_pod(PARENT, pod)


async def test_a_pod_s_group_that_cannot_be_made(manager: Cgroups) -> None:
    with pytest.raises(ExternalFailure, match="cannot be made"):
        await manager.make_pod(PARENT, "a\nb")  # the kernel takes no line break in a name


async def test_only_empty_groups_of_the_unknown_are_swept(manager: Cgroups) -> None:
    ids = {name: new_id() for name in ("kept", "gone", "busy", "monitor")}
    for name in ("kept", "gone", "busy"):
        await manager.make_pod(PARENT, ids[name])
    manager.tree.make(f"{PARENT}/crio-conmon-{ids['monitor']}")
    manager.tree.make(f"{PARENT}/crio-foreign")
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        manager.tree.enter(f"{PARENT}/crio-{ids['busy']}", child.pid)
        root = manager.tree.roots()[0]
        # others' groups of the same form live on this machine: they count as known
        others = [
            os.path.basename(p).removeprefix("crio-").removeprefix("conmon-") for p in manager.tree.named("crio-")
        ]
        known = [o.removesuffix(".scope") for o in others if o.removesuffix(".scope") not in ids.values()]
        await manager.sweep([*known, ids["kept"]])
        left = set(os.listdir(f"{root}{PARENT}"))
        assert {f"crio-{ids['kept']}", f"crio-{ids['busy']}", "crio-foreign"} <= left
        assert not {f"crio-{ids['gone']}", f"crio-conmon-{ids['monitor']}"} & left
    finally:
        child.communicate()


def request(container: str, monitor_cgroup: str, **more: object) -> MonitorRequest:
    handler = Handler("runc", "/runc", "/r", "/m", monitor_cgroup=monitor_cgroup)
    return MonitorRequest(container, "n", handler, "/b", "/p", "/l", PARENT, **more)  # type: ignore[arg-type]


async def test_monitors_are_placed_as_configured(manager: Cgroups) -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        await manager.place(child.pid, request("c1", ""))
        assert not any(os.path.exists(f"{root}{PARENT}") for root in manager.tree.roots())
        await manager.place(child.pid, request("c1", "pod", cpuset="0", cpu_shares=512))
        assert await manager.processes(f"{PARENT}/crio-conmon-c1") == [child.pid]
    finally:
        child.communicate()
    await manager.leave(PARENT, "c1")
    assert manager.tree.named("crio-conmon-c1") == []


async def test_a_monitor_that_is_gone_leaves_no_group(manager: Cgroups) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ExternalFailure, match="cannot be moved"):
        await manager.place(child.pid, request("c2", "pod"))
    assert manager.tree.named("crio-conmon-c2") == []


async def test_helpers_get_groups_of_their_own(manager: Cgroups) -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    name = f"crio-pull-{os.getpid()}"
    try:
        await manager.take_in(child.pid, PARENT, name)
        assert await manager.processes(f"{PARENT}/{name}") == [child.pid]
        with pytest.raises(InvalidRequest, match="systemd slice"):
            await manager.take_in(child.pid, "pulls.slice", name)
    finally:
        child.communicate()
    await manager.let_go(PARENT, name)
    assert manager.tree.named(name) == []
    with pytest.raises(ExternalFailure, match="cannot be entered"):
        await manager.take_in(child.pid, PARENT, name)
    await manager.let_go(PARENT, name)
