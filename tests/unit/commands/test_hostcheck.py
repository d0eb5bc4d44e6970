"""Looks at made-up hosts: each oddity is told, with what to do, and an ordinary host has none."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

import pytest

from pycrio.commands import hostcheck
from pycrio.commands.finding import Finding, Level, Place
from pycrio.drivers.security.host import CAPABILITIES

GOOD = {
    "/proc/sys/kernel/osrelease": "6.1.0",
    "/proc/sys/user/max_user_namespaces": "15000",
    "/proc/sys/kernel/seccomp/actions_avail": "kill_process errno user_notif allow",
    "/proc/pressure/cpu": "some avg10=0.00",
    "/proc/filesystems": "nodev\ttmpfs\nnodev\tmqueue\nnodev\toverlay\n\text4\n",
    "/proc/sys/net/ipv4/ip_forward": "1\n",
    "/proc/sys/net/bridge/bridge-nf-call-iptables": "1",
    "/proc/sys/fs/inotify/max_user_instances": "8192",
    "/proc/self/oom_score_adj": "-999",
    "/proc/swaps": "Filename Type Size Used Priority\n",
    "/proc/self/mountinfo": "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids",
    "/sys/module/apparmor/parameters/enabled": "Y",
    "/sys/kernel/security/apparmor/profiles": "crio-default (enforce)",
    "/run/systemd/system/x": "",
    "/run/dbus/system_bus_socket": "",
    **{f"/proc/self/ns/{kind}": "" for kind in hostcheck.NAMESPACES},
}
V1 = (
    "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
)
FEATURES = dict.fromkeys(hostcheck.FEATURES, True)
EVERY = frozenset(CAPABILITIES)


class Host:
    """A host that is fine but for what a test changes."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.place = Place(str(root))
        for path, text in GOOD.items():
            self.put(path, text)

    def put(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def drop(self, path: str) -> None:
        (self.root / path.lstrip("/")).unlink()

    def look(self, features: dict[str, bool] | None = None, manager: str = "systemd") -> list[Finding]:
        return [
            *hostcheck.kernel(self.place, FEATURES if features is None else features),
            *hostcheck.modules(self.place),
            *hostcheck.cgroups(self.place, manager),
            *hostcheck.privileges(self.place, EVERY, 1 << 20),
            *hostcheck.sysctls(self.place),
            *hostcheck.confinement(self.place, False),
        ]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def bad(found: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(f.level.value, f.subject) for f in found if f.level is not Level.OK]


def test_an_ordinary_host_is_fine(host: Host) -> None:
    found = host.look()
    assert bad(found) == []
    assert {f.subject for f in found} >= {"kernel", "namespaces", "seccomp", "cgroups", "cgroup manager", "AppArmor"}
    assert all(not f.remedy for f in found)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("/proc/sys/user/max_user_namespaces", "0", ("warn", "namespaces")),
        ("/proc/self/ns/user", None, ("fail", "namespaces")),
        ("/proc/sys/kernel/seccomp/actions_avail", None, ("fail", "seccomp")),
        ("/proc/sys/kernel/seccomp/actions_avail", "errno allow", ("warn", "seccomp")),
        ("/proc/pressure/cpu", None, ("warn", "pressure")),
        ("/proc/filesystems", "nodev\ttmpfs\nnodev\tmqueue\n", ("fail", "module")),
        ("/proc/sys/net/ipv4/ip_forward", "0", ("warn", "sysctl")),
        ("/proc/sys/net/bridge/bridge-nf-call-iptables", None, ("warn", "module")),
        ("/proc/sys/net/bridge/bridge-nf-call-iptables", "0", ("warn", "sysctl")),
        ("/proc/sys/fs/inotify/max_user_instances", "128", ("warn", "sysctl")),
        ("/proc/self/oom_score_adj", "300", ("warn", "oom score")),
        ("/proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2\n", ("warn", "swap")),
        ("/sys/module/apparmor/parameters/enabled", "N", ("warn", "security modules")),
        ("/sys/kernel/security/apparmor/profiles", None, ("warn", "AppArmor")),
        ("/sys/fs/selinux/enforce", "1", ("warn", "SELinux")),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids", ("warn", "cgroup controllers")),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io hugetlb memory", ("warn", "cgroup controllers")),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io hugetlb pids", ("fail", "cgroup controllers")),
        ("/proc/self/mountinfo", "30 1 0:26 / / rw - ext4 /dev/vda rw\n", ("fail", "cgroups")),
        ("/run/systemd/system/x", None, ("fail", "cgroup manager")),
        ("/run/dbus/system_bus_socket", None, ("fail", "cgroup manager")),
    ],
)
def test_every_oddity_is_told_alone_and_with_a_remedy(
    host: Host, path: str, text: str | None, expected: tuple[str, str]
) -> None:
    if text is None:
        host.drop(path)
        if path.startswith("/run/systemd"):
            (host.root / "run/systemd/system").rmdir()
    else:
        host.put(path, text)
    found = host.look()
    assert bad(found) == [expected]
    assert all(f.remedy for f in found if f.level is not Level.OK)


