"""What a container gets, on real runc: process, user, mounts, limits, security, devices, terminal and input."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.fixtures_registry import push_image
from tests.isolation import Isolation, mount, short_directory, unmount
from tests.system.conftest import Pushed, end_node, make_node, system_layer
from tests.system.node import Node, eventually, linux, refused, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode
DROP_IN = """
[crio.runtime]
default_ulimits = ["nofile=512:1024", "core=0:0"]
pids_limit = 123
absent_mount_sources_to_reject = ["/no/such/source"]
default_env = ["NODE=env"]
[crio.runtime.runtimes.plain]
runtime_path = "{plain}"
"""
_SHARED = 0x100000


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    plain = pathlib.Path(short_directory(), "plain-runc")
    plain.write_text('#!/bin/sh\n[ "$1" != features ] || exit 1\nexec runc "$@"\n')  # a runtime of few features
    plain.chmod(0o755)
    node = make_node(images, isolation, drop_in=DROP_IN.format(plain=plain))
    yield node
    end_node(node)
    shutil.rmtree(plain.parent)


@pytest.fixture
def pod(node: Node) -> str:
    return node.pod()


def ids(value: int | None) -> Any:
    return None if value is None else pb.Int64Value(value=value)


# --- process ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        ((), (), "entry cmd\n"),
        ((), ("a", "b c"), "entry a b c\n"),
        (("echo", "mine"), (), "mine\n"),
        (("echo", "mine"), ("too",), "mine too\n"),
    ],
)
def test_command(
    node: Node, images: Pushed, pod: str, command: tuple[str, ...], args: tuple[str, ...], said: str
) -> None:
    assert node.run(pod, *command, args=args, image=images.app) == (0, said)


@pytest.mark.effect("crio.runtime.default_env")
def test_environment(node: Node, images: Pushed) -> None:
    pod = node.pod(hostname="envy")
    envs = [pb.KeyValue(key="FROM", value=b"request"), pb.KeyValue(key="NEW", value=b"a=b c")]
    said = node.sh(pod, "env", image=images.app, envs=envs).splitlines()
    wanted = {"FROM=request", "ONLY=image", "NEW=a=b c", "PATH=/bin", "HOSTNAME=envy", "NODE=env"}
    assert wanted <= set(said)
    assert "container=" not in "\n".join(said)


def test_working_directory(node: Node, images: Pushed, pod: str) -> None:
    assert node.sh(pod, "pwd") == "/\n"
    assert node.sh(pod, "pwd", image=images.app) == "/srv/work\n"
    assert node.sh(pod, "pwd", image=images.app, working_dir="/tmp/a/b") == "/tmp/a/b\n"


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({}, "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)"),
        ({"run_as_user": ids(0)}, "uid=0(root) gid=0(root) groups=0(root)"),
        ({"run_as_user": pb.Int64Value()}, "uid=0(root) gid=0(root) groups=0(root)"),
        ({"run_as_username": "root"}, "uid=0(root) gid=0(root) groups=0(root)"),
        ({"run_as_user": ids(1000), "run_as_group": ids(7)}, "uid=1000(user) gid=7 groups=7,2000(extra)"),
        ({"supplemental_groups": [5000]}, "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra),5000"),
        (
            {"supplemental_groups": [5], "supplemental_groups_policy": 1},
            "uid=1000(user) gid=1000(user) groups=5,1000(user)",
        ),
        ({"run_as_user": ids(4321)}, "uid=4321 gid=0(root) groups=0(root)"),
    ],
)
def test_user(node: Node, images: Pushed, pod: str, user: dict[str, Any], said: str) -> None:
    ctr = node.start(pod, "sh", "-c", "id; cat /etc/passwd", image=images.app, linux=secured(**user))
    node.ended(ctr)
    line, *passwd = node.output(ctr).splitlines()

    def parts(text: str) -> tuple[list[str], set[str]]:
        *who, groups = text.replace("(default)", "").split()
        return who, set(groups.removeprefix("groups=").split(","))

    plain = line.replace("7(7)", "7").replace("5(5)", "5").replace("5000(5000)", "5000")
    assert parts(plain) == parts(said)
    who = node.status(ctr).user.linux
    assert f"uid={who.uid}" in said
    assert {str(g) for g in who.supplemental_groups} == {g.partition("(")[0] for g in parts(said)[1]}
    assert any(entry.split(":")[2] == str(who.uid) for entry in passwd)  # also the one that the image lacks


def test_user_that_cannot_be(node: Node, images: Pushed, pod: str) -> None:
    for user in ({"run_as_username": "nobody-here"}, {"run_as_group": ids(5)}, {"run_as_user": ids(-3)}):
        with refused(Code.INVALID_ARGUMENT):
            node.create(pod, "id", image=images.app, linux=secured(**user))


def test_no_command_at_all(node: Node, images: Pushed, pod: str) -> None:
    push_image(images.registry, "sys/mute:1", [system_layer()], config={})
    name = f"{images.registry.address}/sys/mute:1"
    node.cri.PullImage(image={"image": name})
    with refused(Code.INVALID_ARGUMENT, "no command"):
        node.create(pod, image=name)
    node.cri.RemoveImage(image={"image": name})


def test_image_by_id_and_what_the_status_says(node: Node, images: Pushed, pod: str) -> None:
    found = node.cri.ImageStatus(image={"image": images.busy}).image
    labels, annotations = {"a": "b"}, {"restart": "1", "x": '{"é": 1}'}
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="facts", attempt=2),
        image=pb.ImageSpec(image=found.id, user_specified_image=images.busy),
        command=["true"],
        labels=labels,
        annotations=annotations,
        log_path="facts/2.log",
    )
    request = {"pod_sandbox_id": pod, "config": config, "sandbox_config": node.config_of(pod)}
    ctr = node.cri.CreateContainer(**request).container_id
    assert node.cri.CreateContainer(**request).container_id == ctr  # the same request again
    status = node.status(ctr)
    assert (status.id, status.state, status.metadata.name, status.metadata.attempt) == (ctr, 0, "facts", 2)
    assert status.image.image == images.busy
    assert status.image.user_specified_image == images.busy
    assert status.image_id == found.id
    assert status.image_ref in found.repo_digests
    assert status.created_at > 0 == status.started_at == status.finished_at
    assert (dict(status.labels), dict(status.annotations)) == (labels, annotations)
    assert status.log_path.endswith("/facts/2.log")
    node.cri.StartContainer(container_id=ctr)
    status = node.ended(ctr)
    assert status.created_at <= status.started_at <= status.finished_at
    assert (status.exit_code, status.reason) == (0, "Completed")
    listed = node.cri.ListContainers(filter={"id": ctr}).containers[0]
    assert (listed.image.image, listed.image_id, listed.image_ref) == (found.id, found.id, status.image_ref)
    assert (dict(listed.labels), dict(listed.annotations)) == (labels, annotations)
    assert listed.pod_sandbox_id == pod


# --- mounts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(node: Node) -> Iterator[pathlib.Path]:
    """A shared mount on the node, as kubelet's directories are."""
    path = pathlib.Path(node.dir, "source")
    path.mkdir()
    mount("tmpfs", path, "tmpfs")
    mount("none", path, flags=_SHARED)
    (path / "file").write_text("on the node\n")
    (path / "sub").mkdir()
    yield path
    with contextlib.suppress(OSError):
        unmount(path / "sub")
    unmount(path)
    path.rmdir()


