"""Answers of several plugins: what one sets no other sets, and the next one sees what came before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pycrio.drivers.nri import describe
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.merge import Change, Creation
from pycrio.errors import PluginFailure
from tests.unit.drivers.nri.support import container, pod

Fill = Callable[[pb.ContainerAdjustment], object]


def creation() -> Creation:
    return Creation(describe.pod(pod()), describe.container(container()))


def answer(fill: Fill) -> pb.CreateContainerResponse:
    out = pb.CreateContainerResponse()
    fill(out.adjust)
    return out


def optional(path: str, value: object) -> Fill:
    def fill(a: pb.ContainerAdjustment) -> None:
        target: object = a
        for name in path.split("."):
            target = getattr(target, name)
        target.value = value  # type: ignore[attr-defined]
        target.SetInParent()  # type: ignore[attr-defined]

    return fill


MEMORY = ["limit", "reservation", "swap", "kernel", "kernel_tcp", "swappiness", "disable_oom_killer", "use_hierarchy"]
CPU = ["shares", "quota", "period", "realtime_runtime", "realtime_period"]
SETTERS: dict[str, Fill] = {
    "annotation": lambda a: a.annotations.update({"x": "1"}),
    "mount": lambda a: a.mounts.add(destination="/x", source="/y"),
    "env": lambda a: a.env.add(key="X", value="1"),
    "args": lambda a: a.args.append("run"),
    "device": lambda a: a.linux.devices.add(path="/dev/x", type="c"),
    "hugepages": lambda a: a.linux.resources.hugepage_limits.add(page_size="2MB", limit=1),
    "unified": lambda a: a.linux.resources.unified.update({"memory.high": "1"}),
    "cpus": lambda a: setattr(a.linux.resources.cpu, "cpus", "0"),
    "mems": lambda a: setattr(a.linux.resources.cpu, "mems", "0"),
    "pids": lambda a: setattr(a.linux.resources.pids, "limit", 5),
    "cgroup": lambda a: setattr(a.linux, "cgroups_path", "/x"),
    "seccomp": lambda a: setattr(a.linux.seccomp_policy, "default_action", "SCMP_ACT_ALLOW"),
    "ioprio": lambda a: setattr(a.linux.io_priority, "priority", 3),
    "scheduler": lambda a: setattr(a.linux.scheduler, "policy", pb.SCHED_FIFO),
    "memory policy": lambda a: setattr(a.linux.memory_policy, "nodes", "0"),
    "namespace": lambda a: a.linux.namespaces.add(type="uts"),
    "sysctl": lambda a: a.linux.sysctl.update({"net.x": "1"}),
    "net device": lambda a: a.linux.net_devices["eth1"].CopyFrom(pb.LinuxNetDevice(name="e")),
    "rlimit": lambda a: a.rlimits.add(type="RLIMIT_NOFILE", hard=1, soft=1),
    "cdi": lambda a: a.CDI_devices.add(name="v/c=d"),
    "schemata": lambda a: a.linux.rdt.schemata.value.append("L3:0=f"),
    "oom score": optional("linux.oom_score_adj", 0),
    "blockio": optional("linux.resources.blockio_class", "slow"),
    "rdt class": optional("linux.resources.rdt_class", "gold"),
    "clos": optional("linux.rdt.clos_id", "gold"),
    "monitoring": optional("linux.rdt.enable_monitoring", False),
    **{f"memory {n}": optional(f"linux.resources.memory.{n}", 1) for n in MEMORY[:6]},
    **{f"memory {n}": optional(f"linux.resources.memory.{n}", True) for n in MEMORY[6:]},
    **{f"cpu {n}": optional(f"linux.resources.cpu.{n}", 1) for n in CPU},
}


@pytest.mark.parametrize("what", SETTERS)
def test_two_plugins_must_not_set_the_same(what: str) -> None:
    made = creation()
    made.take(answer(SETTERS[what]), "00-a")
    alone = pb.ContainerAdjustment()
    alone.CopyFrom(made.adjust)
    assert alone != pb.ContainerAdjustment()
    with pytest.raises(PluginFailure, match=r"'00-a' and '10-b' both tried to set"):
        made.take(answer(SETTERS[what]), "10-b")


def test_everything_at_once_from_different_plugins() -> None:
    made, whole = creation(), pb.ContainerAdjustment()
    for number, fill in enumerate(SETTERS.values()):
        made.take(answer(fill), f"{number:02}-p")
        fill(whole)
    assert made.adjust == whole


def test_hooks_are_added_up() -> None:
    made = creation()
    for plugin in ("00-a", "10-b"):
        made.take(answer(lambda a, p=plugin: a.hooks.prestart.add(path=f"/{p}")), plugin)  # type: ignore[misc]
    assert [h.path for h in made.adjust.hooks.prestart] == ["/00-a", "/10-b"]
    assert made.owners.message.owners["c1"].simple[pb.OciHooks] == "00-a,10-b"


def keyed(kind: str, key: str, value: str) -> Fill:
    if kind == "annotation":
        return lambda a: a.annotations.update({key: value})
    if kind == "sysctl":
        return lambda a: a.linux.sysctl.update({key: value})
    if kind == "env":
        return lambda a: a.env.add(key=key, value=value)
    if kind == "mount":
        return lambda a: a.mounts.add(destination=key, source=value)
    if kind == "device":
        return lambda a: a.linux.devices.add(path=key, type=value)
    return lambda a: a.linux.net_devices[key].CopyFrom(pb.LinuxNetDevice(name=value))


@pytest.mark.parametrize("kind", ["annotation", "sysctl", "env", "mount", "device", "net device"])
def test_a_plugin_may_take_away_and_set_anew(kind: str) -> None:
    made = creation()
    made.take(answer(keyed(kind, "x", "old")), "00-a")

    def anew(a: pb.ContainerAdjustment) -> None:
        keyed(kind, "-x", "")(a)
        keyed(kind, "x", "new")(a)

    made.take(answer(anew), "10-b")
    assert "old" not in str(made.adjust)
    assert "new" in str(made.adjust)
    assert "old" not in str(made.request)
    assert "new" in str(made.request)
    with pytest.raises(PluginFailure, match="10-b"):
        made.take(answer(keyed(kind, "x", "third")), "20-c")


@pytest.mark.parametrize("kind", ["annotation", "sysctl", "env", "mount", "device", "net device"])
def test_what_one_takes_away_another_cannot_set(kind: str) -> None:
    made = creation()
    made.take(answer(keyed(kind, "x", "old")), "00-a")
    made.take(answer(keyed(kind, "-x", "")), "10-b")
    assert "old" not in str(made.adjust) + str(made.request)
    with pytest.raises(PluginFailure, match="10-b"):
        made.take(answer(keyed(kind, "x", "new")), "20-c")


def test_args_are_replaced_on_request() -> None:
    made = creation()
    made.take(answer(lambda a: a.args.extend(["a", "b"])), "00-a")
    made.take(answer(lambda a: a.args.extend(["", "c"])), "10-b")
    assert list(made.adjust.args) == list(made.request.container.args) == ["c"]


def test_rdt_is_removed_and_set_anew() -> None:
    made = creation()
    made.take(answer(SETTERS["clos"]), "00-a")

    def anew(a: pb.ContainerAdjustment) -> None:
        a.linux.rdt.remove = True
        a.linux.rdt.schemata.value.append("MB:0=10")

    made.take(answer(anew), "10-b")
    assert made.adjust.linux.rdt.remove
    assert not made.adjust.linux.rdt.HasField("clos_id")
    assert list(made.adjust.linux.rdt.schemata.value) == ["MB:0=10"]


def test_the_next_plugin_sees_the_container_as_it_is() -> None:
    made = creation()
    made.take(answer(lambda a: a.mounts.add(destination="-/data")), "00-a")
    made.take(answer(lambda a: a.env.add(key="A", value="2")), "00-a")
    made.take(answer(lambda a: a.linux.namespaces.add(type="-uts")), "00-a")
    seen = made.request.container
    assert [m.destination for m in seen.mounts] == ["/proc"]
    assert list(seen.env) == ["PATH=/bin", "A=2"]
    assert [n.type for n in seen.linux.namespaces] == ["mount"]


def update(ident: str, ignore: bool = False, **cpu: int) -> pb.ContainerUpdate:
    out = pb.ContainerUpdate(container_id=ident, ignore_failure=ignore)
    for name, value in cpu.items():
        getattr(out.linux.resources.cpu, name).value = value
    return out


def test_updates_of_others() -> None:
    made = creation()
    made.take(pb.CreateContainerResponse(update=[update("other", shares=2)]), "00-a")
    made.take(pb.CreateContainerResponse(update=[update("other", quota=3)]), "10-b")
    made.take(pb.CreateContainerResponse(update=[update("other", True, shares=9, period=8)]), "20-c")
    assert made.updates.by_id["other"] == update("other", shares=2, quota=3)  # c's was refused as a whole, tolerated
    with pytest.raises(PluginFailure):
        made.take(pb.CreateContainerResponse(update=[update("other", shares=4)]), "30-d")
    with pytest.raises(PluginFailure, match="while it is created"):
        made.take(pb.CreateContainerResponse(update=[update("c1", shares=4)]), "30-d")


def test_a_change_passes_from_plugin_to_plugin() -> None:
    asked = describe.resources({"cpu": {"shares": 100, "quota": 5}})
    change = Change(describe.pod(pod()), describe.container(container()), asked)
    change.take(pb.UpdateContainerResponse(update=[update("other", shares=1)]), "00-a")
    assert not change.changed
    change.take(pb.UpdateContainerResponse(update=[update("c1", shares=7)]), "00-a")
    assert change.request.linux_resources.cpu.shares.value == 7
    change.take(pb.UpdateContainerResponse(update=[update("c1", True, shares=8, quota=1)]), "10-b")
    assert change.request.linux_resources.cpu.quota.value == 5
    with pytest.raises(PluginFailure):
        change.take(pb.UpdateContainerResponse(update=[update("c1", shares=8)]), "10-b")
    assert describe.resources_document(change.request.linux_resources) == {"cpu": {"shares": 7, "quota": 5}}
    assert set(change.updates.by_id) == {"other"}