@pytest.mark.parametrize("feature", sorted(hostcheck.FEATURES))
def test_a_missing_kernel_feature_is_told(host: Host, feature: str) -> None:
    found = host.look({**FEATURES, feature: False})
    assert bad(found) == [(hostcheck.FEATURES[feature][0], "kernel")]


def test_version_1_is_told_with_its_controllers(host: Host) -> None:
    host.put("/proc/self/mountinfo", V1)
    found = list(hostcheck.cgroups(host.place, "systemd"))
    assert ("warn", "cgroups") in bad(found)
    controllers = next(f for f in found if f.subject == "cgroup controllers" and f.level is Level.FAIL)
    assert controllers.text == "missing: blkio, cpuset, devices, freezer, pids"
    host.put("/proc/self/mountinfo", V1 + "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    assert "hybrid" in next(iter(hostcheck.cgroups(host.place, "systemd"))).text
    host.put("/sys/fs/cgroup/unified/cgroup.controllers", "hugetlb")
    first, *others = hostcheck.cgroups(host.place, "systemd")
    assert first.text.endswith("(hybrid), which has hugetlb")
    assert "crun refuses controllers in both: boot with systemd" in first.remedy
    assert any("hugetlb is in the version 2 hierarchy" in f.text for f in others)
    host.drop("/run/systemd/system/x")
    (host.root / "run/systemd/system").rmdir()
    assert "mount cgroup2 alone" in next(iter(hostcheck.cgroups(host.place, "cgroupfs"))).remedy
    assert list(hostcheck.cgroups(host.place, "cgroupfs"))[-1].text.endswith("not booted with systemd")


def test_cgroupfs_beside_systemd_is_warned_of(host: Host) -> None:
    assert bad(host.look(manager="cgroupfs")) == [("warn", "cgroup manager")]


def test_selinux_as_configured(host: Host) -> None:
    assert bad(hostcheck.confinement(host.place, True)) == [("warn", "SELinux")]
    host.put("/sys/fs/selinux/enforce", "0")
    found = list(hostcheck.confinement(host.place, True))
    assert bad(found) == []
    assert found[-1].text == "permissive"


@pytest.mark.parametrize("missing", sorted({*hostcheck.VITAL_CAPABILITIES, *hostcheck.WITHOUT}))
def test_missing_capabilities(host: Host, missing: str) -> None:
    level = "fail" if missing in hostcheck.VITAL_CAPABILITIES else "warn"
    found = list(hostcheck.privileges(host.place, EVERY - {missing}, 1 << 20))
    assert bad(found) == [(level, "capabilities")]
    assert missing in next(f.text for f in found if f.level is not Level.OK)


def test_few_open_files(host: Host) -> None:
    assert bad(hostcheck.privileges(host.place, EVERY, 1024)) == [("warn", "open files")]


@pytest.mark.parametrize(
    ("blocks", "free", "inodes", "level"),
    [
        (10**9, 5 * 10**8, 90, Level.OK),
        (10**9, 10**8, 90, Level.WARN),
        (10**9, 5 * 10**8, 10, Level.WARN),
        (10**9, 5 * 10**8, 0, Level.FAIL),
        (10**9, 10**4, 90, Level.FAIL),
        (0, 10**9, 0, Level.OK),
    ],
)
def test_space(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int, inodes: int, level: Level
) -> None:
    asked: list[str] = []

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        files = 100 if blocks else 0  # btrfs and its like count no inodes
        return os.statvfs_result((4096, 4096, blocks, free, free, files, inodes, inodes, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert hostcheck.space(f"{tmp_path}/not/there", "store").level is level
    assert asked == [str(tmp_path)]


def test_a_finding_is_one_line() -> None:
    assert Finding(Level.WARN, "a", "b", "c").line() == "warn  a: b -> c"
    assert Finding(Level.OK, "a", "b").line() == "ok    a: b"