def test_bind_mounts(node: Node, pod: str, source: pathlib.Path) -> None:
    (source / "link").symlink_to("sub")
    mounts = [
        pb.Mount(container_path="/srv/rw", host_path=str(source)),
        pb.Mount(container_path="/srv/ro", host_path=str(source), readonly=True),
        pb.Mount(container_path="/etc/hosts", host_path=str(source / "file")),
        pb.Mount(container_path="/deep/down/here", host_path=str(source / "link")),
        pb.Mount(container_path="/srv/made", host_path=str(source / "not" / "yet")),
    ]
    script = """
    cat /srv/ro/file /etc/hosts; echo more >/srv/rw/new; touch /srv/ro/x 2>&1; touch /deep/down/here/linked /srv/made/x
    """
    ctr = node.start(pod, "sh", "-c", script, mounts=mounts)
    node.ended(ctr)
    assert node.output(ctr) == "on the node\n" * 2 + "touch: /srv/ro/x: Read-only file system\n"
    assert (source / "new").read_text() == "more\n"
    assert (source / "sub" / "linked").exists()
    assert (source / "not" / "yet" / "x").exists()
    shown = {m.container_path: m for m in node.status(ctr).mounts}
    assert shown["/srv/ro"].readonly
    assert shown["/srv/ro"].host_path == str(source)
    assert len(shown) == len(mounts)


