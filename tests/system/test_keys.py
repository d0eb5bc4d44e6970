"""What keys of crio.conf do to a real daemon: each test names its keys by the mark ``effect``, and
``tests/unit/config/test_effects.py`` counts that none is left out.

One daemon has most of the keys about containers at once; another those about its sockets.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import trustme

from pycrio.api._pb import api_pb2 as pb
from tests import streams
from tests.fixtures_registry import RunningRegistry, free_port, push_image
from tests.isolation import CGROUPS, Isolation, covered, mounts_below
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, linux, refused, secured
from tests.system.test_streaming import exec_url, processes_in
from tests.unit.drivers.nri.test_launch import install

pytestmark = pytest.mark.system
Code = grpc.StatusCode
effect = pytest.mark.effect
ZONE = "Asia/Tokyo"

CONTAINERS = """
[crio]
imagestore = "{d}/images"
storage_option = ["overlay.mountopt=nodev,metacopy=on"]
[crio.runtime]
no_pivot = true
default_capabilities = ["CHOWN", "NET_RAW"]
add_inheritable_capabilities = true
default_sysctls = ["net.ipv4.ip_unprivileged_port_start=77"]
allowed_devices = ["/dev/full"]
additional_devices = ["/dev/fuse:/dev/mine:r"]
default_mounts_file = "{d}/mounts.conf"
log_size_max = 8192
log_to_journald = true
read_only = true
timezone = "{zone}"
bind_mount_prefix = "{d}/host"
absent_mount_sources_to_reject = ["{d}/host/no/such"]
infra_ctr_cpuset = "0"
drop_infra_ctr = false
min_injected_gomaxprocs = 3
seccomp_profile = "{d}/no-mkdir.json"
privileged_seccomp_profile = "{d}/no-mkdir.json"
disable_hostport_mapping = true
[crio.runtime.runtimes.runc]
runtime_path = "{d}/told"
runtime_root = "{d}/rt"
default_annotations = {{ "by.the.handler" = "yes", "given" = "by handler" }}
allowed_annotations = ["devices.crio.io"]
monitor_env = ["MARK=monitor", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
monitor_cgroup = "pod"
no_sync_log = true
container_min_memory = "20MiB"
privileged_without_host_devices = true
platform_runtime_paths = {{ "linux/arm64" = "{d}/told-arm64" }}
[crio.runtime.runtimes.every-device]
runtime_path = "{runc}"
runtime_root = "{d}/rt"
privileged_without_host_devices = true
privileged_without_host_devices_all_devices_allowed = true
container_create_timeout = 50
seccomp_profile = "{d}/no-rmdir.json"
[crio.runtime.runtimes.heir]
inherit_default_runtime = true
runtime_path = "/no/such/runtime"
[crio.runtime.workloads.small]
activation_annotation = "small"
annotation_prefix = "small.size"
allowed_annotations = ["umask.crio.io", "platform-runtime-path.crio.io"]
resources = {{ cpushares = 77, cpuquota = 5000, cpuperiod = 20000, cpuset = "1", cpulimit = 30 }}
"""
# Writes down how it was called, then is runc.
TOLD = '#!/bin/sh\necho "$@" >>{d}/{name}.log\nexec {runc} "$@"\n'


def without(call: str) -> str:
    """A seccomp profile that forbids one call."""
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": [call, f"{call}at"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }
    )


def prepare(directory: str) -> str:
    runc, place = shutil.which("runc"), pathlib.Path(directory)
    for name in ("told", "told-arm64"):
        (place / name).write_text(TOLD.format(d=directory, name=name, runc=runc))
        (place / name).chmod(0o755)
    (place / "no-mkdir.json").write_text(without("mkdir"))
    (place / "no-rmdir.json").write_text(without("rmdir"))
    (place / "secret").write_text("hidden\n")
    (place / "mounts.conf").write_text(f"{directory}/secret:/srv/secret\n/no/such/place:/srv/none\n")
    (place / "host/data").mkdir(parents=True)
    (place / "host/data/file").write_text("behind the prefix\n")
    return CONTAINERS.format(d=directory, zone=ZONE, runc=runc)


@pytest.fixture(scope="module")
def journal() -> Iterator[list[bytes]]:
    """The entries that reach the place where the journal listens on hosts that have one."""
    entries: list[bytes] = []
    with covered("/run/systemd/journal"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("/run/systemd/journal/socket")

        def listen() -> None:
            while entry := listener.recv(65536):
                entries.append(entry)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield entries
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", "/run/systemd/journal/socket")
            thread.join()


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation, journal: list[bytes]) -> Iterator[Node]:
    found = make_node(images, isolation, prepare=prepare)
    yield found
    end_node(found)


@pytest.fixture
def pod(node: Node) -> Iterator[str]:
    ident = node.pod()
    yield ident
    node.remove_pod(ident)


def told(node: Node) -> str:
    return pathlib.Path(node.dir, "told.log").read_text()


def monitor_of(node: Node, ident: str) -> int:
    return int(pathlib.Path(node.dir, "run/overlay-containers", ident, "userdata/conmon-pidfile").read_text())


# --- store ------------------------------------------------------------------------------------------------------------


@effect("crio.imagestore")
def test_images_apart_from_containers(node: Node, pod: str) -> None:
    place = pathlib.Path(node.dir)
    assert json.loads((place / "images/overlay-images/images.json").read_text())
    assert not (place / "root/overlay-images/images.json").exists()
    assert any((place / "images/overlay").iterdir())
    found = node.cri.ImageFsInfo()
    assert found.image_filesystems[0].fs_id.mountpoint == f"{node.dir}/images/overlay-images"
    assert found.container_filesystems[0].fs_id.mountpoint == f"{node.dir}/root/overlay-containers"
    ctr = node.start(pod, "sleep", "1000")
    assert (place / "root/overlay-containers" / ctr).is_dir()


@effect("crio.storage_option")
def test_options_of_the_store_driver(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sleep", "1000")
    root = node.spec(ctr)["runtimeSpec"]["root"]["path"]
    (line,) = [w for w in map(str.split, pathlib.Path("/proc/self/mountinfo").read_text().splitlines()) if w[4] == root]
    assert "nodev" in line[5].split(",")
    assert "metacopy=on" in line[-1].split(",")


@effect("crio.log_dir")
def test_logs_of_pods_that_name_no_directory(node: Node) -> None:
    ident = node.pod(log_directory="")
    ctr = node.start(ident, "echo", "here")
    node.ended(ctr)
    assert node.status(ctr).log_path.startswith(f"{node.dir}/logs/{ident}/")
    assert node.output(ctr) == "here\n"
    assert os.stat(f"{node.dir}/logs").st_mode & 0o777 == 0o700
    node.remove_pod(ident)


# --- containers -------------------------------------------------------------------------------------------------------


@effect("crio.runtime.no_pivot", "crio.runtime.runtimes.*.runtime_path", "crio.runtime.runtimes.*.runtime_root")
def test_the_runtime_is_called_as_configured(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sleep", "1000")
    (line,) = [words for words in map(str.split, told(node).splitlines()) if "create" in words and ctr in words]
    assert f"--root={node.dir}/rt" in line or line[line.index("--root") + 1] == f"{node.dir}/rt"
    assert "--no-pivot" in line
    assert os.path.exists(f"{node.dir}/rt/{ctr}/state.json")


@effect("crio.runtime.default_capabilities", "crio.runtime.add_inheritable_capabilities")
def test_capabilities(node: Node, pod: str) -> None:
    status = node.sh(pod, "cat /proc/self/status")
    found = dict(re.findall(r"^Cap(\w+):\t(\w+)$", status, re.MULTILINE))
    wanted = f"{(1 << 0) | (1 << 13):016x}"  # CHOWN, NET_RAW
    assert found == {"Inh": wanted, "Prm": wanted, "Eff": wanted, "Bnd": wanted, "Amb": "0" * 16}


@effect("crio.runtime.default_sysctls")
def test_sysctls_of_every_pod(node: Node, pod: str) -> None:
    assert node.sh(pod, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "77\n"


@effect("crio.runtime.additional_devices")
def test_devices_of_every_container(node: Node, pod: str) -> None:
    code, said = node.run(pod, "sh", "-c", "stat -c '%t %T' /dev/mine; : </dev/mine && echo read; : >/dev/mine")
    *seen, failure = said.splitlines()
    assert (code, seen, "not permitted" in failure) == (1, ["a e5", "read"], True)


@effect("crio.runtime.allowed_devices", "crio.runtime.runtimes.*.allowed_annotations")
def test_devices_by_annotation(node: Node) -> None:
    given = node.pod(annotations={"devices.crio.io": "/dev/full:/dev/given"})
    assert "/dev/given" in node.sh(given, "ls -l /dev/given")
    node.remove_pod(given)
    other = node.pod(annotations={"devices.crio.io": "/dev/fuse"})
    with refused(Code.INVALID_ARGUMENT, "/dev/fuse", "allowed_devices"):
        node.create(other, "true")
    node.remove_pod(other)


@effect(
    "crio.runtime.runtimes.*.privileged_without_host_devices",
    "crio.runtime.runtimes.*.privileged_without_host_devices_all_devices_allowed",
)
def test_privileged_containers_without_the_hosts_devices(node: Node) -> None:
    """And with the handler's other key they may use what they make."""
    script = "ls /dev/kmsg 2>/dev/null; mknod /dev/made c 1 11 && head -c0 /dev/made"
    for handler, code in (("", 1), ("every-device", 0)):
        pod = node.pod(handler=handler, linux=linux(privileged=True))
        said = node.run(pod, "sh", "-c", script, linux=secured(privileged=True))
        assert (said[0], "/dev/kmsg" in said[1]) == (code, False), (handler, said)
        node.remove_pod(pod)


@effect("crio.runtime.default_mounts_file")
def test_mounts_of_every_container(node: Node, pod: str) -> None:
    assert node.sh(pod, "cat /srv/secret; ls /srv") == "hidden\nsecret\n"


@effect("crio.runtime.bind_mount_prefix", "crio.runtime.absent_mount_sources_to_reject")
def test_sources_of_mounts(node: Node, pod: str) -> None:
    bind = pb.Mount(host_path="/data", container_path="/mnt")
    assert node.sh(pod, "cat /mnt/file", mounts=[bind]) == "behind the prefix\n"
    for path in ("/no/such", "/no/such/", "/no/./such"):
        with refused(Code.INVALID_ARGUMENT, "path does not exist and will not be created"):
            node.create(pod, "true", mounts=[pb.Mount(host_path=path, container_path="/mnt")])
    assert not os.path.exists(f"{node.dir}/host/no")


@effect("crio.runtime.read_only")
def test_read_only_roots(node: Node, pod: str) -> None:
    code, said = node.run(pod, "sh", "-c", "touch /run/x /tmp/x /var/tmp/x && touch /srv/x")
    assert (code, "Read-only" in said) == (1, True)


@effect("crio.runtime.timezone")
def test_the_time_zone(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sleep", "1000")
    assert (
        bytes(node.exec(ctr, "cat", "/etc/localtime").stdout) == pathlib.Path("/usr/share/zoneinfo", ZONE).read_bytes()
    )


@effect("crio.runtime.min_injected_gomaxprocs")
def test_the_processors_that_go_programs_are_told(node: Node) -> None:
    def told_of(parent: str, shares: int, **more: Any) -> str:
        pod = node.pod(linux=linux(cgroup_parent=parent), **more)
        resources = secured(resources=pb.LinuxContainerResources(cpu_shares=shares))
        said = node.sh(pod, "echo ${GOMAXPROCS:-none}", linux=resources)
        node.remove_pod(pod)
        return said.strip()

    assert told_of("/kubepods/burstable/x", 2) == "3"
    assert told_of("/kubepods/burstable/x", 5 * 1024) == "10"
    assert told_of("/kubepods/x", 2) == "none"
    assert told_of("/kubepods/besteffort/x", 2, annotations={"skip-gomaxprocs.crio.io": "true"}) == "none"


@effect(
    "crio.runtime.seccomp_profile",
    "crio.runtime.privileged_seccomp_profile",
    "crio.runtime.runtimes.*.seccomp_profile",
)
def test_seccomp_profiles(node: Node) -> None:
    default = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
    script = "mkdir /tmp/x 2>/dev/null && m=1; rmdir /var/tmp/. 2>&1 | grep -c permitted; echo ${m:-0}"
    for handler, privileged, wanted in (("", False, "0 0"), ("", True, "0 0"), ("every-device", False, "1 1")):
        pod = node.pod(handler=handler, linux=linux(privileged=privileged))
        security = secured(privileged=True) if privileged else secured(seccomp=default)
        assert node.run(pod, "sh", "-c", script, linux=security)[1].split() == wanted.split(), (handler, privileged)
        node.remove_pod(pod)


@effect("crio.runtime.disable_hostport_mapping")
def test_no_ports_of_the_host(node: Node) -> None:
    port = free_port()
    pod = node.pod(port_mappings=[pb.PortMapping(container_port=80, host_port=port)])
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert str(port) not in rules
    node.remove_pod(pod)


# --- monitors and pods ----------------------------------------------------------------------------------------------


@effect(
    "crio.runroot",
    "crio.runtime.infra_ctr_cpuset",
    "crio.runtime.runtimes.*.monitor_env",
    "crio.runtime.runtimes.*.monitor_cgroup",
    "crio.runtime.runtimes.*.no_sync_log",
)
def test_monitors_are_started_as_configured(node: Node) -> None:
    pod = node.pod(linux=linux(cgroup_parent="/kubepods/monitored"))
    ctr = node.start(pod, "sleep", "1000")
    monitor = pathlib.Path(f"/proc/{monitor_of(node, ctr)}")
    assert b"MARK=monitor" in (monitor / "environ").read_bytes().split(b"\0")
    assert b"--no-sync-log" in (monitor / "cmdline").read_bytes().split(b"\0")
    assert f"/kubepods/monitored/crio-conmon-{ctr}" in (monitor / "cgroup").read_text()
    assert os.sched_getaffinity(int(monitor.name)) == {0}
    node.remove_pod(pod)


@effect("crio.runtime.drop_infra_ctr")
def test_every_pod_has_an_init(node: Node, pod: str) -> None:
    pid = int(json.loads(node.cri.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info["info"])["pid"])
    assert pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == b"/pause\0"
    assert os.sched_getaffinity(pid) == {0}  # infra_ctr_cpuset


@effect("crio.runtime.log_size_max")
def test_logs_are_bounded(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sh", "-c", "seq 1 5000")
    node.ended(ctr)
    assert os.path.getsize(node.status(ctr).log_path) <= 8192


@effect("crio.runtime.log_to_journald")
def test_logs_go_to_the_journal_as_well(node: Node, pod: str, journal: list[bytes]) -> None:
    word = f"for the journal {os.getpid()}"
    ctr = node.start(pod, "echo", word)
    node.ended(ctr)
    assert node.output(ctr) == f"{word}\n"
    (entry,) = eventually(lambda: [e for e in journal if word.encode() in e])
    assert f"CONTAINER_ID_FULL={ctr}\n".encode() in entry


@effect("crio.runtime.container_exits_dir", "crio.runtime.container_attach_socket_dir")
def test_directories_of_monitors(node: Node, pod: str) -> None:
    ctr = node.start(pod, "sleep", "1000")
    assert os.path.realpath(f"{node.dir}/attach/{ctr}").endswith("/userdata")
    monitor = pathlib.Path(f"/proc/{monitor_of(node, ctr)}/cmdline").read_bytes().split(b"\0")
    assert monitor[monitor.index(b"--exit-dir") + 1].decode() == f"{node.dir}/exits"


@effect("crio.runtime.namespaces_dir")
def test_namespaces_are_pinned(node: Node, pod: str) -> None:
    pins = [p for p in mounts_below(f"{node.dir}/ns") if "/netns/" in p]
    assert pins
    ctr = node.start(pod, "sleep", "1000")
    assert os.stat(f"/proc/{node.pid_of(ctr)}/ns/net").st_ino in {os.stat(p).st_ino for p in pins}


@effect("crio.runtime.runtimes.*.default_annotations")
def test_annotations_by_the_handler(node: Node) -> None:
    pod = node.pod(annotations={"given": "by pod"})
    found = dict(node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.annotations)
    assert (found["by.the.handler"], found["given"]) == ("yes", "by pod")
    node.remove_pod(pod)


@effect("crio.runtime.runtimes.*.container_min_memory")
def test_the_least_memory(node: Node, pod: str) -> None:
    small = secured(resources=pb.LinuxContainerResources(memory_limit_in_bytes=(20 << 20) - 4096))
    with refused(Code.INVALID_ARGUMENT, "too low; should be at least 20971520 bytes"):
        node.create(pod, "true", linux=small)


@effect("crio.runtime.runtimes.*.inherit_default_runtime")
def test_an_heir(node: Node) -> None:
    pod = node.pod(handler="heir")
    ctr = node.start(pod, "sleep", "1000")
    assert f" {ctr}" in told(node)
    node.remove_pod(pod)


@effect(
    "crio.runtime.workloads.*.activation_annotation",
    "crio.runtime.workloads.*.annotation_prefix",
    "crio.runtime.workloads.*.allowed_annotations",
    "crio.runtime.workloads.*.resources.cpushares",
    "crio.runtime.workloads.*.resources.cpuquota",
    "crio.runtime.workloads.*.resources.cpuperiod",
    "crio.runtime.workloads.*.resources.cpuset",
    "crio.runtime.workloads.*.resources.cpulimit",
    "crio.runtime.runtimes.*.platform_runtime_paths",
)
def test_workloads(node: Node) -> None:
    def limits(ident: str) -> tuple[str, ...]:
        files = ("cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpuset/cpuset.cpus")
        tops = (name.partition("/") for name in files)
        return tuple(
            pathlib.Path(CGROUPS, top, f"kubepods/small/crio-{ident}", name).read_text().strip()
            for top, _, name in tops
        )

    marks = {
        "small": "",
        "small.size/changed": json.dumps({"cpushares": 99, "cpuset": "0"}),
        "umask.crio.io": "077",
        "platform-runtime-path.crio.io": "linux/arm64",
    }
    pod = node.pod(annotations=marks, linux=linux(cgroup_parent="/kubepods/small"))
    plain, changed = (node.start(pod, "sleep", "1000", name=name) for name in ("plain", "changed"))
    assert limits(plain) == ("77", "5000", "20000", "1")
    # the override makes the limit in thousandths count: 30 of a period of 20 ms, but no less than 1 ms
    assert limits(changed) == ("99", "1000", "20000", "0")
    assert node.sh(pod, "umask") == "0077\n"
    node.exec(plain, "true")
    node.remove_pod(pod)
    lines = pathlib.Path(node.dir, "told-arm64.log").read_text().splitlines()
    verbs = {verb for line in lines if plain in line for verb in ("create", "start", "exec", "delete") if verb in line}
    assert verbs == {"create", "start", "exec", "delete"}
    assert plain not in told(node)


# --- sockets --------------------------------------------------------------------------------------------------------

SOCKETS = """
[crio]
version_file = "{d}/at/version"
[crio.api]
stream_address = "127.0.0.2"
stream_port = "{port}"
stream_enable_tls = true
stream_idle_timeout = "2s"
stream_tls_cert = "{d}/tls.crt"
stream_tls_key = "{d}/tls.key"
stream_tls_ca = "{d}/ca.crt"
tls_cipher_suites = ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]
grpc_max_recv_msg_size = 100000
grpc_max_send_msg_size = 50000
[crio.runtime]
enable_pod_events = false
uid_mappings = "0:200000:65536"
gid_mappings = "0:300000:65536"
minimum_mappable_uid = 150000
minimum_mappable_gid = 250000
conmon = "{monitor}"
conmon_cgroup = "pod"
conmon_env = ["OLD=style"]
enable_criu_support = false
log_filter = "Serving|Created|kept"
log_level = "debug"
[crio.runtime.runtimes.runc]
runtime_path = "{runc}"
runtime_root = "{d}/rt"
allowed_annotations = ["userns-mode.crio.io"]
[crio.network]
cni_default_network = "second"
plugin_dirs = ["{d}/cni"]
plugin_dir = "/usr/lib/cni"
[crio.metrics]
enable_metrics = true
metrics_host = "127.0.0.3"
metrics_port = {metrics}
metrics_cert = "{d}/made.crt"
metrics_key = "{d}/made.key"
[crio.stats]
collection_period = 3600
included_pod_metrics = ["cpu"]
"""
SECOND = """{"cniVersion":"0.4.0","name":"second","plugins":[{"type":"ptp",
 "ipam":{"type":"host-local","dataDir":"%s","ranges":[[{"subnet":"10.98.0.0/16"}]]}}]}"""


class Authority:
    """Certificates for the streaming server and its clients."""

    def __init__(self) -> None:
        self.ca = trustme.CA()

    def issue(self, directory: pathlib.Path) -> None:
        """A new certificate for the server, and this authority for its clients."""
        leaf = self.ca.issue_cert("127.0.0.2")
        self._put(directory / "tls.crt", *leaf.cert_chain_pems)
        self._put(directory / "tls.key", leaf.private_key_pem)
        self._put(directory / "ca.crt", self.ca.cert_pem)

    @staticmethod
    def _put(path: pathlib.Path, *blobs: trustme.Blob) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
        fresh.rename(path)

    def client(self, *, known: bool = True, ciphers: str = "", newest: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if not newest:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if ciphers:
            context.set_ciphers(ciphers)
        if known:
            self.ca.issue_cert("client").configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def sockets(images: Pushed, isolation: Isolation, authority: Authority, ports: tuple[int, int]) -> Iterator[Node]:
    def prepared(directory: str) -> str:
        place = pathlib.Path(directory)
        authority.issue(place)
        (place / "net.d/20-second.conflist").write_text(SECOND % f"{directory}/ipam2")
        return SOCKETS.format(
            d=directory, port=ports[0], metrics=ports[1], monitor=shutil.which("conmon"), runc=shutil.which("runc")
        )

    found = make_node(images, isolation, prepare=prepared)
    yield found
    end_node(found)


@pytest.fixture
def mapped(sockets: Node) -> Iterator[str]:
    """A container of a pod to which the configuration gives a user namespace."""
    pod = sockets.pod()
    yield sockets.start(pod, "sleep", "1000")
    sockets.remove_pod(pod)


@effect(
    "crio.api.stream_address",
    "crio.api.stream_port",
    "crio.api.stream_enable_tls",
    "crio.api.stream_tls_cert",
    "crio.api.stream_tls_key",
    "crio.api.stream_tls_ca",
    "crio.api.tls_cipher_suites",
)
async def test_streams_over_tls(sockets: Node, mapped: str, authority: Authority, ports: tuple[int, int]) -> None:
    """Only with a certificate of a known authority, a listed suite; and files that change count from then on."""

    async def said(context: ssl.SSLContext) -> bytes:
        url = exec_url(sockets, mapped, "echo", "hi")
        assert url.startswith(f"https://127.0.0.2:{ports[0]}/exec/")
        return (await streams.run(url, tls=context)).stdout

    assert await said(authority.client()) == b"hi\n"
    assert await said(authority.client(newest=True)) == b"hi\n"
    for stranger in (authority.client(known=False), authority.client(ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")):
        with pytest.raises((ssl.SSLError, ConnectionError, streams.NotUpgraded, EOFError)):
            await said(stranger)
    other = Authority()
    other.issue(pathlib.Path(sockets.dir))
    try:
        assert await said(other.client()) == b"hi\n"
        with pytest.raises(ssl.SSLCertVerificationError):
            await said(authority.client())
    finally:
        authority.issue(pathlib.Path(sockets.dir))


@effect("crio.api.stream_idle_timeout")
async def test_idle_streams_are_closed(sockets: Node, mapped: str, authority: Authority) -> None:
    url = exec_url(sockets, mapped, "sleep", "777")
    with contextlib.suppress(ConnectionError, EOFError):
        await streams.run(url, tls=authority.client())
    eventually(lambda: "sleep 777" not in processes_in(sockets, mapped))


@effect("crio.api.grpc_max_recv_msg_size", "crio.api.grpc_max_send_msg_size")
def test_messages_are_bounded(sockets: Node, mapped: str) -> None:
    with refused(Code.RESOURCE_EXHAUSTED):
        sockets.cri.ExecSync(container_id=mapped, cmd=["echo", "x" * 100_000])
    assert len(sockets.exec(mapped, "head", "-c", "40000", "/dev/zero").stdout) == 40_000
    with refused(Code.RESOURCE_EXHAUSTED):
        sockets.exec(mapped, "head", "-c", "60000", "/dev/zero")


@effect(
    "crio.runtime.uid_mappings",
    "crio.runtime.gid_mappings",
    "crio.runtime.minimum_mappable_uid",
    "crio.runtime.minimum_mappable_gid",
)
def test_ids_of_every_pod_are_mapped(sockets: Node, mapped: str) -> None:
    words = [sockets.exec(mapped, "cat", f"/proc/self/{kind}_map").stdout.split() for kind in ("uid", "gid")]
    assert words == [[b"0", b"200000", b"65536"], [b"0", b"300000", b"65536"]]
    for kind in ("uid", "gid"):
        low = {"uid": 160000, "gid": 260000, kind: 100000}
        mode = f"private:uidmapping=0:{low['uid']}:65536;gidmapping=0:{low['gid']}:65536"
        root = linux(run_as_user=pb.Int64Value(value=0))
        with refused(Code.INVALID_ARGUMENT, f"minimum_mappable_{kind} is"):
            sockets.pod(annotations={"userns-mode.crio.io": mode}, linux=root)


@effect("crio.runtime.conmon", "crio.runtime.conmon_cgroup", "crio.runtime.conmon_env")
def test_the_monitor_by_its_old_keys(sockets: Node, mapped: str) -> None:
    monitor = pathlib.Path(f"/proc/{monitor_of(sockets, mapped)}")
    assert os.path.basename(os.readlink(monitor / "exe")) == "conmon"
    assert b"OLD=style" in (monitor / "environ").read_bytes().split(b"\0")
    assert f"/crio-conmon-{mapped}" in (monitor / "cgroup").read_text()


@effect("crio.runtime.enable_criu_support", "crio.checkpoint_restore.container_level_enabled")
def test_checkpoints_can_be_switched_off(sockets: Node, mapped: str) -> None:
    assert 'container_level_enabled = "none"' in page(sockets, "/config").decode()
    with refused(Code.UNIMPLEMENTED, "checkpoint/restore support not available"):
        sockets.cri.CheckpointContainer(container_id=mapped, location=f"{sockets.dir}/checkpoint.tar")


@effect("crio.runtime.enable_pod_events")
def test_events_can_be_switched_off(sockets: Node, mapped: str) -> None:
    pod = sockets.status(mapped) and sockets.cri.ListPodSandbox().items[0].id
    assert not sockets.cri.PodSandboxStatus(pod_sandbox_id=pod).containers_statuses
    assert list(sockets.cri.GetContainerEvents()) == []


@effect("crio.runtime.log_filter", "crio.runtime.log_level")
def test_the_daemons_own_log(sockets: Node, mapped: str) -> None:
    lines = [line for line in sockets.daemon.log.splitlines() if line.startswith("time=")]
    after = lines[next(n for n, line in enumerate(lines) if "Serving" in line) :]
    assert all(re.search("Serving|Created|kept", line) for line in after)
    assert any("file=" in line for line in after)  # as at level debug


@effect("crio.network.cni_default_network", "crio.network.plugin_dirs", "crio.network.plugin_dir")
def test_the_named_network(sockets: Node, mapped: str) -> None:
    """Though another file comes before it; its plugins are found by the old key."""
    pod = sockets.cri.ListPodSandbox().items[0].id
    assert sockets.cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip.startswith("10.98.")
    assert os.path.isdir(f"{sockets.dir}/cni")


@effect("crio.network.network_dir")
def test_the_directory_of_networks(sockets: Node) -> None:
    path = pathlib.Path(sockets.dir, "net.d/20-second.conflist")
    text = path.read_text()
    path.unlink()
    ready = lambda: all(c.status for c in sockets.cri.Status().status.conditions)  # noqa: E731
    eventually(lambda: not ready())
    path.write_text(text)
    eventually(ready)


@effect("crio.metrics.metrics_host", "crio.metrics.metrics_port")
def test_metrics_with_a_certificate_of_their_own(sockets: Node, ports: tuple[int, int]) -> None:
    """Missing files are made, for the owner alone, and served."""
    made = pathlib.Path(sockets.dir, "made.crt")
    assert [os.stat(made.with_suffix(end)).st_mode & 0o777 for end in (".crt", ".key")] == [0o600, 0o600]
    context = ssl.create_default_context(cafile=str(made))
    context.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.3", ports[1], timeout=30, context=context)
    connection.request("GET", "/metrics")
    assert b"container_runtime_crio_operations_total" in connection.getresponse().read()
    connection.close()


@effect("crio.stats.collection_period", "crio.stats.included_pod_metrics")
def test_pod_metrics(sockets: Node, mapped: str) -> None:
    names = {d.name for d in sockets.cri.ListMetricDescriptors().descriptors}
    assert names == {n for n in names if n.startswith("container_cpu_")} | {"container_last_seen"}

    def times() -> set[int]:
        pods = sockets.cri.ListPodSandboxMetrics().pod_metrics
        return {m.timestamp for pod in pods for c in pod.container_metrics for m in c.metrics}

    assert times() == times() != set()


@effect("crio.version_file", "crio.version_file_persist", "crio.clean_shutdown_file")
def test_marks_of_a_run(sockets: Node) -> None:
    place = pathlib.Path(sockets.dir)
    version = json.loads((place / "at/version").read_text())
    assert version == json.loads((place / "version-persist").read_text())
    assert (place / "clean.shutdown.supported").exists()
    assert not (place / "clean.shutdown").exists()
    assert sockets.daemon.stop() == 0
    assert (place / "clean.shutdown").exists()
    sockets.daemon.start()
    assert not (place / "clean.shutdown").exists()


def page(node: Node, path: str) -> bytes:
    """A page of the CRI socket."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"{node.dir}/crio.sock")
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    return answer.partition(b"\r\n\r\n")[2]


# --- everything else ------------------------------------------------------------------------------------------------

REST = """
[crio]
internal_wipe = false
[crio.api]
stream_address = "127.0.0.2"
stream_enable_tls = true
stream_tls_cert = "{d}/tls.crt"
stream_tls_key = "{d}/tls.key"
tls_min_version = "VersionTLS13"
[crio.runtime]
hooks_dir = ["{d}/hooks", "{d}/hooks/later", "{d}/crio.conf"]
cdi_spec_dirs = ["{d}/cdi", "{d}/cdi2"]
[crio.image]
default_transport = "docker://"
global_auth_file = "{d}/auth.json"
namespaced_auth_dir = "{d}/auths"
signature_policy_dir = "{d}/policies"
short_name_mode = "disabled"
[crio.nri]
enable_nri = true
nri_listen = "{d}/nri.sock"
nri_plugin_dir = "{d}/plugins"
nri_plugin_config_dir = "{d}/plugins.d"
nri_plugin_registration_timeout = "7s"
nri_disable_connections = true
"""
HOOK = {
    "version": "1.0.0",
    "hook": {"path": "/bin/sh", "args": ["sh", "-c", "echo {word} >>{d}/hooked; cat >/dev/null"]},
    "when": {"annotations": {"^hooked$": "^{word}"}},
    "stages": ["createRuntime"],
}


def hook(directory: str, word: str) -> str:
    return json.dumps(HOOK).replace("{word}", word).replace("{d}", directory)


def device(kind: str, value: str) -> str:
    edits = {"env": [f"DEVICE={value}"], "deviceNodes": [{"path": "/dev/fuse"}]}
    return json.dumps({"cdiVersion": "0.6.0", "kind": kind, "devices": [{"name": "one", "containerEdits": edits}]})


@pytest.fixture(scope="module")
def rest(images: Pushed, isolation: Isolation, authority: Authority) -> Iterator[Node]:
    def prepared(directory: str) -> str:
        place = pathlib.Path(directory)
        authority.issue(place)
        for name in ("auths", "policies", "plugins", "plugins.d", "cdi2"):
            (place / name).mkdir()
        (place / "auth.json").write_text("{}")
        install(place / "plugins", "00-claimed")
        install(place / "plugins", "20-silent", "#!/bin/sh\nexec sleep 1000\n")
        (place / "plugins.d/claimed.conf").write_text("by its file")
        (place / "policies/guarded.json").write_text('{"default":[{"type":"reject"}]}')
        registries = place / "registries.conf"
        search = f'unqualified-search-registries = ["127.0.0.1:{free_port()}", "{images.registry.address}"]\n'
        registries.write_text(search + registries.read_text().partition("\n")[2])
        return REST.format(d=directory)

    found = make_node(images, isolation, prepare=prepared)
    yield found
    end_node(found)


@effect("crio.api.tls_min_version")
async def test_the_oldest_version_of_tls(rest: Node, authority: Authority) -> None:
    pod = rest.pod()
    ctr = rest.start(pod, "sleep", "1000")
    newest = authority.client(newest=True)
    assert (await streams.run(exec_url(rest, ctr, "echo", "hi"), tls=newest)).stdout == b"hi\n"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await streams.run(exec_url(rest, ctr, "echo", "hi"), tls=authority.client())
    rest.remove_pod(pod)


@effect("crio.runtime.hooks_dir")
def test_hooks(rest: Node) -> None:
    """Directories that are missing are made, later files of the same name win, new ones count at once."""
    place = pathlib.Path(rest.dir)
    assert "OCI hooks directory is left out" in rest.daemon.log
    (place / "hooks/10-a.json").write_text(hook(rest.dir, "first"))
    (place / "hooks/20-b.json").write_text(hook(rest.dir, "second"))
    (place / "hooks/later/10-a.json").write_text(hook(rest.dir, "third"))
    (place / "hooks/30-bad.json").write_text('{"version": "1.0.0"}')
    pod = rest.pod()
    for word in ("first", "second", "third", "none"):
        assert rest.run(pod, "true", annotations={"hooked": word})[0] == 0
    assert (place / "hooked").read_text().split() == ["second", "third"]
    rest.remove_pod(pod)


@effect("crio.runtime.cdi_spec_dirs")
def test_devices_of_vendors(rest: Node) -> None:
    """Those of later directories win; and other directories count after a reload."""
    place = pathlib.Path(rest.dir)
    (place / "cdi/v.json").write_text(device("vendor.test/card", "early"))
    (place / "cdi2/v.json").write_text(device("vendor.test/card", "late"))
    pod = rest.pod()
    wanted = {"CDI_devices": [pb.CDIDevice(name="vendor.test/card=one")]}
    assert rest.sh(pod, "echo $DEVICE; ls /dev/fuse", **wanted) == "late\n/dev/fuse\n"
    by_annotation = {"annotations": {"cdi.k8s.io/x": "vendor.test/card=one"}}
    assert rest.sh(pod, "echo $DEVICE", **by_annotation) == "late\n"
    drop_in = place / "conf.d/60-cdi.conf"
    drop_in.write_text(f'[crio.runtime]\ncdi_spec_dirs = ["{rest.dir}/cdi"]\n')
    rest.reload()
    lines = rest.daemon.log.splitlines()
    told = lines[max(n for n, line in enumerate(lines) if "Reloading configuration" in line) :]
    order = (
        "Applied new registry configuration: unqualified-search-registries 127.0.0.1",
        f'Set config cdi_spec_dirs to \\"[{rest.dir}/cdi]\\"',
        "Effective configuration:",
        "Configuration reload completed",
    )
    places = [next(n for n, line in enumerate(told) if words in line) for words in order]
    assert places == sorted(places)
    assert rest.sh(pod, "echo $DEVICE", **wanted) == "early\n"
    drop_in.unlink()
    rest.reload()
    rest.remove_pod(pod)


@effect("crio.image.global_auth_file", "crio.image.namespaced_auth_dir")
def test_files_with_credentials(rest: Node, private_registry: RunningRegistry) -> None:
    rest.daemon.insecure(private_registry.address)
    rest.reload()
    rest.registries.add(int(private_registry.address.rpartition(":")[2]))
    name = f"{private_registry.address}/secret/app:1"
    push_image(private_registry, "secret/app:1", [{"a": os.urandom(8)}])
    token = base64.b64encode(f"{private_registry.username}:{private_registry.password}".encode()).decode()
    text = json.dumps({"auths": {private_registry.address: {"auth": token}}})
    sandbox = pb.PodSandboxConfig(metadata={"name": "x", "uid": "x", "namespace": "own"})

    def pull(**more: Any) -> None:
        rest.cri.PullImage(image={"image": name}, **more)
        rest.cri.RemoveImage(image={"image": name})

    def refuses(**more: Any) -> None:
        with refused(Code.PERMISSION_DENIED, "secret/app"):
            pull(**more)

    refuses()
    own = pathlib.Path(rest.dir, "auths", f"own-{hashlib.sha256(name.encode()).hexdigest()}.json")
    own.write_text(text)
    refuses()
    pull(sandbox_config=sandbox)
    own.unlink(missing_ok=True)
    refuses(sandbox_config=sandbox)
    pathlib.Path(rest.dir, "auth.json").write_text(text)
    pull()


@effect("crio.image.signature_policy_dir", "crio.image.signature_policy")
def test_signature_policies(rest: Node, images: Pushed) -> None:
    def sandbox(namespace: str) -> pb.PodSandboxConfig:
        return pb.PodSandboxConfig(metadata={"name": "x", "uid": "x", "namespace": namespace})

    assert rest.cri.PullImage(image={"image": images.app}, sandbox_config=sandbox("open")).image_ref
    with refused(Code.UNKNOWN, "SignatureValidationFailed"):
        rest.cri.PullImage(image={"image": images.app}, sandbox_config=sandbox("guarded"))
    policy = pathlib.Path(rest.dir, "policy.json")
    text = policy.read_text()
    policy.write_text('{"default":[{"type":"reject"}]}')
    with refused(Code.UNKNOWN, "SignatureValidationFailed"):
        rest.cri.PullImage(image={"image": images.app}, sandbox_config=sandbox("open"))
    policy.write_text(text)


@effect("crio.image.short_name_mode", "crio.image.default_transport", "cli.registries_conf")
def test_short_names(rest: Node, images: Pushed) -> None:
    """The first search registry does not answer; a name may also say how it is to be fetched."""
    found = rest.cri.PullImage(image={"image": "sys/app:1"}).image_ref
    assert found == rest.cri.PullImage(image={"image": f"docker://{images.app}"}).image_ref


@effect(
    "crio.nri.nri_plugin_dir",
    "crio.nri.nri_plugin_config_dir",
    "crio.nri.nri_plugin_registration_timeout",
    "crio.nri.nri_disable_connections",
)
def test_installed_plugins(rest: Node) -> None:
    pod = rest.pod()
    assert rest.sh(pod, "echo $FROM") == "by its file\n"
    assert "no registration in 7 seconds" in rest.daemon.log  # of the other one
    assert not os.path.exists(f"{rest.dir}/nri.sock")
    rest.remove_pod(pod)


@effect("crio.internal_wipe")
def test_wiping_at_the_start_can_be_switched_off(rest: Node) -> None:
    pod = rest.pod()
    pathlib.Path(rest.dir, "version").unlink()
    rest.restart()
    assert [item.id for item in rest.cri.ListPodSandbox().items] == [pod]
    rest.remove_pod(pod)
    drop_in = pathlib.Path(rest.dir, "conf.d/60-wipe.conf")
    drop_in.write_text("[crio]\ninternal_wipe = true\n")
    pod = rest.pod()
    pathlib.Path(rest.dir, "version").unlink()
    rest.restart()
    assert not rest.cri.ListPodSandbox().items
    drop_in.unlink()


@effect("crio.internal_repair")
def test_repair_after_a_crash_can_be_switched_off(rest: Node, images: Pushed) -> None:
    looked = "The last run did not end cleanly, looking for damage"
    before = rest.daemon.log.count(looked)
    rest.crash()
    assert rest.daemon.log.count(looked) == before + 1
    drop_in = pathlib.Path(rest.dir, "conf.d/60-repair.conf")
    drop_in.write_text("[crio]\ninternal_repair = false\n")
    rest.crash()
    assert rest.daemon.log.count(looked) == before + 1
    drop_in.unlink()
