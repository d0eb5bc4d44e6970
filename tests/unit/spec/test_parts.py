"""Arguments, environment, limits, namespaces: the small parts."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.errors import InvalidRequest
from pycrio.model.image import ImageConfig
from pycrio.model.mount import DeviceNode
from pycrio.model.resources import HugepageLimit, Resources
from pycrio.model.security import ContainerSecurity, LinuxUser, NamespaceMode
from pycrio.spec import linux, process, resources
from tests.fakes.node import container_config

IMAGE = ImageConfig(entrypoint=("e",), cmd=("c",), env=("A=img", "B=img"), working_dir="w")


@pytest.mark.parametrize(
    ("command", "args", "image", "expected"),
    [
        ((), (), IMAGE, ("e", "c")),
        ((), ("x",), IMAGE, ("e", "x")),
        (("k",), (), IMAGE, ("k",)),
        (("k",), ("x",), IMAGE, ("k", "x")),
        ((), ("x",), ImageConfig(), ("x",)),
        ((), (), ImageConfig(cmd=("c",)), ("c",)),
    ],
)
def test_arguments(
    command: tuple[str, ...], args: tuple[str, ...], image: ImageConfig, expected: tuple[str, ...]
) -> None:
    assert process.arguments(container_config(command=command, args=args), image) == expected


@pytest.mark.parametrize(("command", "text"), [((), "no command specified"), (("a\0b",), "NUL"), (("a", "\0"), "NUL")])
def test_arguments_that_cannot_be(command: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        process.arguments(container_config(command=command), ImageConfig())


def test_the_environment_s_order() -> None:
    config = container_config(tty=True, envs=(("B", b"cri"), ("", b"skipped"), ("C", b"\xff\xfe"), ("TERM", b"dumb")))
    found = dict(
        e.partition("=")[::2] for e in process.environment(config, IMAGE, "host", ("A=conf", "D=conf", "junk"))
    )
    assert found == {
        "TERM": "dumb",
        "HOSTNAME": "host",
        "A": "img",
        "B": "cri",
        "C": "\udcff\udcfe",
        "D": "conf",
        "junk": "",
        "PATH": process.DEFAULT_PATH.removeprefix("PATH="),
    }


@pytest.mark.parametrize("envs", [(("HOME", b"/a\nb"),), (("A=B", b""),), (("A\0", b""),), (("A", b"x\0y"),)])
def test_an_environment_that_cannot_be(envs: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(InvalidRequest):
        process.environment(container_config(envs=envs), ImageConfig(), "h", ())


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("/sbin/init",), True),
        (("/usr/sbin/init", "x"), True),
        (("/lib/systemd/systemd",), True),
        (("systemd",), True),
        (("/bin/systemd-run",), False),
        (("sh", "/sbin/init"), False),
        ((), False),
    ],
)
def test_systemd_is_known_by_its_name(args: tuple[str, ...], expected: bool) -> None:
    assert process.is_systemd(args) is expected


def test_systemd_is_told_where_it_runs() -> None:
    config = container_config(command=("/sbin/init",), envs=(("container", b"mine"),))
    assert "container=crio" in process.environment(config, ImageConfig(), "h", ())


@pytest.mark.parametrize(
    ("cri", "image", "expected"), [("", "", "/"), ("", "w", "/w"), ("/c", "w", "/c"), ("c", "", "/c")]
)
def test_working_directories(cri: str, image: str, expected: str) -> None:
    assert process.working_dir(container_config(working_dir=cri), ImageConfig(working_dir=image)) == expected


def test_a_process_without_extras_says_no_more() -> None:
    found = process.process(process.ProcessParts(("a",), ("E=1",), "/", LinuxUser(1, 2)))
    assert found == {
        "terminal": False,
        "user": {"uid": 1, "gid": 2},
        "args": ["a"],
        "env": ["E=1"],
        "cwd": "/",
        "noNewPrivileges": False,
    }


def test_a_process_with_everything() -> None:
    parts = process.ProcessParts(
        ("a",),
        (),
        "/",
        LinuxUser(1, 2, (3,)),
        tty=True,
        rlimits=(("RLIMIT_CORE", 0, 1),),
        oom_score_adj=0,
        apparmor="p",
        selinux="l",
        umask=0o22,
        exec_cpu_affinity="0",
    )
    found = process.process(parts)
    assert found["user"] == {"uid": 1, "gid": 2, "additionalGids": [3], "umask": 18}
    assert found["rlimits"] == [{"type": "RLIMIT_CORE", "soft": 0, "hard": 1}]
    assert (found["oomScoreAdj"], found["apparmorProfile"], found["selinuxLabel"]) == (0, "p", "l")
    assert found["execCPUAffinity"] == {"initial": "0"}


def test_an_exec_is_the_first_process_with_another_command() -> None:
    base = {"args": ["a"], "env": ["A=1"], "terminal": False, "consoleSize": {}, "user": {"uid": 5}, "capabilities": {}}
    found = process.exec_process(base, ["b", "c"], True)
    assert found == {
        "args": ["b", "c"],
        "env": ["A=1", "TERM=xterm"],
        "terminal": True,
        "user": {"uid": 5},
        "capabilities": {},
    }
    assert base["args"] == ["a"]
    assert process.exec_process({"env": ["TERM=x"]}, ["b"], True)["env"] == ["TERM=x"]
    for argv in ([], ["a\0"]):
        with pytest.raises(InvalidRequest):
            process.exec_process(base, argv, False)


@given(soft=st.integers(0, 1 << 64), hard=st.integers(0, 1 << 64), own=st.integers(0, 1 << 64), may=st.booleans())
def test_limits_stay_within_our_own(soft: int, hard: int, own: int, may: bool) -> None:
    ((_, s, h),) = process.clamp_rlimits([("RLIMIT_X", soft, hard)], {"RLIMIT_X": (0, own)}, may)
    assert (s, h) == ((soft, hard) if may else (min(soft, own), min(hard, own)))
    assert process.clamp_rlimits([("RLIMIT_Y", soft, hard)], {"RLIMIT_X": (0, own)}, may) == (("RLIMIT_Y", soft, hard),)


# --- resources ----------------------------------------------------------------------------------------------------

EVERY = frozenset({"cpu", "memory", "swap", "pids", "hugetlb"})


def test_no_limits() -> None:
    assert resources.limits(Resources(), EVERY) == {}


def test_controllers_that_are_absent() -> None:
    wanted = Resources(hugepages=(HugepageLimit("2MB", 1),))
    assert resources.limits(wanted, frozenset(), 100) == {}
    assert resources.limits(wanted, EVERY, 100) == {
        "pids": {"limit": 100},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
    }
    assert resources.limits(Resources(), EVERY, -1) == {"pids": {"limit": -1}}
    assert resources.limits(Resources(), frozenset(), -1) == {}
    assert resources.limits(Resources(), EVERY, 0) == {}
    limited = Resources(memory_limit=100, memory_swap_limit=150)
    assert resources.limits(limited, EVERY) == {"memory": {"limit": 100, "swap": 150}}
    assert resources.limits(limited, EVERY - {"swap"}) == {"memory": {"limit": 100}}


@pytest.mark.parametrize(
    ("memory", "swap", "expected"),
    [
        (0, 0, {}),
        (100, 0, {"limit": 100, "swap": 100}),
        (100, 150, {"limit": 100, "swap": 150}),
        (100, -1, {"limit": 100, "swap": -1}),
        (0, 150, {"swap": 150}),
    ],
)
def test_memory(memory: int, swap: int, expected: dict[str, int]) -> None:
    assert resources.memory_limits(Resources(memory_limit=memory, memory_swap_limit=swap)) == expected


@pytest.mark.parametrize(("memory", "swap"), [(100, 50), (-1, 0)])
def test_memory_that_cannot_be(memory: int, swap: int) -> None:
    with pytest.raises(InvalidRequest):
        resources.memory_limits(Resources(memory_limit=memory, memory_swap_limit=swap))


RESOURCES = st.builds(
    Resources,
    cpu_period=st.integers(0, 10**6),
    cpu_quota=st.integers(-1, 10**6),
    cpu_shares=st.integers(0, 10**5),
    memory_limit=st.integers(0, 10**12),
    cpuset_cpus=st.sampled_from(("", "0", "0-3")),
    hugepages=st.lists(
        st.builds(HugepageLimit, st.sampled_from(("2MB", "1GB")), st.integers(0, 10**9)), max_size=2
    ).map(tuple),
    unified=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)


@given(wanted=RESOURCES)
def test_there_and_back(wanted: Resources) -> None:
    assert resources.wanted_of(resources.limits(wanted, EVERY)) == wanted


@given(old=RESOURCES, new=RESOURCES)
def test_an_update_changes_only_what_it_names(old: Resources, new: Resources) -> None:
    found = resources.merge(old, dataclasses.replace(new, oom_score_adj=7))
    assert found.oom_score_adj == old.oom_score_adj
    for name in ("cpu_period", "cpu_quota", "cpu_shares", "memory_limit", "cpuset_cpus", "hugepages"):
        assert getattr(found, name) == (getattr(new, name) or getattr(old, name))
    assert found.unified == {**old.unified, **new.unified}


def test_devices() -> None:
    node = DeviceNode("/dev/x", "c", 1, 3, 0o600, 5, 6, "rw")
    assert resources.device_rules([node], True) == [{"allow": True, "access": "rwm"}]
    assert resources.device_rules([node], False) == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
    ]
    assert resources.device_documents([node]) == [
        {"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5, "gid": 6}
    ]


# --- linux --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pins", "mode", "path", "cgroup", "expected"),
    [
        ({}, NamespaceMode.NODE, "", False, ["mount"]),
        ({"net": "/n"}, NamespaceMode.CONTAINER, "", True, ["mount", "network=/n", "pid", "cgroup"]),
        (
            {"net": "/n", "ipc": "/i", "uts": "/u", "user": "/s"},
            NamespaceMode.POD,
            "/proc/5/ns/pid",
            False,
            ["mount", "network=/n", "ipc=/i", "uts=/u", "user=/s", "pid=/proc/5/ns/pid"],
        ),
        ({}, NamespaceMode.TARGET, "/proc/6/ns/pid", False, ["mount", "pid=/proc/6/ns/pid"]),
    ],
)
def test_namespaces(pins: dict[str, str], mode: NamespaceMode, path: str, cgroup: bool, expected: list[str]) -> None:
    found = linux.namespaces(pins, mode, path, cgroup)
    assert [f"{n['type']}={n['path']}" if "path" in n else n["type"] for n in found] == expected


def test_hidden_paths() -> None:
    asked = ContainerSecurity(masked_paths=("/a", "/proc/keys"), readonly_paths=("/b",))
    found = linux.masked_paths(asked, ("/extra",))
    assert found[:2] == ["/a", "/proc/keys"]
    assert found[-1] == "/extra"
    assert set(linux.DEFAULT_MASKED) <= set(found)
    assert len(found) == len(set(found))
    assert linux.readonly_paths(asked) == ["/b"]
    assert linux.masked_paths(ContainerSecurity(), ("/extra",)) == []
    free = dataclasses.replace(asked, privileged=True)
    assert linux.masked_paths(free, ("/extra",)) == linux.readonly_paths(free) == []