def test_mount_propagation(node: Node, source: pathlib.Path) -> None:
    pod = node.pod(linux=linux(privileged=True))
    places = {"/private": 0, "/slave": 1, "/shared": 2}
    mounts = [pb.Mount(container_path=p, host_path=str(source), propagation=k) for p, k in places.items()]
    ctr = node.start(pod, "sleep", "1000", mounts=mounts, linux=secured(privileged=True))
    mount("tmpfs", source / "sub", "tmpfs")
    (source / "sub" / "late").touch()
    seen = bytes(node.exec(ctr, "sh", "-c", "ls -d /*/sub/late").stdout).decode().split()
    assert seen == ["/shared/sub/late", "/slave/sub/late"]
    unmount(source / "sub")
    node.exec(ctr, "sh", "-c", "mount -t tmpfs none /shared/sub && touch /shared/sub/inside")
    assert (source / "sub" / "inside").exists()
    unmount(source / "sub")


def test_mounts_that_cannot_be(node: Node, pod: str, source: pathlib.Path) -> None:
    alone = pathlib.Path(node.dir, "alone")
    alone.mkdir()
    faults = [
        ({"host_path": str(source)}, "ContainerPath"),
        ({"container_path": "/x"}, "HostPath"),
        ({"container_path": "/x", "host_path": "/no/such/source"}, "does not exist"),
        ({"container_path": "/x", "host_path": str(alone), "propagation": 2}, "shared"),
        ({"container_path": "/x", "host_path": str(alone), "propagation": 1}, "slave"),
        ({"container_path": "/x", "host_path": str(source), "recursive_read_only": True}, "readonly"),
        (
            {
                "container_path": "/x",
                "host_path": str(source),
                "uidMappings": [pb.IDMapping(length=1)],
                "gidMappings": [pb.IDMapping(length=1)],
            },
            "runtime does not support",
        ),
        ({"container_path": "/x", "host_path": "/etc/passwd/below"}, "mkdir"),
    ]
    for fields, words in faults:
        with refused(Code.INVALID_ARGUMENT, words):
            node.create(pod, "true", mounts=[pb.Mount(**fields)])
    alone.rmdir()


def test_recursive_read_only(node: Node, pod: str, source: pathlib.Path) -> None:
    mount("tmpfs", source / "sub", "tmpfs")
    plain = pb.Mount(container_path="/plain", host_path=str(source), readonly=True)
    full = pb.Mount(container_path="/full", host_path=str(source), readonly=True, recursive_read_only=True)
    said = node.sh(pod, "touch /plain/sub/x && echo yes; touch /full/sub/y || true", mounts=[plain, full])
    assert said == "yes\ntouch: /full/sub/y: Read-only file system\n"
    features = {h.name: h.features.recursive_read_only_mounts for h in node.cri.Status().runtime_handlers}
    assert features.items() >= {"": True, "runc": True, "plain": False}.items()
    with refused(Code.INVALID_ARGUMENT, "runtime does not support"):
        node.create(node.pod(handler="plain"), "true", mounts=[full])


