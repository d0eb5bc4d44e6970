"""Conversion between messages and model: nothing lost, nothing let through that the model cannot hold."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import common, containers, images, mounts, node, pods, resources, security, signals, stats
from pycrio.errors import InvalidRequest
from pycrio.flows.views import (
    ContainerMetrics,
    ContainerStatsView,
    EventView,
    HandlerView,
    ImageView,
    MetricDescriptor,
    MetricSample,
    NodeStatusView,
    PodMetrics,
    PodStatsView,
)
from pycrio.model.container import ContainerConfig, ContainerMetadata, ContainerRecord, ContainerState
from pycrio.model.event import Event, EventType
from pycrio.model.image import Credentials, ImageConfig, ImageSpec, StoredImage
from pycrio.model.mount import Device, Mount
from pycrio.model.node import Condition, Identity
from pycrio.model.pod import DNSConfig, PodConfig, PodMetadata, PodRecord, PodState, PortMapping, Protocol
from pycrio.model.resources import Resources
from pycrio.model.security import (
    Capabilities,
    ContainerSecurity,
    GroupsPolicy,
    IdMapping,
    LinuxUser,
    NamespaceMode,
    NamespaceOptions,
    PodSecurity,
    ProfileType,
    SecurityProfile,
    SELinuxOptions,
    UserNamespace,
)
from pycrio.model.stats import (
    CgroupStats,
    ContainerUsage,
    CpuUsage,
    FsUsage,
    InterfaceStats,
    MemoryUsage,
    PodUsage,
    Pressure,
    PressureData,
)
from tests.unit.api import strategies as own

POD = PodConfig(PodMetadata("web", "u-1", "default", 2), labels={"app": "web"}, annotations={"a/b": "\x00ü"})


def pod_record(**changes: Any) -> PodRecord:
    base = PodRecord("p" * 64, "k8s_web", POD, "runc", "", 1_000, "/run/p", ips=("10.0.0.2", "fd00::2"))
    return dataclasses.replace(base, **changes)


def container_record(**changes: Any) -> ContainerRecord:
    config = ContainerConfig(
        ContainerMetadata("app", 3),
        ImageSpec("sha256:abc", {"k": "v"}, "busybox"),
        labels={"l": "1"},
        annotations={"io.kubernetes.container.restartCount": "3"},
        mounts=(Mount("/data", "/srv"),),
    )
    base = ContainerRecord(
        id="c" * 64,
        name="k8s_app",
        pod_id="p" * 64,
        config=config,
        handler="runc",
        image_id="i" * 64,
        image_ref="docker.io/library/busybox@sha256:1",
        image_name="docker.io/library/busybox:latest",
        created_at=5,
        bundle="/run/c",
        persist_dir="/var/c",
        rootfs="/merged",
        log_path="/var/log/pods/app/0.log",
        mounts=config.mounts,
    )
    return dataclasses.replace(base, **changes)


# --- round trips


@given(own.RESOURCES)
def test_resources_round_trip(value: Resources) -> None:
    assert resources.decode(resources.encode(value)) == value


@given(own.NAMESPACES)
def test_namespaces_round_trip(value: NamespaceOptions) -> None:
    assert security.decode_namespaces(security.encode_namespaces(value)) == value


@given(own.MOUNTS)
def test_mount_round_trip(value: Mount) -> None:
    assert mounts.decode(mounts.encode(value)) == value


@given(own.SPECS)
def test_image_spec_round_trip(value: ImageSpec) -> None:
    assert images.decode_spec(images.encode_spec(value)) == value


@pytest.mark.parametrize("number", [n for n in pb.Signal.values() if n])
def test_signal_round_trip(number: int) -> None:
    aliases: dict[int, int] = {pb.SIGNAL_SIGCLD: pb.SIGNAL_SIGCHLD, pb.SIGNAL_SIGIOT: pb.SIGNAL_SIGABRT}
    aliases[pb.SIGNAL_SIGPOLL] = pb.SIGNAL_SIGIO
    assert signals.encode(signals.decode(number)) == aliases.get(number, number)


# --- requests


def full_pod() -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="web", uid="u-1", namespace="default", attempt=2),
        hostname="web-0",
        log_directory="/var/log/pods/web",
        dns_config=pb.DNSConfig(servers=["1.1.1.1"], searches=["a", "b"], options=["ndots:5"]),
        port_mappings=[pb.PortMapping(protocol=pb.UDP, container_port=53, host_port=5353, host_ip="127.0.0.1")],
        labels={"app": "web"},
        annotations={"x": "y"},
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent="/kubepods/pod1",
            security_context=pb.LinuxSandboxSecurityContext(
                namespace_options=pb.NamespaceOption(
                    network=pb.NODE,
                    pid=pb.CONTAINER,
                    ipc=pb.POD,
                    userns_options=pb.UserNamespace(
                        mode=pb.POD,
                        uids=[pb.IDMapping(host_id=100000, container_id=0, length=65536)],
                        gids=[pb.IDMapping(host_id=200000, container_id=1, length=10)],
                    ),
                ),
                selinux_options=pb.SELinuxOption(user="u", role="r", type="t", level="l"),
                run_as_user=pb.Int64Value(value=0),
                run_as_group=pb.Int64Value(value=7),
                readonly_rootfs=True,
                supplemental_groups=[4, 5],
                supplemental_groups_policy=pb.Strict,
                privileged=True,
                seccomp=pb.SecurityProfile(),
                apparmor=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="localhost/web"),
            ),
            sysctls={"net.ipv4.ip_forward": "1"},
            overhead=pb.LinuxContainerResources(cpu_shares=2),
            resources=pb.LinuxContainerResources(memory_limit_in_bytes=1 << 20),
        ),
    )


def test_every_field_of_a_pod() -> None:
    assert pods.decode(full_pod()) == PodConfig(
        metadata=PodMetadata("web", "u-1", "default", 2),
        hostname="web-0",
        log_directory="/var/log/pods/web",
        dns=DNSConfig(("1.1.1.1",), ("a", "b"), ("ndots:5",)),
        port_mappings=(PortMapping(Protocol.UDP, 53, 5353, "127.0.0.1"),),
        labels={"app": "web"},
        annotations={"x": "y"},
        cgroup_parent="/kubepods/pod1",
        security=PodSecurity(
            namespaces=NamespaceOptions(
                network=NamespaceMode.NODE,
                pid=NamespaceMode.CONTAINER,
                ipc=NamespaceMode.POD,
                userns=UserNamespace(NamespaceMode.POD, (IdMapping(0, 100000, 65536),), (IdMapping(1, 200000, 10),)),
            ),
            selinux=SELinuxOptions("u", "r", "t", "l"),
            run_as_user=0,
            run_as_group=7,
            readonly_rootfs=True,
            supplemental_groups=(4, 5),
            groups_policy=GroupsPolicy.STRICT,
            privileged=True,
            seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT),
            apparmor=SecurityProfile(ProfileType.LOCALHOST, "web"),
        ),
        sysctls={"net.ipv4.ip_forward": "1"},
        overhead=Resources(cpu_shares=2),
        resources=Resources(memory_limit=1 << 20),
    )


def test_a_bare_pod() -> None:
    config = pods.decode(pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="n", uid="u", namespace="s")))
    assert config == PodConfig(PodMetadata("n", "u", "s"))


def full_container() -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="app", attempt=1),
        image=pb.ImageSpec(image="sha256:abc", user_specified_image="busybox"),
        command=["sh"],
        args=["-c", "true"],
        working_dir="/w",
        envs=[pb.KeyValue(key="A", value=b"\xff\xfe"), pb.KeyValue(key="", value=b"x")],
        mounts=[
            pb.Mount(container_path="/i", image=pb.ImageSpec(image="img"), image_sub_path="sub", readonly=True),
            pb.Mount(container_path="/h", host_path="/srv", image=pb.ImageSpec()),
        ],
        devices=[pb.Device(container_path="/dev/x", host_path="/dev/null", permissions="r"), pb.Device(host_path="/d")],
        labels={"l": "1"},
        annotations={"an": "2"},
        log_path="app/0.log",
        stdin=True,
        stdin_once=True,
        tty=True,
        linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(cpu_quota=-1),
            security_context=pb.LinuxContainerSecurityContext(
                capabilities=pb.Capability(
                    add_capabilities=["NET_ADMIN"], drop_capabilities=["ALL"], add_ambient_capabilities=["CHOWN"]
                ),
                privileged=True,
                namespace_options=pb.NamespaceOption(pid=pb.TARGET, target_id="t"),
                selinux_options=pb.SELinuxOption(level="s0"),
                run_as_user=pb.Int64Value(value=1000),
                run_as_group=pb.Int64Value(),
                run_as_username="joe",
                readonly_rootfs=True,
                supplemental_groups=[9],
                supplemental_groups_policy=pb.Merge,
                no_new_privs=True,
                masked_paths=["/proc/kcore"],
                readonly_paths=["/proc/sys"],
                seccomp_profile_path="localhost//etc/seccomp.json",
                apparmor_profile="unconfined",
            ),
        ),
        CDI_devices=[pb.CDIDevice(name="v/c=1")],
        stop_signal=pb.SIGNAL_SIGRTMINPLUS3,
    )


def test_every_field_of_a_container() -> None:
    assert containers.decode(full_container()) == ContainerConfig(
        metadata=ContainerMetadata("app", 1),
        image=ImageSpec("sha256:abc", user_specified_image="busybox"),
        command=("sh",),
        args=("-c", "true"),
        working_dir="/w",
        envs=(("A", b"\xff\xfe"), ("", b"x")),
        mounts=(Mount("/i", readonly=True, image=ImageSpec("img"), image_sub_path="sub"), Mount("/h", "/srv")),
        devices=(Device("/dev/null", "/dev/x", "r"), Device("/d", "", "rwm")),
        labels={"l": "1"},
        annotations={"an": "2"},
        log_path="app/0.log",
        stdin=True,
        stdin_once=True,
        tty=True,
        resources=Resources(cpu_quota=-1),
        security=ContainerSecurity(
            capabilities=Capabilities(("NET_ADMIN",), ("ALL",), ("CHOWN",)),
            privileged=True,
            namespaces=NamespaceOptions(pid=NamespaceMode.TARGET, target_id="t"),
            selinux=SELinuxOptions(level="s0"),
            run_as_user=1000,
            run_as_group=0,
            run_as_username="joe",
            readonly_rootfs=True,
            supplemental_groups=(9,),
            no_new_privs=True,
            masked_paths=("/proc/kcore",),
            readonly_paths=("/proc/sys",),
            seccomp=SecurityProfile(ProfileType.LOCALHOST, "/etc/seccomp.json"),
            apparmor=SecurityProfile(ProfileType.UNCONFINED),
        ),
        cdi_devices=("v/c=1",),
        stop_signal="SIGRTMIN+3",
    )


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ("", None),
        ("runtime/default", SecurityProfile(ProfileType.RUNTIME_DEFAULT)),
        ("docker/default", SecurityProfile(ProfileType.RUNTIME_DEFAULT)),
        ("unconfined", SecurityProfile(ProfileType.UNCONFINED)),
        ("localhost//p", SecurityProfile(ProfileType.LOCALHOST, "/p")),
    ],
)
def test_deprecated_profiles(old: str, expected: SecurityProfile | None) -> None:
    context = pb.LinuxContainerSecurityContext(seccomp_profile_path=old, apparmor_profile=old)
    decoded = security.decode_container(context)
    assert (decoded.seccomp, decoded.apparmor) == (expected, expected)
    assert security.decode_pod(pb.LinuxSandboxSecurityContext(seccomp_profile_path=old)).seccomp == expected


def test_the_newer_profile_wins() -> None:
    context = pb.LinuxContainerSecurityContext(
        seccomp_profile_path="unconfined", seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
    )
    assert security.decode_container(context).seccomp == SecurityProfile(ProfileType.RUNTIME_DEFAULT)


def changed(message: Any, path: str, value: Any) -> Any:
    """The message with one field at a dotted path set."""
    *parents, last = path.split(".")
    inner = message
    for name in parents:
        inner = getattr(inner, name)
    if isinstance(value, list):
        getattr(inner, last)[:] = value
    elif isinstance(value, str | int):
        setattr(inner, last, value)
    else:
        getattr(inner, last).CopyFrom(value)
    return message


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("metadata.name", "", "metadata.name"),
        ("metadata.uid", "", "metadata.uid"),
        ("metadata.namespace", "", "metadata.namespace"),
        ("hostname", "a\0b", "hostname"),
        ("dns_config.servers", ["\0"], "servers"),
        ("linux.cgroup_parent", "\0", "cgroup_parent"),
        ("linux.security_context.namespace_options.network", 9, "network"),
        ("linux.security_context.namespace_options.userns_options.mode", pb.CONTAINER, "userns_options"),
        ("linux.security_context.run_as_user", pb.Int64Value(value=-1), "run_as_user"),
        ("linux.security_context.run_as_group", pb.Int64Value(value=2**32 - 1), "run_as_group"),
        ("linux.security_context.supplemental_groups", [2**40], "supplemental group"),
        ("linux.security_context.supplemental_groups_policy", 5, "supplemental_groups_policy"),
        ("linux.security_context.seccomp", pb.SecurityProfile(profile_type=2), "Localhost"),  # type: ignore[arg-type]
        ("linux.security_context.apparmor.profile_type", 3, "apparmor"),
    ],
)
def test_bad_pods(path: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        pods.decode(changed(full_pod(), path, value))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("metadata.name", "", "metadata.name"),
        ("command", ["a\0"], "command"),
        ("stop_signal", 99, "stop_signal"),
        ("linux.security_context.seccomp_profile_path", "other", "none of"),
        ("linux.security_context.apparmor_profile", "localhost/", "Localhost"),
        ("linux.security_context.run_as_user", pb.Int64Value(value=2**32), "run_as_user"),
    ],
)
def test_bad_containers(path: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        containers.decode(changed(full_container(), path, value))


def test_absent_parts_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="metadata"):
        pods.decode(pb.PodSandboxConfig())
    with pytest.raises(InvalidRequest, match="metadata"):
        containers.decode(pb.ContainerConfig(image=pb.ImageSpec(image="x")))
    with pytest.raises(InvalidRequest, match="image"):
        containers.decode(pb.ContainerConfig(metadata=pb.ContainerMetadata(name="x")))


def test_groups_need_a_user() -> None:
    group = pb.Int64Value(value=1)
    with pytest.raises(InvalidRequest, match="run_as_user"):
        security.decode_pod(pb.LinuxSandboxSecurityContext(run_as_group=group))
    with pytest.raises(InvalidRequest, match="run_as_username"):
        security.decode_container(pb.LinuxContainerSecurityContext(run_as_group=group))
    named = pb.LinuxContainerSecurityContext(run_as_group=group, run_as_username="joe")
    assert security.decode_container(named).run_as_group == 1


def test_annotations_may_hold_anything() -> None:
    message = full_pod()
    message.annotations["k\0"] = "v\0"
    assert pods.decode(message).annotations["k\0"] == "v\0"


def test_ports() -> None:
    def port(host: int, container: int) -> pb.PodSandboxConfig:
        message = full_pod()
        message.port_mappings[0].host_port, message.port_mappings[0].container_port = host, container
        return message

    assert pods.decode(port(-5, 80)).port_mappings[0].host_port == 0
    for host, container in ((65536, 1), (1, 65536)):
        with pytest.raises(InvalidRequest, match="65535"):
            pods.decode(port(host, container))


@settings(max_examples=60, deadline=None)
@given(own.message("PodSandboxConfig"))
def test_any_pod_message_decodes_or_is_refused(message: pb.PodSandboxConfig) -> None:
    try:
        config = pods.decode(message)
    except InvalidRequest:
        return
    assert config.annotations == dict(message.annotations)
    assert config.labels == dict(message.labels)
    assert config.metadata.name == message.metadata.name


@settings(max_examples=60, deadline=None)
@given(own.message("ContainerConfig"))
def test_any_container_message_decodes_or_is_refused(message: pb.ContainerConfig) -> None:
    try:
        config = containers.decode(message)
    except InvalidRequest:
        return
    assert config.annotations == dict(message.annotations)
    assert config.envs == tuple((e.key, e.value) for e in message.envs)
    assert len(config.mounts) == len(message.mounts)


def test_filters() -> None:
    pod = pb.PodSandboxFilter(
        id="p", state=pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY), label_selector={"a": ""}
    )
    found = pods.decode_filter(pod)
    assert (found.id, found.state, found.labels) == ("p", PodState.NOTREADY, {"a": ""})
    assert pods.decode_filter(pb.PodSandboxFilter()).state is None
    container = pb.ContainerFilter(state=pb.ContainerStateValue(), pod_sandbox_id="q")
    wanted = containers.decode_filter(container)
    assert (wanted.pod_id, wanted.state) == ("q", ContainerState.CREATED)
    with pytest.raises(InvalidRequest):
        pods.decode_filter(pb.PodSandboxFilter(state=pb.PodSandboxStateValue(state=8)))  # type: ignore[arg-type]
    assert containers.decode_stats_filter(pb.ContainerStatsFilter(id="c")).id == "c"
    assert pods.decode_stats_filter(pb.PodSandboxStatsFilter(label_selector={"a": "b"})).labels == {"a": "b"}
    assert images.decode_filter(pb.ImageFilter()) is None
    assert images.decode_filter(pb.ImageFilter(image=pb.ImageSpec(image="x"))) == ImageSpec("x")


def test_credentials() -> None:
    assert images.decode_credentials(pb.AuthConfig()) is None
    message = pb.AuthConfig(
        username="u", password="p", auth="a", server_address="s", identity_token="i", registry_token="r"
    )
    assert images.decode_credentials(message) == Credentials("u", "p", "a", "s", "i", "r")


# --- answers


def test_pod_item_and_status() -> None:
    record = pod_record(requested_handler="kata")
    item, status = pods.encode(record), pods.encode_status(record)
    assert (
        item.metadata == status.metadata == pb.PodSandboxMetadata(name="web", uid="u-1", namespace="default", attempt=2)
    )
    assert dict(item.annotations) == dict(status.annotations) == {"a/b": "\x00ü"}
    assert item.state == status.state == pb.SANDBOX_READY
    assert (item.runtime_handler, status.runtime_handler) == ("kata", "kata")
    assert status.network.ip == "10.0.0.2"
    assert [a.ip for a in status.network.additional_ips] == ["fd00::2"]
    assert pods.encode(pod_record(ready=False)).state == pb.SANDBOX_NOTREADY


def test_a_network_without_address_is_not_shown() -> None:
    assert not pods.encode_status(pod_record(ips=())).HasField("network")
    host = PodSecurity(NamespaceOptions(network=NamespaceMode.NODE))
    status = pods.encode_status(pod_record(ips=(), config=dataclasses.replace(POD, security=host)))
    assert status.HasField("network")
    assert status.linux.namespaces.options.network == pb.NODE


def test_container_item_and_status() -> None:
    record = container_record(
        state=ContainerState.RUNNING,
        started_at=7,
        user=LinuxUser(1, 2, (3,)),
        resources=Resources(cpu_shares=9),
        stop_signal="SIGINT",
    )
    item, status = containers.encode(record), containers.encode_status(record)
    assert item.image.image == "sha256:abc"
    assert status.image.image == "docker.io/library/busybox:latest"
    assert status.image.user_specified_image == "busybox"
    assert dict(item.image.annotations) == dict(status.image.annotations) == {"k": "v"}
    assert item.image_id == status.image_id == "i" * 64
    assert item.image_ref == status.image_ref
    assert item.metadata == status.metadata == pb.ContainerMetadata(name="app", attempt=3)
    assert (status.started_at, status.finished_at, status.exit_code) == (7, 0, 0)
    assert list(status.user.linux.supplemental_groups) == [3]
    assert status.resources.linux.cpu_shares == 9
    assert status.stop_signal == pb.SIGNAL_SIGINT
    assert status.mounts[0].host_path == "/srv"
    assert status.log_path == record.log_path
    assert dict(item.annotations) == dict(status.annotations) == record.config.annotations


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exit_code": 0}, "Completed"),
        ({"exit_code": 3}, "Error"),
        ({"exit_code": -1}, "Error"),
        ({"exit_code": 137, "oom_killed": True}, "OOMKilled"),
        ({"exit_code": 159, "reason": "seccomp killed"}, "seccomp killed"),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str) -> None:
    status = containers.encode_status(container_record(state=ContainerState.EXITED, **changes))
    assert (status.reason, status.exit_code) == (reason, changes["exit_code"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SIGTERM", pb.SIGNAL_SIGTERM),
        ("term", pb.SIGNAL_SIGTERM),
        (str(int(signal.SIGQUIT)), pb.SIGNAL_SIGQUIT),
        ("SIGRTMIN+15", pb.SIGNAL_SIGRTMINPLUS15),
        (str(int(signal.SIGRTMIN) + 3), pb.SIGNAL_SIGRTMINPLUS3),
        (str(int(signal.SIGRTMAX) - 1), pb.SIGNAL_SIGRTMAXMINUS1),
        (str(int(signal.SIGRTMAX)), pb.SIGNAL_SIGRTMAX),
        ("SIGIOT", pb.SIGNAL_SIGABRT),
        ("", pb.SIGNAL_RUNTIME_DEFAULT),
        ("SIGWHAT", pb.SIGNAL_RUNTIME_DEFAULT),
        ("4711", pb.SIGNAL_RUNTIME_DEFAULT),
    ],
)
def test_signals_as_images_write_them(name: str, expected: int) -> None:
    assert signals.encode(name) == expected


@pytest.mark.parametrize(
    ("user", "uid", "name"),
    [
        ("1000:1000", 1000, ""),
        ("0", 0, ""),
        ("joe:grp", None, "joe"),
        ("", None, ""),
        ("99999999999", None, "99999999999"),
    ],
)
def test_image(user: str, uid: int | None, name: str) -> None:
    stored = StoredImage("i" * 64, ("a:1",), ("sha256:d",), "l", 42, 0, ImageConfig(user=user), annotations={"m": "n"})
    message = images.encode(
        ImageView(stored, ("a:1",), ("a@sha256:d",), True), ImageSpec("a", user_specified_image="a")
    )
    assert (message.id, list(message.repo_tags), list(message.repo_digests)) == ("i" * 64, ["a:1"], ["a@sha256:d"])
    assert (message.uid.value if message.HasField("uid") else None, message.username) == (uid, name)
    assert (message.size, message.pinned, message.spec.user_specified_image) == (42, True, "a")
    assert dict(message.spec.annotations) == {"m": "n"}


def test_disk_use() -> None:
    message = images.encode_disk_use(FsUsage(1, "/var/lib", 0, 3))
    assert (message.fs_id.mountpoint, message.used_bytes.value, message.inodes_used.value) == ("/var/lib", 0, 3)
    assert message.HasField("used_bytes")


CGROUP = CgroupStats(
    timestamp=9,
    cpu=CpuUsage(total=10, pressure=Pressure(some=PressureData(1, 0.5, 0.25, 0.125))),
    memory=MemoryUsage(usage=100, working_set=80, rss=50, page_faults=4, limit=200, swap_usage=5, swap_limit=50),
    io_pressure=Pressure(full=PressureData(2, 1.0, 1.0, 1.0)),
)


def test_container_stats() -> None:
    usage = ContainerUsage("c" * 64, CGROUP, None, FsUsage(9, "/x", 1, 2))
    message = stats.encode_container(ContainerStatsView(container_record(), usage))
    assert message.attributes.metadata.name == "app"
    assert message.cpu.usage_core_nano_seconds.value == 10
    assert not message.cpu.HasField("usage_nano_cores")
    assert (message.cpu.psi.Some.Total, message.cpu.psi.Some.Avg10) == (1, 0.5)
    assert not message.cpu.psi.HasField("Full")
    assert message.memory.available_bytes.value == 120
    assert (message.swap.swap_available_bytes.value, message.swap.swap_usage_bytes.value) == (45, 5)
    assert message.io.psi.Full.Total == 2
    assert message.writable_layer.fs_id.mountpoint == "/x"


def test_what_the_host_does_not_offer_is_absent() -> None:
    message = stats.encode_readings(ContainerUsage("c", CgroupStats(1, memory=MemoryUsage(1, 1, 1))))
    assert {field.name for field, _ in message.ListFields()} == {"memory"}
    assert not message.memory.HasField("available_bytes")
    assert not stats.encode_readings(ContainerUsage("c", None)).ListFields()


def test_pod_stats() -> None:
    links = (InterfaceStats("lo", 1), InterfaceStats("net1", 2), InterfaceStats("eth0", 3, tx_errors=4))
    usage = PodUsage("p" * 64, 77, CGROUP, 12, links, 6)
    view = PodStatsView(pod_record(), usage, (ContainerStatsView(container_record(), ContainerUsage("c", CGROUP)),))
    message = stats.encode_pod(view)
    assert message.attributes.id == "p" * 64
    assert message.linux.cpu.usage_nano_cores.value == 12
    assert message.linux.process.process_count.value == 6
    network = message.linux.network
    assert (network.default_interface.name, network.default_interface.tx_errors.value) == ("eth0", 4)
    assert [i.name for i in network.interfaces] == ["lo", "net1"]
    assert message.linux.containers[0].attributes.id == "c" * 64


@pytest.mark.parametrize(
    ("names", "chosen"), [(("lo", "ens1"), "ens1"), (("lo",), "lo"), (("a", "b"), "a"), (("b", "eth0"), "eth0")]
)
def test_default_interface(names: tuple[str, ...], chosen: str) -> None:
    usage = PodUsage("p", 77, None, network=tuple(InterfaceStats(n) for n in names))
    message = stats.encode_pod_readings(usage)
    assert message.linux.network.timestamp == 77  # also of a pod without cgroup
    assert message.linux.network.default_interface.name == chosen
    assert len(message.linux.network.interfaces) == len(names) - 1


def test_node_answers() -> None:
    version = node.encode_version(Identity("cri-o", "1.2.3"))
    assert (version.version, version.runtime_name, version.runtime_version) == ("0.1.0", "cri-o", "1.2.3")
    assert version.runtime_api_version == "v1"
    view = NodeStatusView(
        (Condition("RuntimeReady", True), Condition("NetworkReady", False, "NetworkPluginNotReady", "m")),
        (HandlerView("", True, False), HandlerView("runc", True, True)),
        {"config": {"a": [1]}, "text": "as it is"},
    )
    status = node.encode_status(view)
    assert [(c.type, c.status, c.reason, c.message) for c in status.status.conditions] == [
        ("RuntimeReady", True, "", ""),
        ("NetworkReady", False, "NetworkPluginNotReady", "m"),
    ]
    assert [(h.name, h.features.user_namespaces) for h in status.runtime_handlers] == [("", False), ("runc", True)]
    assert dict(status.info) == {"config": '{"a":[1]}', "text": "as it is"}
    assert status.features.supplemental_groups_policy
    assert node.encode_runtime_config("systemd").linux.cgroup_driver == pb.SYSTEMD
    assert node.encode_runtime_config("cgroupfs").HasField("linux")
    assert not node.encode_runtime_config("").HasField("linux")


def test_events_and_metrics() -> None:
    event = Event(EventType.STOPPED, "p" * 64, "c" * 64, 77)
    message = node.encode_event(EventView(event, pod_record(), (container_record(),)))
    assert (message.container_event_type, message.created_at) == (pb.CONTAINER_STOPPED_EVENT, 77)
    assert message.pod_sandbox_status.metadata.name == "web"
    assert message.containers_statuses[0].id == "c" * 64
    assert not node.encode_event(EventView(event, None)).HasField("pod_sandbox_status")
    descriptors = node.encode_descriptors([MetricDescriptor("m", "help", ("id",))])
    assert list(descriptors.descriptors[0].label_keys) == ["id"]
    sample = MetricSample("m", True, ("x",), 5, 6)
    metrics = node.encode_metrics(PodMetrics("p", (sample,), (ContainerMetrics("c", (sample,)),)))
    assert (metrics.metrics[0].metric_type, metrics.metrics[0].value.value) == (pb.COUNTER, 5)
    assert metrics.container_metrics[0].metrics[0].timestamp == 6


@given(st.integers(-5, 5))
def test_counters_are_never_negative(value: int) -> None:
    counter = common.maybe_uint(value)
    assert counter is not None
    assert counter.value == max(value, 0)
