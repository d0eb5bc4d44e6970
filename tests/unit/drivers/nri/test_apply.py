"""An adjustment applied to an OCI config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pycrio.drivers.nri import describe
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.apply import Helpers, apply
from pycrio.errors import InvalidRequest, PluginFailure
from tests.unit.drivers.nri.support import container, document, nothing, pod


def applied(fill: Callable[[pb.ContainerAdjustment], object], shared: str = "shared") -> dict[str, Any]:
    adjust, made = pb.ContainerAdjustment(), document()
    fill(adjust)
    made["relabel"] = apply(made, adjust, Helpers(lambda key: not key.startswith("bad"), nothing, lambda s: shared))
    return made


def test_nothing_changes_nothing() -> None:
    assert applied(lambda a: None) == {**document(), "relabel": ()}


def test_annotations_are_filtered() -> None:
    made = applied(lambda a: a.annotations.update({"x": "1", "-own": "", "bad/one": "1"}))
    assert made["annotations"] == {"x": "1"}


def test_environment_keeps_its_order() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        a.env.add(key="A", value="2")
        a.env.add(key="-PATH")
        a.env.add(key="-B")
        a.env.add(key="C", value="3=4")

    assert applied(fill)["process"]["env"] == ["A=2", "C=3=4"]


def test_taken_away_and_set_anew() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        a.annotations["-own"] = ""
        a.annotations["own"] = "2"
        a.mounts.add(destination="-/data")
        a.mounts.add(destination="/data", source="/new", type="bind")
        a.linux.devices.add(path="-/dev/null")
        a.linux.devices.add(path="/dev/null", type="c", major=1, minor=5)

    made = applied(fill)
    assert made["annotations"] == {"own": "2"}
    assert [m["source"] for m in made["mounts"]] == ["proc", "/new"]
    assert made["linux"]["devices"] == [{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]
    assert made["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"},
    ]


def test_device_removal_keeps_the_rule_of_a_twin() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        twin = a.linux.devices.add(path="/dev/zero-too", type="c", major=1, minor=3)
        twin.file_mode.value, twin.uid.value = 0o600, 5
        a.linux.devices.add(path="-/dev/null")

    linux = applied(fill)["linux"]
    assert linux["devices"] == [
        {"path": "/dev/zero-too", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5}
    ]
    assert any(r["allow"] and r["minor"] == 3 for r in linux["resources"]["devices"][1:])


def test_process() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        a.args.extend(["run", "it"])
        a.rlimits.add(type="RLIMIT_NOFILE", hard=9, soft=8)
        a.linux.oom_score_adj.value = 0
        a.linux.oom_score_adj.SetInParent()
        setattr(a.linux.io_priority, "class", pb.IOPRIO_CLASS_RT)
        a.linux.io_priority.priority = 4
        a.linux.scheduler.policy = pb.SCHED_FIFO
        a.linux.scheduler.priority = 7
        a.linux.scheduler.flags.append(pb.SCHED_FLAG_RESET_ON_FORK)

    process = applied(fill)["process"]
    assert process["args"] == ["run", "it"]
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 8}]
    assert process["oomScoreAdj"] == 0
    assert process["ioPriority"] == {"class": "IOPRIO_CLASS_RT", "priority": 4}
    assert process["scheduler"] == {"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}


def test_hooks_and_cdi_devices() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        hook = a.hooks.create_runtime.add(path="/bin/h", args=["h"], env=["X=1"])
        hook.timeout.value = 3
        a.hooks.poststop.add(path="/bin/p")
        a.CDI_devices.add(name="v/c=d")

    made = applied(fill)
    assert made["hooks"] == {
        "createRuntime": [{"path": "/bin/h", "args": ["h"], "env": ["X=1"], "timeout": 3}],
        "poststop": [{"path": "/bin/p"}],
    }
    assert made["injected"] == ["v/c=d"]


def test_linux() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        a.linux.cgroups_path = "/else"
        a.linux.sysctl["net.x"] = "1"
        a.linux.net_devices["eth1"].name = "e"
        a.linux.memory_policy.mode = pb.MPOL_BIND
        a.linux.memory_policy.nodes = "0"
        a.linux.memory_policy.flags.append(pb.MPOL_F_STATIC_NODES)
        a.linux.rdt.clos_id.value = "gold"
        a.linux.rdt.schemata.value.append("L3:0=f")
        a.linux.rdt.enable_monitoring.value = True
        a.linux.namespaces.add(type="network", path="/run/ns/other")

    linux = applied(fill)["linux"]
    assert linux["cgroupsPath"] == "/else"
    assert linux["sysctl"] == {"net.x": "1"}
    assert linux["netDevices"] == {"eth1": {"name": "e"}}
    assert linux["memoryPolicy"] == {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    assert linux["intelRdt"] == {"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True}
    assert linux["namespaces"][-1] == {"type": "network", "path": "/run/ns/other"}


def test_without_its_uts_namespace_a_container_names_no_host() -> None:
    made = applied(lambda a: a.linux.namespaces.add(type="-uts"))
    assert made["linux"]["namespaces"] == [{"type": "mount"}]
    assert "hostname" not in made


def test_seccomp_goes_there_and_back() -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    rule["args"] = [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}]
    policy = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "defaultErrnoRet": 0,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "listenerPath": "/run/l",
        "listenerMetadata": "m",
        "syscalls": [rule],
    }
    made = applied(lambda a: a.linux.seccomp_policy.CopyFrom(describe.seccomp(policy)))
    assert made["linux"]["seccomp"] == policy


def test_limits() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        r = a.linux.resources
        r.memory.limit.value = 1 << 27
        r.memory.reservation.value = 5
        r.cpu.quota.value = 7
        r.cpu.cpus = "0-1"
        r.hugepage_limits.add(page_size="2MB", limit=4)
        r.unified["memory.high"] = "9"
        r.pids.limit = 100
        rule = r.devices.add(allow=True, type="b", access="r")
        rule.major.value = 8

    resources = applied(fill)["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 27, "swap": 1 << 27, "reservation": 5}
    assert resources["cpu"] == {"shares": 512, "quota": 7, "cpus": "0-1"}
    assert resources["hugepageLimits"] == [{"pageSize": "2MB", "limit": 4}]
    assert resources["unified"] == {"memory.high": "9"}
    assert resources["pids"] == {"limit": 100}
    assert resources["devices"][-1] == {"allow": True, "access": "r", "type": "b", "major": 8}


def test_no_limit_of_processes() -> None:
    assert "pids" not in applied(lambda a: setattr(a.linux.resources.pids, "limit", -1))["linux"]["resources"]


@pytest.mark.parametrize(("limit", "swap", "found"), [(10, None, 10), (10, 5, 10), (10, 20, 20), (10, -1, -1)])
def test_swap_is_never_below_memory(limit: int, swap: int | None, found: int) -> None:
    message = pb.LinuxResources()
    message.memory.limit.value = limit
    if swap is not None:
        message.memory.swap.value = swap
    assert describe.resources_document(message)["memory"]["swap"] == found


def test_classes() -> None:
    gold = applied(lambda a: setattr(a.linux.resources.rdt_class, "value", "gold"))["linux"]
    assert gold["intelRdt"] == {"closID": "gold"}
    pod_qos = applied(lambda a: setattr(a.linux.resources.rdt_class, "value", "/PodQos"))["linux"]
    assert "intelRdt" not in pod_qos
    assert "blockIO" not in applied(lambda a: setattr(a.linux.resources.blockio_class, "value", "slow"))["linux"]


def test_mounts_stand_before_what_is_inside_them() -> None:
    def fill(a: pb.ContainerAdjustment) -> None:
        a.mounts.add(destination="/data/deep/er", type="bind", source="/a", options=["rbind", "relabel"])
        a.mounts.add(destination="/top", type="tmpfs")

    made = applied(fill)
    assert [m["destination"] for m in made["mounts"]] == ["/proc", "/data", "/top", "/data/deep/er"]
    assert made["mounts"][-1]["options"] == ["rbind"]
    assert made["relabel"] == ("/a",)


@pytest.mark.parametrize(
    ("option", "here", "root"),
    [
        ("rprivate", "private", None),
        ("rshared", "shared", "rshared"),
        ("rslave", "shared", "rslave"),
        ("rslave", "slave", "rslave"),
    ],
)
def test_propagation(option: str, here: str, root: str | None) -> None:
    made = applied(lambda a: a.mounts.add(destination="/x", source="/y", options=["rbind", option]), here)
    assert made["linux"].get("rootfsPropagation") == root


@pytest.mark.parametrize(("option", "here"), [("rshared", "private"), ("rshared", "slave"), ("rslave", "private")])
def test_propagation_that_the_host_lacks(option: str, here: str) -> None:
    with pytest.raises(InvalidRequest, match="/y"):
        applied(lambda a: a.mounts.add(destination="/x", source="/y", options=[option]), here)


def test_a_container_described() -> None:
    view = container(pid=7, seccomp_path="")
    view.document["process"] |= {
        "env": ["X=\udcff"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": (1 << 64) - 1, "soft": 1}],
        "oomScoreAdj": 0,
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
        "scheduler": {"policy": "SCHED_BATCH", "nice": -1, "flags": ["SCHED_FLAG_RECLAIM"]},
    }
    view.document["hooks"] = {"prestart": [{"path": "/h", "timeout": 3}]}
    view.document["linux"] |= {
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "netDevices": {"eth1": {"name": "e"}},
        "intelRdt": {"closID": "gold"},
        "sysctl": {"net.x": "1"},
        "cgroupsPath": "/c",
    }
    made = describe.container(view)
    assert (made.id, made.pod_sandbox_id, made.name, made.pid) == ("c1", "p1", "app", 7)
    assert made.state == pb.CONTAINER_CREATED
    assert list(made.env) == ["X=\N{REPLACEMENT CHARACTER}"]
    assert made.rlimits[0].hard == (1 << 64) - 1
    assert made.linux.HasField("oom_score_adj")
    assert made.linux.io_priority.priority == 3
    assert made.linux.scheduler.nice == -1
    assert made.linux.seccomp_profile.profile_type == pb.SecurityProfile.UNCONFINED
    assert made.linux.rdt.clos_id.value == "gold"
    assert made.linux.net_devices["eth1"].name == "e"
    assert made.linux.resources.cpu.shares.value == 512
    assert not made.linux.resources.cpu.HasField("quota")
    assert (made.user.uid, made.user.gid, list(made.user.additional_gids)) == (5, 6, [7])
    assert (made.image.name, made.image.digest) == ("busybox:1", "sha256:" + "b" * 64)


def test_a_pod_described() -> None:
    made = describe.pod(pod())
    assert (made.id, made.name, made.namespace, made.uid) == ("p1", "web", "default", "uid-1")
    assert dict(made.labels) == {"a": "b"}
    assert dict(made.annotations) == {"k": "v"}
    assert [(n.type, n.path) for n in made.linux.namespaces] == [("network", "/run/ns/net")]
    assert list(made.ips) == ["10.0.0.2"]


@pytest.mark.parametrize(
    "fill",
    [
        lambda a: setattr(a.linux.memory_policy, "mode", 99),
        lambda a: setattr(a.linux.scheduler, "policy", 99),
        lambda a: setattr(a.linux.io_priority, "class", 99),
    ],
)
def test_values_that_nobody_knows(fill: Callable[[pb.ContainerAdjustment], object]) -> None:
    with pytest.raises(PluginFailure, match="unknown value 99"):
        applied(fill)


def test_block_io_classes() -> None:
    adjust = pb.ContainerAdjustment()
    adjust.linux.resources.blockio_class.value = "slow"
    for known, expected in (({"weight": 10}, {"weight": 10}), (None, None)):
        made = {"linux": {"resources": {"blockIO": {"weight": 500}}}}
        helpers = Helpers(lambda key: True, nothing, lambda source: "shared", lambda name, known=known: known)  # type: ignore[misc]
        apply(made, adjust, helpers)
        assert made["linux"]["resources"].get("blockIO") == expected