def test_read_only_root(node: Node, pod: str) -> None:
    script = "touch /x; touch /etc/hostname; echo >/etc/resolv.conf; touch /dev/shm/ok && echo shm"
    ctr = node.start(pod, "sh", "-c", script, linux=secured(readonly_rootfs=True))
    node.ended(ctr)
    assert node.output(ctr).count("Read-only file system") == 3
    assert "shm\n" in node.output(ctr)  # nothing orders the two streams


@pytest.mark.parametrize("mode", ["mkdir", "bind", "ignore"])
@pytest.mark.effect("crio.image.image_volumes")
def test_volumes_of_the_image(node: Node, images: Pushed, mode: str) -> None:
    with node.configured(f'[crio.image]\nimage_volumes = "{mode}"\n'):
        pod = node.pod()
        code, said = node.run(
            pod, "sh", "-c", "stat -c '%F %u' /volume; grep -c ' /volume ' /proc/mounts", image=images.app
        )
        node.remove_pod(pod)
    wanted = {"mkdir": "directory 1000\n0\n", "bind": "directory 1000\n1\n"}
    assert said == wanted.get(mode, "stat: can't stat '/volume': No such file or directory\n0\n")
    assert code == (0 if mode == "bind" else 1)


def test_image_mounts(node: Node, images: Pushed, pod: str) -> None:
    found = node.cri.ImageStatus(image={"image": images.app}).image

    def volume(path: str, **more: Any) -> Any:
        more.setdefault("image", pb.ImageSpec(image=images.app))
        return pb.Mount(container_path=path, readonly=True, **more)

    mounts = [
        volume("/mnt/all"),
        volume("/mnt/part", image_sub_path="srv"),
        volume("/mnt/etc", image_sub_path="../../../../etc"),  # stays within the image
        volume("/mnt/idle", mount_options=["noexec"]),
    ]
    script = "cat /mnt/all/srv/app /mnt/part/app; ls /mnt/etc; touch /mnt/all/x; exec /mnt/all/bin/sleep 1000"
    ctr = node.start(pod, "sh", "-c", script, mounts=mounts)
    node.wait_log(ctr, "Read-only file system")
    assert node.output(ctr).startswith("app\napp\ngroup\npasswd\n")
    assert {m.image.image_ref for m in node.status(ctr).mounts} == {found.id}
    assert b"Permission denied" in bytes(node.exec(ctr, "sh", "-c", "/mnt/idle/bin/sleep 0").stderr)
    with refused(Code.FAILED_PRECONDITION, "in use", ctr):
        node.cri.RemoveImage(image={"image": images.app})
    with refused(Code.INVALID_ARGUMENT, "'bind'"):
        node.create(pod, "true", mounts=[volume("/x", mount_options=["bind"])])
    faults = [
        volume("/x", image=pb.ImageSpec(image="127.0.0.1/not/there:1")),
        volume("/x", image_sub_path="not/there"),
    ]
    for fault in faults:
        with refused(Code.UNKNOWN, "ImageVolumeMountFailed: "):
            node.create(pod, "true", mounts=[fault])
    for fault in (
        volume("/x", host_path="/tmp"),
        pb.Mount(container_path="/x", image=pb.ImageSpec(image=images.app)),
    ):
        with refused(Code.INVALID_ARGUMENT, images.app if not fault.host_path else "host path"):
            node.create(pod, "true", mounts=[fault])


# --- limits -----------------------------------------------------------------------------------------------------------


