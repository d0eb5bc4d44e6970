"""Requests that cannot be meant: ids, pod and container configs, image references. Each is answered by a status that
says whose fault it is; nothing is made, nothing else is touched."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.cri import SERVICES
from tests.system.conftest import Pushed
from tests.system.node import Node, linux, refused, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks", "others_untouched")]
Code = grpc.StatusCode
UNKNOWN = ["f" * 64, "0" * 64, "abc", "no-such-id", "../../../etc/passwd", "x" * 5000, "*", "ABCDEF", " ", "é", "a/b"]

# what a call answers to an id that nothing has
MISSING: dict[str, tuple[str, Code | None]] = {
    "PodSandboxStatus": ("pod_sandbox_id", Code.NOT_FOUND),
    "StopPodSandbox": ("pod_sandbox_id", None),
    "RemovePodSandbox": ("pod_sandbox_id", None),
    "PodSandboxStats": ("pod_sandbox_id", Code.NOT_FOUND),
    "UpdatePodSandboxResources": ("pod_sandbox_id", Code.NOT_FOUND),
    "StartContainer": ("container_id", Code.NOT_FOUND),
    "StopContainer": ("container_id", None),
    "RemoveContainer": ("container_id", None),
    "ContainerStatus": ("container_id", Code.NOT_FOUND),
    "ContainerStats": ("container_id", Code.NOT_FOUND),
    "UpdateContainerResources": ("container_id", Code.NOT_FOUND),
    "ReopenContainerLog": ("container_id", Code.NOT_FOUND),
    "CheckpointContainer": ("container_id", Code.NOT_FOUND),
    "ExecSync": ("container_id", Code.NOT_FOUND),
}


@pytest.mark.parametrize("call", MISSING)
def test_ids_of_nothing(node: Node, call: str) -> None:
    field, code = MISSING[call]
    more = {"cmd": ["true"]} if call == "ExecSync" else {}
    for ident in UNKNOWN:
        if code is None:  # taking down what is not there is done already
            getattr(node.cri, call)(**{field: ident})
        else:
            with refused(code):
                getattr(node.cri, call)(**{field: ident}, **more)


def test_empty_ids(node: Node) -> None:
    for call, (field, code) in MISSING.items():
        more = {"cmd": ["true"]} if call == "ExecSync" else {}
        with pytest.raises(grpc.RpcError) as failure:
            getattr(node.cri, call)(**{field: ""}, **more)
        assert failure.value.code() in (code or Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT)


def test_ambiguous_prefixes(node: Node) -> None:
    """Of seventeen ids two begin alike."""
    pod = node.pod()
    made = [node.create(pod, "true") for _ in range(17)]
    first = [m[0] for m in made]
    prefix = next(c for c in first if first.count(c) > 1)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("ContainerStatus", {}),
        ("StopContainer", {}),
        ("RemoveContainer", {}),
        ("StartContainer", {}),
        ("ExecSync", {"cmd": ["true"]}),
    ]
    for call, more in calls:
        with refused(Code.NOT_FOUND, "ambiguous"):
            getattr(node.cri, call)(container_id=prefix, **more)
    assert not node.cri.ListContainers(filter={"id": prefix}).containers
    assert len(node.cri.ListContainers(filter={"pod_sandbox_id": pod}).containers) == 17


def test_bytes_that_are_no_request(node: Node) -> None:
    for name, service in SERVICES.items():
        call = node.cri.channel.unary_unary(f"/runtime.v1.{service}/{name}")
        if pb.DESCRIPTOR.services_by_name[service].methods_by_name[name].server_streaming:
            continue
        with refused(Code.INVALID_ARGUMENT):
            call(b"\xff\xff\xff\xff\x01garbage", timeout=20)
    with refused(Code.UNIMPLEMENTED):
        node.cri.channel.unary_unary("/runtime.v1.RuntimeService/NoSuchCall")(b"", timeout=20)


# --- pods -------------------------------------------------------------------------------------------------------------


def pod_metadata(**changes: Any) -> Any:
    return pb.PodSandboxMetadata(**{"name": "n", "uid": "u", "namespace": "s", **changes})


BAD_PODS: dict[str, Any] = {
    "nothing": pb.PodSandboxConfig(),
    "no name": pb.PodSandboxConfig(metadata=pod_metadata(name="")),
    "no uid": pb.PodSandboxConfig(metadata=pod_metadata(uid="")),
    "no namespace": pb.PodSandboxConfig(metadata=pod_metadata(namespace="")),
    "slash in name": pb.PodSandboxConfig(metadata=pod_metadata(name="../../x")),
    "nul in namespace": pb.PodSandboxConfig(metadata=pod_metadata(namespace="a\0b")),
    "long label": pb.PodSandboxConfig(metadata=pod_metadata(), labels={"a": "x" * 5000}),
    "relative log directory": pb.PodSandboxConfig(metadata=pod_metadata(), log_directory="a/b"),
    "port": pb.PodSandboxConfig(metadata=pod_metadata(), port_mappings=[pb.PortMapping(host_port=70000)]),
    "protocol": pb.PodSandboxConfig(
        metadata=pod_metadata(), port_mappings=[pb.PortMapping(host_port=80, container_port=80, protocol=9)]
    ),
    "network mode": pb.PodSandboxConfig(
        metadata=pod_metadata(),
        linux=pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(network=17))
        ),
    ),
    "group without user": pb.PodSandboxConfig(
        metadata=pod_metadata(), linux=linux(run_as_group=pb.Int64Value(value=5))
    ),
    "parent": pb.PodSandboxConfig(metadata=pod_metadata(), linux=linux(cgroup_parent="/a/../../b")),
    "line break in dns": pb.PodSandboxConfig(metadata=pod_metadata(), dns_config=pb.DNSConfig(servers=["1\n2"])),
    "id map": pb.PodSandboxConfig(
        metadata=pod_metadata(),
        linux=linux(userns=pb.UserNamespace(mode=pb.POD, uids=[pb.IDMapping(length=0)], gids=[pb.IDMapping(length=0)])),
    ),
}


@pytest.mark.parametrize("what", BAD_PODS)
def test_pod_configs(node: Node, what: str) -> None:
    with refused(Code.INVALID_ARGUMENT):
        node.cri.RunPodSandbox(config=BAD_PODS[what])


def test_unknown_runtime_handler(node: Node) -> None:
    with refused(Code.INVALID_ARGUMENT, "no-such-handler", "runc"):
        node.pod(handler="no-such-handler")


def test_bad_hostname_names_what_is_wrong(node: Node) -> None:
    with refused(Code.INVALID_ARGUMENT, "hostname"):
        node.pod(hostname="x" * 70)


# --- containers -------------------------------------------------------------------------------------------------------


def changed(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "metadata": pb.ContainerMetadata(name="c"),
        "image": pb.ImageSpec(image="IMAGE"),
        "command": ["true"],
        "log_path": "c.log",
        **changes,
    }
    return pb.ContainerConfig(**{k: v for k, v in values.items() if v is not None})


BAD_CONTAINERS: dict[str, tuple[Any, Code]] = {
    "no metadata": (changed(metadata=None), Code.INVALID_ARGUMENT),
    "no name": (changed(metadata=pb.ContainerMetadata()), Code.INVALID_ARGUMENT),
    "slash in name": (changed(metadata=pb.ContainerMetadata(name="../x")), Code.INVALID_ARGUMENT),
    "no image": (changed(image=None), Code.INVALID_ARGUMENT),
    "malformed image": (changed(image=pb.ImageSpec(image="NOT AN IMAGE")), Code.INVALID_ARGUMENT),
    "unknown image": (changed(image=pb.ImageSpec(image="127.0.0.1:1/none:1")), Code.NOT_FOUND),
    "unknown image id": (changed(image=pb.ImageSpec(image="e" * 64)), Code.NOT_FOUND),
    "log path up": (changed(log_path="../../etc/x.log"), Code.INVALID_ARGUMENT),
    "log path absolute": (changed(log_path="/etc/x.log"), Code.INVALID_ARGUMENT),
    "long label": (changed(labels={"a": "x" * 5000}), Code.INVALID_ARGUMENT),
    "nul in argument": (changed(command=["a\0b"]), Code.INVALID_ARGUMENT),
    "nul in environment": (changed(envs=[pb.KeyValue(key="A", value=b"x\0y")]), Code.INVALID_ARGUMENT),
    "equals in key": (changed(envs=[pb.KeyValue(key="A=B", value=b"x")]), Code.INVALID_ARGUMENT),
    "newline in HOME": (changed(envs=[pb.KeyValue(key="HOME", value=b"/a\n/b")]), Code.INVALID_ARGUMENT),
    "user": (changed(linux=secured(run_as_user=pb.Int64Value(value=1 << 40))), Code.INVALID_ARGUMENT),
    "pid mode": (
        changed(
            linux=pb.LinuxContainerConfig(
                security_context=pb.LinuxContainerSecurityContext(namespace_options=pb.NamespaceOption(pid=42))
            )
        ),
        Code.INVALID_ARGUMENT,
    ),
    "propagation": (
        changed(mounts=[pb.Mount(container_path="/x", host_path="/tmp", propagation=77)]),
        Code.INVALID_ARGUMENT,
    ),
    "stop signal": (changed(stop_signal=4711), Code.INVALID_ARGUMENT),
    "device access": (
        changed(devices=[pb.Device(host_path="/dev/null", container_path="/dev/x", permissions="q")]),
        Code.INVALID_ARGUMENT,
    ),
    "cdi device": (changed(CDI_devices=[pb.CDIDevice(name="no.such/device=0")]), Code.NOT_FOUND),
}


@pytest.mark.parametrize("what", BAD_CONTAINERS)
def test_container_configs(node: Node, images: Pushed, what: str) -> None:
    config, code = BAD_CONTAINERS[what]
    config = pb.ContainerConfig.FromString(config.SerializeToString())
    if config.image.image == "IMAGE":
        config.image.image = images.busy
    pod = node.pod()
    with refused(code):
        node.cri.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=node.config_of(pod))
    assert not node.cri.ListContainers(filter={"pod_sandbox_id": pod}).containers


def test_containers_in_no_pod(node: Node) -> None:
    for ident in UNKNOWN[:3]:
        with refused(Code.NOT_FOUND, "sandbox"):
            node.cri.CreateContainer(
                pod_sandbox_id=ident, config=changed(), sandbox_config=pb.PodSandboxConfig(metadata=pod_metadata())
            )


# --- images -----------------------------------------------------------------------------------------------------------


REFERENCES = [
    "UPPER/Case:1",
    "a b",
    ":tag",
    "x@sha256:1234",
    "host/",
    "-a/b",
    "a//b",
    "a:b:c",
    "x" * 300,
    "\x07",
    "a@b",
]


@pytest.mark.parametrize("name", ["", *REFERENCES])
def test_malformed_references(node: Node, name: str) -> None:
    for call in (node.cri.PullImage, node.cri.ImageStatus, node.cri.RemoveImage):
        with refused(Code.INVALID_ARGUMENT):
            call(image={"image": name})
    if name:
        assert not node.cri.ListImages(filter={"image": {"image": name}}).images


def test_images_that_are_not_there(node: Node, images: Pushed) -> None:
    address = images.registry.address
    for name in (
        f"{address}/sys/busy:no-such-tag",
        f"{address}/no/such/repository:1",
        f"{address}/sys/busy@sha256:{'0' * 64}",
    ):
        with refused(Code.NOT_FOUND, name.partition("/")[2].partition(":")[0].partition("@")[0]):
            node.cri.PullImage(image={"image": name})
        assert not node.cri.ImageStatus(image={"image": name}).HasField("image")
        node.cri.RemoveImage(image={"image": name})
    with refused(Code.UNKNOWN, "RegistryUnavailable: "):
        node.cri.PullImage(image={"image": "127.0.0.1:1/not/there:1"})
