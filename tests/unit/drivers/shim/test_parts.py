"""What is said to shims and what they answer, as data."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from pycrio.drivers.shim import bootstrap, metrics, names, options
from pycrio.drivers.shim._pb import metrics1_pb2 as v1
from pycrio.drivers.shim._pb import metrics2_pb2 as v2
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.drivers.shim.place import Facts, Place, places
from pycrio.errors import StoreFailure
from pycrio.model.node import Handler


def handler(**more: Any) -> Handler:
    return Handler("vm", "/usr/bin/containerd-shim-kata-v2", "/run/kata", "/usr/bin/monitor", type="vm", **more)


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "version", "name"),
    [
        ("unix:///run/containerd/s/abc", "unix:///run/containerd/s/abc", 2, "/run/containerd/s/abc"),
        ("unix:///run/x\n", "unix:///run/x", 2, "/run/x"),
        (
            "/containerd-shim/ns/id/shim.sock",
            "/containerd-shim/ns/id/shim.sock",
            2,
            "\0/containerd-shim/ns/id/shim.sock",
        ),
        ('{"version":2,"address":"unix:///run/y","protocol":"ttrpc"}', "unix:///run/y", 2, "/run/y"),
        ('{"version":3,"address":"unix:///run/y"}', "unix:///run/y", 3, "/run/y"),
    ],
)
def test_answers_of_a_start(text: str, address: str, version: int, name: str) -> None:
    assert bootstrap.parse(text.encode()) == bootstrap.Answer(address, version)
    assert bootstrap.socket_name(address) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no address"),
        ("two words", "no address"),
        ("\x01\x02", "no address"),
        ("vsock://3:1024", "not that of a unix socket"),
        ("unix://relative", "not that of a unix socket"),
        ('{"version":4,"address":"unix:///x"}', "version 4"),
        ('{"address":"unix:///x"}', "version None"),
        ('{"version":2,"address":"unix:///x","protocol":"grpc"}', "not ttrpc"),
        ('{"version":2}', "no address"),
        ("{", "Expecting"),
    ],
)
def test_answers_that_cannot_be_used(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        bootstrap.parse(text.encode())


def test_command_lines(tmp_path: pathlib.Path) -> None:
    caller = bootstrap.Caller("/run/e.sock", "/usr/bin/pycrio", debug=True)
    place = Place(str(tmp_path), "abc")
    assert bootstrap.delete_words("/usr/bin/shim", place, caller) == [
        *("/usr/bin/shim", "-namespace", "default", "-address", "/run/e.sock", "-publish-binary", "/usr/bin/pycrio"),
        *("-id", "abc", "-debug", "-bundle", f"{tmp_path}/abc", "delete"),
    ]
    env = bootstrap.environment(handler(monitor_env=("A=b=c",)), caller)
    assert (env["TTRPC_ADDRESS"], env["A"]) == ("/run/e.sock", "b=c")


def test_services() -> None:
    assert names.task_service(2) == "containerd.task.v2.Task"
    assert names.task_service(3) == "containerd.task.v3.Task"


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_of_a_handler() -> None:
    assert options.of(handler(), {}, systemd=True, no_pivot=True) is None
    told = options.of(handler(config_path="/etc/kata.toml"), {}, systemd=True, no_pivot=False)
    assert told is not None
    assert told.type_url == "runtimeoptions.v1.Options"
    assert pb.ConfigOptions.FromString(told.value).config_path == "/etc/kata.toml"


def test_options_of_the_shim_of_runc() -> None:
    runc = Handler("r", "/usr/bin/containerd-shim-runc-v2", "/run/rt", "/m", type="vm")
    maps = [{"containerID": 0, "hostID": 5000, "size": 10}]
    config = {"linux": {"uidMappings": maps, "gidMappings": [{"containerID": 1, "hostID": 7, "size": 1}]}}
    told = options.of(runc, config, systemd=True, no_pivot=True)
    assert told is not None
    assert told.type_url == "containerd.runc.v1.Options"
    found = pb.RuncOptions.FromString(told.value)
    assert (found.root, found.systemd_cgroup, found.no_pivot_root) == ("/run/rt", True, True)
    assert (found.io_uid, found.io_gid) == (5000, 0)


def test_annotations() -> None:
    config = options.annotated({"annotations": {"a": "b"}, "root": {}}, "pod", "pod")
    assert config["annotations"]["io.kubernetes.cri.container-type"] == "sandbox"
    assert config["annotations"]["a"] == "b"
    config = options.annotated({}, "ctr", "pod")["annotations"]
    assert config["io.kubernetes.cri-o.ContainerType"] == "container"
    assert config["io.kubernetes.cri-o.SandboxID"] == config["io.kubernetes.cri.sandbox-id"] == "pod"


def test_an_image_that_the_guest_pulls() -> None:
    annotations = {"io.kubernetes.cri-o.SomeNameOfTheImage": "quay.io/a@sha256:1", "x": "y"}
    mount = options.guest_pull({"annotations": annotations})
    assert mount is not None
    assert mount.type == "fuse.nydus-overlayfs"
    name, _, text = mount.options[0].partition("=")
    assert name == "io.katacontainers.volume"
    assert json.loads(base64.b64decode(text)) == {
        "volume_type": "image_guest_pull",
        "source": "quay.io/a@sha256:1",
        "fs_type": "overlay_fs",
        "image_pull": {"metadata": annotations},
    }
    assert options.guest_pull({}) is None


# --- readings ---------------------------------------------------------------------------------------------------------


def test_readings_of_v1() -> None:
    m = v1.Metrics()
    m.cpu.usage.total, m.cpu.usage.user, m.cpu.usage.kernel = 100, 60, 40
    m.cpu.usage.per_cpu.extend([70, 30])
    m.cpu.throttling.periods = 5
    m.memory.usage.usage, m.memory.usage.limit, m.memory.total_inactive_file = 1000, 4000, 300
    m.memory.swap.usage, m.memory.swap.limit = 1500, 5000
    m.memory.total_rss, m.memory_oom_control.oom_kill = 200, 1
    m.pids.current, m.pids.limit = 3, 1 << 63
    m.blkio.io_service_bytes_recursive.add(op="Read", major=8, minor=1, value=4096)
    m.blkio.io_serviced_recursive.add(op="read", major=8, minor=1, value=2)
    m.blkio.io_serviced_recursive.add(op="Total", major=8, minor=1, value=9)
    m.hugetlb.add(pagesize="2MB", usage=7, max=8)
    found = metrics.decode(AnyMessage(type_url="io.containerd.cgroups.v1.Metrics", value=m.SerializeToString()))
    assert found is not None
    assert found.cpu is not None
    assert found.memory is not None
    assert (found.cpu.total, found.cpu.user, found.cpu.system, found.cpu.periods) == (100, 60, 40, 5)
    assert found.cpu.per_cpu == (70, 30)
    assert (found.memory.working_set, found.memory.limit, found.memory.oom_kills) == (700, 4000, 1)
    assert (found.memory.swap_usage, found.memory.swap_limit) == (500, 1000)
    assert (found.pids, found.pids_limit) == (3, None)
    [disk] = found.io
    assert (disk.major, disk.minor, disk.read_bytes, disk.reads, disk.writes) == (8, 1, 4096, 2, 0)
    assert [(h.page_size, h.usage, h.max_usage) for h in found.hugepages] == [("2MB", 7, 8)]


def test_readings_of_v2() -> None:
    m = v2.Metrics()
    m.cpu.usage_usec, m.cpu.user_usec = 100, 60
    m.cpu.psi.some.total, m.cpu.psi.some.avg10 = 5, 1.5
    m.memory.usage, m.memory.inactive_file, m.memory.usage_limit = 1000, 300, (1 << 64) - 1
    m.memory.kernel_stack, m.memory.slab = 10, 20
    m.memory_events.oom_kill = 2
    m.pids.current, m.pids.limit = 3, 10
    m.io.usage.add(major=8, minor=1, rbytes=1, wbytes=2, rios=3, wios=4)
    found = metrics.decode(AnyMessage(type_url="x/io.containerd.cgroups.v2.Metrics", value=m.SerializeToString()))
    assert found is not None
    assert found.cpu is not None
    assert found.cpu.pressure is not None
    assert found.memory is not None
    assert (found.cpu.total, found.cpu.user) == (100_000, 60_000)
    assert found.cpu.pressure.some is not None
    assert (found.cpu.pressure.some.total, found.cpu.pressure.some.avg10, found.cpu.pressure.full) == (5000, 1.5, None)
    assert (found.memory.working_set, found.memory.limit, found.memory.kernel) == (700, None, 30)
    assert (found.memory.oom_kills, found.pids_limit, found.memory.pressure) == (2, 10, None)
    [disk] = found.io
    assert (disk.read_bytes, disk.write_bytes, disk.reads, disk.writes) == (1, 2, 3, 4)


def test_readings_of_what_we_do_not_know() -> None:
    assert metrics.decode(AnyMessage(type_url="com.example.Metrics")) is None
    empty = metrics.decode(AnyMessage(type_url="io.containerd.cgroups.v2.Metrics"))
    assert empty is not None
    assert (empty.cpu, empty.memory, empty.pids, empty.io) == (None, None, None, ())


# --- places -----------------------------------------------------------------------------------------------------------


def test_a_place(tmp_path: pathlib.Path) -> None:
    place = Place(str(tmp_path), "abc")
    assert place.facts() is None
    place.make({"process": {"args": ["\udcff"]}}, ["stdout"])
    place.make({"process": {"args": ["\udcff"]}}, ["stdout"])  # one of a making that was cut off goes first
    assert json.loads((tmp_path / "abc" / "config.json").read_bytes())["process"]
    assert (tmp_path / "abc" / "stdout").is_fifo()
    facts = Facts("vm", "pod", "/shim", "unix:///x", 2, "/bundle", "/kubepods")
    place.put_facts(facts)
    assert place.facts() == facts
    place.mark("oom")
    assert place.exists("oom")
    assert place.execs() == []
    (tmp_path / "events.sock").touch()
    assert [p.id for p in places(str(tmp_path))] == ["abc"]
    (tmp_path / "abc" / "facts.json").write_text("{")
    with pytest.raises(StoreFailure, match="cannot be read"):
        place.facts()
    place.remove()
    place.remove()
    place.mark("oom")
    assert not place.exists()
    assert list(places(str(tmp_path / "none"))) == []