def test_limits_on_the_cgroup_and_their_update(node: Node, pod: str) -> None:
    resources = pb.LinuxContainerResources(
        cpu_period=100_000,
        cpu_quota=50_000,
        cpu_shares=512,
        memory_limit_in_bytes=64 << 20,
        memory_swap_limit_in_bytes=64 << 20,
        oom_score_adj=500,
        cpuset_cpus="0",
        hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=0), pb.HugepageLimit(page_size="1GB", limit=0)],
    )
    ctr = node.start(pod, "sleep", "1000", linux=secured(resources=resources))
    wanted = {"memory.max": 64 << 20, "pids.max": 123, "cpuset.cpus": 0, "cpu.quota": 50_000, "cpu.period": 100_000}
    assert {k: node.limit(ctr, k) for k in wanted} == {k: str(v) for k, v in wanted.items()}
    if not node.isolation.unified:
        assert node.limit(ctr, "cpu.shares") == "512"
    assert pathlib.Path(f"/proc/{node.pid_of(ctr)}/oom_score_adj").read_text().strip() == "500"
    shown = node.status(ctr).resources.linux
    assert (shown.memory_limit_in_bytes, shown.cpu_quota, shown.oom_score_adj) == (64 << 20, 50_000, 500)
    update = pb.LinuxContainerResources(memory_limit_in_bytes=96 << 20, cpu_quota=70_000, cpu_period=100_000)
    node.cri.UpdateContainerResources(container_id=ctr, linux=update)
    assert node.limit(ctr, "memory.max") == str(96 << 20)
    assert node.limit(ctr, "cpu.quota") == "70000"
    shown = node.status(ctr).resources.linux
    assert (shown.memory_limit_in_bytes, shown.cpu_quota, shown.cpu_shares) == (96 << 20, 70_000, 512)
    for amount in (1 << 10, -5):
        with refused(Code.INVALID_ARGUMENT, "memory limit"):
            node.cri.UpdateContainerResources(container_id=ctr, linux={"memory_limit_in_bytes": amount})
    assert node.limit(ctr, "memory.max") == str(96 << 20)
    node.cri.StopContainer(container_id=ctr, timeout=0)
    with refused(Code.FAILED_PRECONDITION):
        node.cri.UpdateContainerResources(container_id=ctr, linux=update)
    with refused(Code.NOT_FOUND):
        node.cri.UpdateContainerResources(container_id="f" * 64, linux=update)


def test_limits_that_no_process_could_live_with(node: Node, pod: str) -> None:
    for resources, words in (
        ({"memory_limit_in_bytes": 4096}, "too low"),
        ({"memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 32 << 20}, "swap"),
    ):
        with refused(Code.INVALID_ARGUMENT, words):
            node.create(pod, "true", linux=secured(resources=pb.LinuxContainerResources(**resources)))


@pytest.mark.effect("crio.runtime.default_ulimits", "crio.runtime.pids_limit")
def test_process_limits(node: Node, pod: str) -> None:
    assert node.sh(pod, "ulimit -Sn; ulimit -Hn; ulimit -c").split() == ["512", "1024", "0"]


# --- security ---------------------------------------------------------------------------------------------------------


def capabilities(node: Node, pod: str, **security: Any) -> set[int]:
    text = node.sh(pod, "grep CapEff /proc/self/status", linux=secured(**security))
    bits = int(text.split()[1], 16)
    return {n for n in range(64) if bits >> n & 1}


def own_bounding_set() -> set[int]:
    text = pathlib.Path("/proc/self/status").read_text()
    bits = int(text.partition("CapBnd:")[2].split()[0], 16)
    return {n for n in range(64) if bits >> n & 1}


def test_capabilities(node: Node) -> None:
    pod = node.pod(linux=linux(privileged=True))
    default = {0, 1, 3, 4, 5, 6, 7, 8, 10}
    assert capabilities(node, pod) == default
    change = pb.Capability(add_capabilities=["NET_ADMIN", "cap_sys_ptrace"], drop_capabilities=["KILL"])
    assert capabilities(node, pod, capabilities=change) == (default - {5}) | {12, 19}
    only = pb.Capability(add_capabilities=["CHOWN"], drop_capabilities=["ALL"])
    assert capabilities(node, pod, capabilities=only) == {0}
    everything = own_bounding_set()
    assert capabilities(node, pod, privileged=True) == everything
    assert capabilities(node, pod, capabilities=pb.Capability(add_capabilities=["ALL"])) == everything
    for bad in (pb.Capability(add_capabilities=["NO_SUCH"]), pb.Capability(drop_capabilities=["NO_SUCH"])):
        with refused(Code.INVALID_ARGUMENT, "NO_SUCH"):
            node.create(pod, "true", linux=secured(capabilities=bad))


def test_privileged_needs_a_privileged_pod(node: Node, pod: str) -> None:
    with refused(Code.INVALID_ARGUMENT, "no privileged container allowed"):
        node.create(pod, "true", linux=secured(privileged=True))
    privileged = node.pod(linux=linux(privileged=True))
    said = node.sh(privileged, "ls /dev; grep ' /sys ' /proc/mounts", linux=secured(privileged=True))
    assert {"kmsg", "null"} <= set(said.split())
    assert "rw" in said.splitlines()[-1]


def test_masked_and_read_only_paths(node: Node, pod: str) -> None:
    masked = secured(masked_paths=["/proc/version", "/tmp"], readonly_paths=["/proc/sys"])
    script = """
    cat /proc/version /proc/kcore; ls /tmp /sys/firmware; echo 1 >/proc/sys/kernel/domainname; echo done
    """
    said = node.sh(pod, script, linux=masked)
    assert "done" in said.splitlines()  # in no order: the complaints came through another pipe
    assert "Linux" not in said
    assert "Read-only file system" in said
    assert "Linux version" in node.sh(pod, "cat /proc/version")


def test_seccomp(node: Node, pod: str) -> None:
    script = "grep ^Seccomp: /proc/self/status; mkdir /tmp/x && echo made; unshare -U true && echo unshared"
    profile = pathlib.Path(node.dir, "deny-mkdir.json")
    rule = '{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}'
    profile.write_text(f'{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}')
    kinds = pb.SecurityProfile.ProfileType

    def run(**security: Any) -> str:
        ctr = node.start(pod, "sh", "-c", script, linux=secured(**security))
        node.ended(ctr)
        return node.output(ctr)

    for open_ in ({}, {"seccomp": pb.SecurityProfile(profile_type=kinds.Unconfined)}):
        assert run(**open_).splitlines() == ["Seccomp:\t0", "made", "unshared"]
    default = run(seccomp=pb.SecurityProfile(profile_type=kinds.RuntimeDefault))
    assert default.splitlines()[:2] == ["Seccomp:\t2", "made"]
    assert "unshared" not in default
    local = pb.SecurityProfile(profile_type=kinds.Localhost, localhost_ref=str(profile))
    denied = run(seccomp=local)
    assert denied.startswith("Seccomp:\t2\n")
    assert "made" not in denied
    assert "unshared" in denied
    for text in (None, "not json", '{"defaultAction":"NO"}'):
        bad = pathlib.Path(node.dir, "bad.json")
        if text is not None:
            bad.write_text(text)
        with refused(Code.INVALID_ARGUMENT if text else Code.NOT_FOUND, str(bad)):
            gone = pb.SecurityProfile(profile_type=kinds.Localhost, localhost_ref=str(bad))
            node.create(pod, "true", linux=secured(seccomp=gone))


def test_no_new_privileges(node: Node, pod: str) -> None:
    look = "grep NoNewPrivs /proc/self/status"
    assert node.sh(pod, look).split()[1] == "0"
    assert node.sh(pod, look, linux=secured(no_new_privs=True)).split()[1] == "1"


def test_devices(node: Node, pod: str) -> None:
    devices = [
        pb.Device(host_path="/dev/loop-control", container_path="/dev/mine", permissions="r"),
        pb.Device(host_path="/dev/full", container_path="/dev/more", permissions="rwm"),
    ]
    script = "test -c /dev/mine && : </dev/mine && echo read; echo x >/dev/mine; echo x >/dev/more"
    ctr = node.start(pod, "sh", "-c", script, devices=devices)
    node.ended(ctr)
    said = node.output(ctr)
    assert said.startswith("read\n")
    assert "/dev/mine: Operation not permitted" in said
    assert "No space left on device" in said
    privileged = node.pod(linux=linux(privileged=True))
    given = pb.Device(host_path="/dev/full", container_path="/dev/null")
    with refused(Code.INVALID_ARGUMENT, "/dev/full", "/dev/null", "exists on the host"):
        node.create(privileged, "true", devices=[given], linux=secured(privileged=True))
    given.container_path = given.host_path
    assert node.run(privileged, "test", "-c", "/dev/full", devices=[given], linux=secured(privileged=True))[0] == 0
    with refused(Code.NOT_FOUND, "/dev/not-there"):
        node.create(pod, "true", devices=[pb.Device(host_path="/dev/not-there", container_path="/dev/x")])


@pytest.mark.effect("crio.runtime.device_ownership_from_security_context", "crio.runtime.additional_devices")
def test_devices_of_who_runs(node: Node) -> None:
    """What a request asks for belongs to the user and group that it names, as far as it names them."""
    devices = [pb.Device(host_path="/dev/full", container_path="/dev/asked", permissions="rw")]
    places = "stat -c %u:%g /dev/asked /dev/configured"
    with node.configured(
        "[crio.runtime]\ndevice_ownership_from_security_context = true\n"
        'additional_devices = ["/dev/zero:/dev/configured:r"]\n'
    ):
        pod = node.pod()
        for security, owner in (
            ({}, "0:0"),
            ({"run_as_user": ids(1234)}, "1234:0"),
            ({"run_as_user": ids(1234), "run_as_group": ids(77)}, "1234:77"),
        ):
            assert node.sh(pod, places, devices=devices, linux=secured(**security)).split() == [owner, "0:0"]
        node.remove_pod(pod)


# --- terminal and input -----------------------------------------------------------------------------------------------


def test_terminal(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sh", "-c", "tty; echo $TERM; echo err >&2; test -c /dev/console && echo console", tty=True)
    node.ended(ctr)
    lines = node.log(ctr)
    assert {line.stream for line in lines} == {"stdout"}
    assert [line.text.rstrip("\r") for line in lines] == ["/dev/pts/0", "xterm", "err", "console"]


def attach(node: Node, ctr: str) -> socket.socket:
    """The socket on which a monitor serves its container's stdio."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(20)
    client.connect(f"{node.dir}/attach/{ctr}/attach")
    return client


def test_input_once(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sh", "-c", "cat; echo end", stdin=True, stdin_once=True)
    with attach(node, ctr) as client:
        client.send(b"to the first\n")
        assert client.recv(100).endswith(b"to the first\n")
    assert node.ended(ctr).exit_code == 0
    assert node.output(ctr) == "to the first\nend\n"


def test_input_stays_open(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sh", "-c", "while read x; do echo got $x; done", stdin=True)
    for word in ("one", "two"):
        with attach(node, ctr) as client:
            client.send(f"{word}\n".encode())
            assert client.recv(100).endswith(f"got {word}\n".encode())
    assert node.status(ctr).state == pb.CONTAINER_RUNNING


def test_no_input_is_an_empty_one(node: Node, pod: str) -> None:
    assert node.run(pod, "cat") == (0, "")


# --- annotations that act ---------------------------------------------------------------------------------------------


def test_acting_annotations_need_permission(node: Node) -> None:
    pod = node.pod(annotations={"devices.crio.io": "/dev/full:/dev/given", "umask.crio.io": "0077"})
    assert node.sh(pod, "ls /dev/given 2>&1; umask").split()[-1] == "0022"
    with node.configured(
        '[crio.runtime]\nallowed_devices = ["/dev/full"]\n'
        '[crio.runtime.runtimes.runc]\nallowed_annotations = ["devices.crio.io", "umask.crio.io"]\n'
    ):
        said = node.sh(pod, "ls /dev/given; umask")
        assert said == "/dev/given\n0077\n"
        node.remove_pod(pod)


def test_monitor_is_alive_and_small(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sleep", "1000")
    pidfile = pathlib.Path(node.dir, "run/overlay-containers", ctr, "userdata/conmon-pidfile")
    text = eventually(lambda: pathlib.Path(f"/proc/{pidfile.read_text()}/smaps_rollup").read_text())
    dirty = int(text.partition("Private_Dirty:")[2].split()[0])
    assert dirty <= 110  # a third of conmon's 330 kB
    assert os.path.exists(f"/proc/{node.pid_of(ctr)}")
