"""Pods on the real thing: networks by the bridge plugin, namespaces, files, host ports, identity."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.fixtures_registry import busybox_layer, free_port, push_image
from tests.isolation import Isolation, mount, unmount
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, linux, refused, secured

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode
NOSUID, NODEV, NOEXEC = 2, 4, 8
ALLOWED = '\nallowed_annotations = ["shm-size.crio.io", "io.kubernetes.cri-o.userns-mode"]\n'


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    node = make_node(images, isolation, extra=ALLOWED)
    yield node
    end_node(node)


def own_ns(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


@contextlib.contextmanager
def echo_server(pid: int, port: int) -> Iterator[None]:
    """Answer one datagram in the network namespace of a process."""
    code = "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.bind(('', PORT))\nprint(flush=True)\n"
    code = code.replace("PORT", str(port)) + "data, peer = s.recvfrom(99)\ns.sendto(data, peer)\n"
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield
        finally:
            server.kill()


# --- network ----------------------------------------------------------------------------------------------------------


def test_pod_has_a_network_of_its_own(node: Node) -> None:
    pod = node.pod()
    status = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status
    assert status.state == pb.SANDBOX_READY
    assert status.network.ip.startswith("10.99.")
    assert status.linux.namespaces.options.network == pb.POD
    said = node.sh(pod, "ip -o addr; readlink /proc/self/ns/net")
    assert f"inet {status.network.ip}/16" in said
    assert "inet 127.0.0.1/8" in said  # lo is up
    assert own_ns("net") not in said


def test_node_and_pods_reach_a_server_in_a_pod(node: Node) -> None:
    pod, other = node.pod(), node.pod()
    serve = "mkdir -p /srv/www && echo hello from a pod >/srv/www/index.html && exec httpd -f -p 8080 -h /srv/www"
    server = node.start(pod, "sh", "-c", serve)
    ip = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip
    node.exec(server, "sh", "-c", "until nc 127.0.0.1 8080 </dev/null; do :; done", timeout=20)
    with urllib.request.urlopen(f"http://{ip}:8080/", timeout=10) as answer:
        assert answer.read() == b"hello from a pod\n"
    assert node.sh(other, f"wget -q -O - http://{ip}:8080/") == "hello from a pod\n"


def test_host_network(node: Node) -> None:
    pod = node.pod(linux=linux(network="NODE"))
    status = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status
    assert status.network.ip == ""
    assert status.linux.namespaces.options.network == pb.NODE
    said = node.sh(pod, "for k in net uts; do readlink /proc/self/ns/$k; done; hostname; cat /etc/hosts")
    net, uts, name, *hosts = said.splitlines()
    assert (net, uts) == (own_ns("net"), own_ns("uts"))
    assert name == socket.gethostname()
    assert hosts == pathlib.Path("/etc/hosts").read_text().splitlines()


def test_host_ports(node: Node) -> None:
    tcp, udp = free_port(), free_port()
    ports = [
        pb.PortMapping(container_port=80, host_port=tcp),
        pb.PortMapping(container_port=53, host_port=udp, protocol=pb.UDP),
        pb.PortMapping(container_port=99),  # no host port: nothing to do
    ]
    pod = node.pod(port_mappings=ports)
    ctr = node.start(pod, "sh", "-c", "echo by port >/tmp/index.html; exec httpd -f -p 80 -h /tmp")
    node.exec(ctr, "sh", "-c", "until nc 127.0.0.1 80 </dev/null; do :; done", timeout=20)
    gateway = "10.99.0.1"
    for host in ("127.0.0.1", gateway):
        with urllib.request.urlopen(f"http://{host}:{tcp}/", timeout=10) as answer:
            assert answer.read() == b"by port\n"
    with echo_server(node.pid_of(ctr), 53), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"ping", (gateway, udp))
        assert client.recv(16) == b"ping"
    with refused(Code.ALREADY_EXISTS, str(tcp)):
        node.pod(port_mappings=ports[:1])
    node.remove_pod(pod)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((gateway, tcp), timeout=5)


# --- namespaces -------------------------------------------------------------------------------------------------------


def test_containers_of_a_pod_share_net_ipc_and_uts_alone(node: Node) -> None:
    pod = node.pod()
    script = "for k in net ipc uts pid mnt cgroup; do readlink /proc/self/ns/$k; done"
    first, second = (node.sh(pod, script).splitlines() for _ in range(2))
    own = [own_ns(k) for k in ("net", "ipc", "uts", "pid", "mnt", "cgroup")]
    assert first[:3] == second[:3]
    assert not set(first[:5]) & set(own)


def test_host_pid_and_ipc(node: Node) -> None:
    pod = node.pod(linux=linux(pid="NODE", ipc="NODE"))
    options = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.linux.namespaces.options
    assert (options.pid, options.ipc) == (pb.NODE, pb.NODE)
    said = node.sh(pod, "for k in pid ipc; do readlink /proc/self/ns/$k; done; stat -c %d /dev/shm")
    assert said.splitlines() == [own_ns("pid"), own_ns("ipc"), str(os.stat("/dev/shm").st_dev)]


def test_stop_in_the_hosts_pid_namespace_ends_every_process(node: Node) -> None:
    pod = node.pod(linux=linux(pid="NODE"))
    ctr = node.start(pod, "sh", "-c", "trap '' TERM; (trap '' TERM; sleep 1000) & echo up; sleep 1000")
    node.wait_log(ctr, "up")
    group = node.spec(ctr)["runtimeSpec"]["linux"]["cgroupsPath"]
    procs = pathlib.Path(f"/sys/fs/cgroup/pids{group}/cgroup.procs")
    left = procs.read_text().split()
    assert len(left) >= 2
    node.cri.StopContainer(container_id=ctr, timeout=0)
    eventually(lambda: not [pid for pid in left if os.path.exists(f"/proc/{pid}")])


def test_shared_pid_namespace_has_the_pause_program_as_init(node: Node) -> None:
    pod = node.pod(linux=linux(pid="POD"))
    first = node.start(pod, "sleep", "1001")
    second = node.start(pod, "sleep", "1002")
    for ctr, other in ((first, "1002"), (second, "1001")):
        said = bytes(node.exec(ctr, "ps").stdout).decode()
        assert f"sleep {other}" in said
        assert said.splitlines()[1].split()[:1] == ["1"]
        assert "/pause" in said.splitlines()[1]
    # an orphan is reaped by the init
    node.exec(first, "sh", "-c", "(sleep 0 & exec sleep 0) &")
    zombies = ["sh", "-c", "ps -o stat,comm | grep -c '^Z'"]
    eventually(lambda: bytes(node.exec(first, *zombies).stdout).strip() == b"0")


@pytest.mark.effect("crio.image.pause_command")
def test_a_pause_program_of_the_operator_s(images: Pushed, isolation: Isolation) -> None:
    """The pause image's own command. It is pulled for the first pod, and is in the store as CRI-O's infra is."""
    push_image(images.registry, "sys/init:1", [busybox_layer()], config={"Entrypoint": ["/bin/sleep", "12345"]})
    image = f"{images.registry.address}/sys/init:1"
    other = make_node(images, isolation, drop_in=f'[crio.image]\npause_image = "{image}"\npause_command = ""\n')
    try:
        assert image not in [t for i in other.cri.ListImages().images for t in i.repo_tags]
        maps = [pb.IDMapping(container_id=0, host_id=200_000, length=65536)]
        users = pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)
        pods = [other.pod(linux=linux(pid="POD")), other.pod(linux=linux(pid="POD", userns=users))]
        assert image in [t for i in other.cri.ListImages().images for t in i.repo_tags]
        show = "tr '\\0' ' ' </proc/1/cmdline; touch /proc/1/root/x 2>&1; readlink /proc/1/root"
        for pod in pods:
            said = other.sh(pod, show)
            assert said.startswith("/bin/sleep 12345 ")
            assert "Read-only file system" in said
        other.daemon.kill()
        other.daemon.start()
        assert [other.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state for pod in pods] == [pb.SANDBOX_READY] * 2
        assert other.sh(pods[0], show).startswith("/bin/sleep 12345 ")
    finally:
        end_node(other)


def test_pause_program_runs_where_the_run_directory_forbids_programs(images: Pushed, isolation: Isolation) -> None:
    """As systemd and Debian's initramfs mount /run: no devices, nothing to execute."""

    def prepare(directory: str) -> str:
        os.mkdir(f"{directory}/run")
        mount("tmpfs", f"{directory}/run", "tmpfs", NOSUID | NODEV | NOEXEC)
        return ""

    other = make_node(images, isolation, prepare=prepare)
    try:
        pod = other.pod(linux=linux(pid="POD"))
        said = bytes(other.exec(other.start(pod, "sleep", "1001"), "ps").stdout).decode()
        assert "/pause" in said.splitlines()[1]
        other.clear()
    finally:
        assert other.daemon.stop() == 0
        other.cri.close()
        unmount(f"{other.dir}/run")
        other.daemon.clean()


@pytest.mark.parametrize("pid", ["CONTAINER", "POD"])
def test_what_tools_read_of_a_pod(node: Node, pid: str) -> None:
    """With and without an init: addresses, CNI result and the namespaces' paths are where administrators look."""
    pod = node.pod(
        "inspected",
        linux=linux(pid=pid, sysctls={"net.ipv4.ip_forward": "1"}),
        labels={"app": "web"},
        annotations={"note": "kept"},
        port_mappings=[{"container_port": 80}],
    )
    answer = node.cri.PodSandboxStatus(pod_sandbox_id=pod, verbose=True)
    info = json.loads(answer.info["info"])
    assert set(info) == ({"image", "pid", "runtimeSpec"} if pid == "POD" else {"runtimeSpec"})
    spec = info["runtimeSpec"]
    paths = {n["type"]: n["path"] for n in spec["linux"]["namespaces"] if "path" in n}
    assert {"network", "ipc", "uts"} == set(paths)
    assert all(os.path.exists(path) for path in paths.values())
    assert spec["hostname"] == pod[:12]
    assert spec["linux"]["cgroupsPath"].endswith(f"crio-{pod}")
    notes = spec["annotations"]
    assert notes["note"] == "kept"
    own = {k.removeprefix("io.kubernetes.cri-o."): v for k, v in notes.items() if k.startswith("io.kubernetes.cri-o.")}
    assert own["IP.0"] == answer.status.network.ip
    assert own["IP.0"] in own["CNIResult"]
    assert json.loads(own["Metadata"])["name"] == "inspected"
    assert json.loads(own["Labels"])["app"] == "web"
    assert json.loads(own["PortMappings"]) == [{"protocol": 0, "container_port": 80, "host_port": 0}]
    assert (own["ContainerType"], own["SandboxID"], own["HostNetwork"]) == ("sandbox", pod, "false")
    assert pathlib.Path(own["ResolvPath"]).exists()
    assert notes.get("spoofed.crio.io") == (None if pid == "POD" else "true")


def test_death_of_the_init_makes_a_pod_not_ready(node: Node) -> None:
    pod = node.pod(linux=linux(pid="POD"))
    ctr = node.start(pod, "sleep", "1000")
    info = node.cri.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info["info"]
    os.kill(json.loads(info)["pid"], 9)
    # the kernel ends every process of the namespace with its init
    assert node.ended(ctr).exit_code == 137
    eventually(lambda: node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == pb.SANDBOX_NOTREADY)
    with refused(Code.FAILED_PRECONDITION, pod):
        node.create(pod, "true")


def test_target_pid_namespace(node: Node) -> None:
    pod = node.pod()
    target = node.start(pod, "sleep", "1003")
    said = node.sh(pod, "ps", linux=secured(pid="TARGET", target_id=target))
    assert "sleep 1003" in said
    with refused(Code.NOT_FOUND, "target"):
        node.create(pod, "true", linux=secured(pid="TARGET", target_id="f" * 64))
    node.cri.StopContainer(container_id=target, timeout=0)
    with refused(Code.FAILED_PRECONDITION, "not running"):
        node.create(pod, "true", linux=secured(pid="TARGET", target_id=target))


def test_user_namespace(node: Node) -> None:
    """Mapped pods run where the runtime can; a mapping that makes no sense is refused by name."""
    maps = [pb.IDMapping(container_id=0, host_id=200_000, length=65536)]
    pod = node.pod(linux=linux(userns=pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)))
    status = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status
    assert status.linux.namespaces.options.userns_options.uids[0].host_id == 200_000
    assert status.network.ip
    script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; touch /root/x /dev/shm/x; stat -c %u:%g /root/x /bin"
    ctr = node.start(pod, "sh", "-c", f"{script}; exec sleep 1000")
    eventually(lambda: "0:0\n0:0" in node.output(ctr))
    numbers = node.output(ctr).split()
    assert numbers[:6] == ["0", "200000", "65536"] * 2
    assert numbers[6] == "0"
    assert os.stat(f"/proc/{node.pid_of(ctr)}").st_uid == 200_000
    assert bytes(node.exec(ctr, "id", "-u").stdout) == b"0\n"
    with refused(Code.INVALID_ARGUMENT):
        node.pod(linux=linux(userns=pb.UserNamespace(mode=pb.POD, uids=maps)))
    with refused(Code.INVALID_ARGUMENT, "CONTAINER"):
        node.pod(linux=linux(userns=pb.UserNamespace(mode=pb.CONTAINER)))


def test_user_namespace_with_a_shared_pid_namespace(node: Node) -> None:
    """The pause process lives in it as well, below directories that others may not list."""
    maps = [pb.IDMapping(container_id=0, host_id=200_000, length=65536)]
    pod = node.pod(linux=linux(pid="POD", userns=pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)))
    said = node.sh(pod, "cat /proc/1/cmdline; echo; cat /proc/1/uid_map /proc/self/uid_map")
    assert said.split("\n", 1)[0].startswith("/pause")
    assert said.split()[1:] == ["0", "200000", "65536"] * 2


def test_an_image_volume_of_a_pod_in_a_user_namespace(node: Node, images: Pushed) -> None:
    """Its files are root's as the container sees it. An image of one layer, and one of two."""
    maps = [pb.IDMapping(container_id=0, host_id=200_000, length=65536)]
    pod = node.pod(linux=linux(userns=pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)))
    layers: list[dict[str, bytes | str | None]] = [{"secret": b"inside"}, {"more/deep": b"x"}]
    for count in (1, 2):
        push_image(images.registry, f"sys/volume{count}:1", layers[:count])
        name = f"{images.registry.address}/sys/volume{count}:1"
        node.cri.PullImage(image={"image": name})
        mount = {"container_path": "/v", "image": {"image": name}, "readonly": True}
        code, said = node.run(pod, "sh", "-c", "stat -c '%u %g' /v /v/* && cat /v/secret", mounts=[mount])
        assert (code, said) == (0, "0 0\n" * (count + 1) + "inside")
        node.cri.RemoveImage(image={"image": name})
    node.remove_pod(pod)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([(0, 200_000, 100), (9, 1, 9)], "overlap"),
        ([(0, 200_000, 100), (100, 200_099, 1)], "overlap"),
        ([(1, 200_000, 100)], "leave out id 0"),
        ([(0, 1 << 31, 1 << 31)], "highest id"),
    ],
)
def test_id_maps_that_no_kernel_takes(node: Node, pairs: list[tuple[int, int, int]], words: str) -> None:
    maps = [pb.IDMapping(container_id=c, host_id=h, length=n) for c, h, n in pairs]
    with refused(Code.INVALID_ARGUMENT, words):
        node.pod(linux=linux(userns=pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)))


# --- files, sysctls, cgroups ------------------------------------------------------------------------------------------


def test_shm_size(node: Node) -> None:
    size = "df -k /dev/shm | awk 'NR==2 {print $2}'; stat -c %a /dev/shm"
    assert node.sh(node.pod(), size).split() == ["65536", "1777"]
    assert node.sh(node.pod(annotations={"shm-size.crio.io": "8Mi"}), size).split() == ["8192", "1777"]
    with refused(Code.INVALID_ARGUMENT, "lots"):
        node.pod(annotations={"shm-size.crio.io": "lots"})


def test_shm_is_shared_by_the_pod_and_by_nobody_else(node: Node) -> None:
    pod = node.pod()
    node.sh(pod, "echo mine >/dev/shm/note")
    assert node.sh(pod, "cat /dev/shm/note") == "mine\n"
    assert node.sh(node.pod(), "ls /dev/shm") == ""


def test_hostname_and_resolv_conf(node: Node) -> None:
    dns = pb.DNSConfig(servers=["10.96.0.10", "::1"], searches=["a.local", "b.local"], options=["ndots:5"])
    pod = node.pod(hostname="a-pod", dns_config=dns)
    said = node.sh(pod, "hostname; cat /etc/hostname; echo $HOSTNAME; cat /etc/resolv.conf")
    resolv = ["search a.local b.local", "nameserver 10.96.0.10", "nameserver ::1", "options ndots:5"]
    assert said.splitlines() == ["a-pod"] * 3 + resolv
    plain = node.pod()
    name, *resolv = node.sh(plain, "hostname; cat /etc/resolv.conf").splitlines()
    assert name == plain[:12]
    assert resolv == pathlib.Path("/etc/resolv.conf").read_text().splitlines()
    with refused(Code.INVALID_ARGUMENT, "line break"):
        node.pod(dns_config=pb.DNSConfig(servers=["1.1.1.1\nnameserver 6.6.6.6"]))


def test_sysctls(node: Node) -> None:
    wanted = {"net.ipv4.ip_unprivileged_port_start": "1", "kernel.shmmax": "123456", "net/ipv4/tcp_syncookies": "0"}
    pod = node.pod(linux=linux(sysctls={**wanted, "vm.swappiness": "3"}))
    names = ("net/ipv4/ip_unprivileged_port_start", "kernel/shmmax", "net/ipv4/tcp_syncookies")
    said = node.sh(pod, "cat " + " ".join(f"/proc/sys/{n}" for n in names))
    assert said.split() == ["1", "123456", "0"]
    assert "vm.swappiness" in node.daemon.log  # not namespaced: skipped, and said so
    assert pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip() == "1024"
    for bad in ({"net.ipv4.no_such_thing": "1"}, {"kernel.shmmax": "many"}):
        with refused(Code.INVALID_ARGUMENT, next(iter(bad)).rpartition(".")[2]):
            node.pod(linux=linux(sysctls=bad))


@pytest.mark.effect("crio.runtime.cgroup_manager")
def test_cgroup_parent(node: Node) -> None:
    parent = "/kubepods-test/burstable/pod1"
    pod = node.pod(linux=linux(cgroup_parent=parent))
    ctr = node.start(pod, "sleep", "1000")
    assert f"pids:{parent}/crio-{ctr}\n" in pathlib.Path(f"/proc/{node.pid_of(ctr)}/cgroup").read_text()
    assert os.path.isdir(f"/sys/fs/cgroup/pids{parent}/crio-{pod}")
    node.remove_pod(pod)
    for top in os.listdir("/sys/fs/cgroup"):
        for path in (parent, "/kubepods-test/burstable", "/kubepods-test"):
            os.rmdir(f"/sys/fs/cgroup/{top}{path}")  # the parent is the caller's own, and empty
    small = pathlib.Path("/sys/fs/cgroup/memory/kubepods-small")
    small.mkdir()
    (small / "memory.limit_in_bytes").write_text(str(8 << 20))
    with refused(Code.INVALID_ARGUMENT, "pod set memory limit 8388608 too low"):
        node.pod(linux=linux(cgroup_parent="/kubepods-small"))
    small.rmdir()
    for bad in ("kubepods.slice", "/a/../../b"):
        with refused(Code.INVALID_ARGUMENT, bad):
            node.pod(linux=linux(cgroup_parent=bad))


def test_log_directories(node: Node) -> None:
    given, pod = f"{node.dir}/pods/given", node.pod(log_directory=f"{node.dir}/pods/given")
    default = node.pod(log_directory="")
    assert os.path.isdir(given)
    ctr = node.start(default, "echo", "hi", log_path="")
    node.ended(ctr)
    path = node.status(ctr).log_path
    assert path == f"{node.dir}/logs/{default}/{ctr}.log"
    for each in (pod, default):
        node.remove_pod(each)
    assert os.path.isdir(given)  # the caller's
    assert not os.path.exists(f"{node.dir}/logs/{default}")
    with refused(Code.INVALID_ARGUMENT, "absolute"):
        node.pod(log_directory="logs")


# --- identity ---------------------------------------------------------------------------------------------------------


def test_labels_and_annotations_come_back_verbatim(node: Node) -> None:
    labels = {"app": "x", "tier": "", "io.kubernetes.pod.name": "other"}
    annotations = {"restart": "1", "json": '{"a": [1, "é"]}', "cpu-quota.crio.io": "disable", "empty": ""}
    pod = node.pod("verbatim", labels=labels, annotations=annotations)
    status = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status
    assert dict(status.annotations) == annotations
    assert labels.items() <= dict(status.labels).items()
    listed = next(p for p in node.cri.ListPodSandbox().items if p.id == pod)
    assert dict(listed.annotations) == annotations
    assert dict(listed.labels) == dict(status.labels)
    assert (status.metadata.name, status.metadata.uid) == ("verbatim", "uid-verbatim")
    assert status.created_at == listed.created_at > 0


def test_list_filters(node: Node) -> None:
    first = node.pod(labels={"app": "one", "set": "s"})
    second = node.pod(labels={"app": "two", "set": "s"})

    def ids(**conditions: object) -> set[str]:
        return {p.id for p in node.cri.ListPodSandbox(filter=pb.PodSandboxFilter(**conditions)).items}

    assert ids(id=first) == ids(id=first[:13]) == {first}
    assert ids(id="no-such-id") == ids(label_selector={"app": "three"}) == set()
    assert ids(label_selector={"set": "s"}) == {first, second}
    assert ids(label_selector={"set": "s", "app": "two"}) == {second}
    node.cri.StopPodSandbox(pod_sandbox_id=first)
    ready, stopped = (pb.PodSandboxStateValue(state=s) for s in (pb.SANDBOX_READY, pb.SANDBOX_NOTREADY))
    assert ids(state=ready, label_selector={"set": "s"}) == {second}
    assert ids(state=stopped, label_selector={"set": "s"}) == {first}


def test_same_request_gives_the_same_pod(node: Node) -> None:
    pod = node.pod("twice")
    assert node.pod("twice") == pod
    assert node.pod("twice", attempt=1) not in ("", pod)
    assert node.pod("twice", namespace="elsewhere") != pod


def test_concurrent_requests_give_the_same_pod(node: Node) -> None:
    gate = threading.Barrier(8)

    def ask(_: int) -> str:
        gate.wait()
        return node.pod("crowd")

    with concurrent.futures.ThreadPoolExecutor(8) as crowd:
        assert len(set(crowd.map(ask, range(8)))) == 1
    assert len([p for p in node.cri.ListPodSandbox().items if p.metadata.name == "crowd"]) == 1


def test_a_caller_that_gives_up_gets_the_pod_at_its_retry(node: Node) -> None:
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="late", uid="u", namespace="n"),
        log_directory=f"{node.dir}/pods/late",
        linux=linux(),
    )
    with refused(Code.DEADLINE_EXCEEDED):
        node.cri.RunPodSandbox(config=config, deadline=0.01)
    pod = node.cri.RunPodSandbox(config=config).pod_sandbox_id
    assert [p.id for p in node.cri.ListPodSandbox().items if p.metadata.name == "late"] == [pod]


def test_stop_and_remove_bear_repetition(node: Node) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    for _ in range(2):
        node.cri.StopPodSandbox(pod_sandbox_id=pod, deadline=2.5)  # the grace period follows the deadline
        assert node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == pb.SANDBOX_NOTREADY
        assert node.status(ctr).state == pb.CONTAINER_EXITED
    with refused(Code.FAILED_PRECONDITION, "stopped"):
        node.create(pod, "true")
    for _ in range(2):
        node.cri.RemovePodSandbox(pod_sandbox_id=pod)
    with refused(Code.NOT_FOUND):
        node.status(ctr)
    with refused(Code.NOT_FOUND, pod):
        node.cri.PodSandboxStatus(pod_sandbox_id=pod)


def test_remove_of_a_running_pod(node: Node) -> None:
    pod = node.pod()
    node.start(pod, "sleep", "1000")
    node.cri.RemovePodSandbox(pod_sandbox_id=pod, deadline=3)
    assert pod not in {p.id for p in node.cri.ListPodSandbox().items}


def test_pod_stats(node: Node) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    empty = node.cri.PodSandboxStats(pod_sandbox_id=node.pod()).stats.linux
    assert empty.network.timestamp > 0
    assert empty.process.timestamp > 0
    stats = node.cri.PodSandboxStats(pod_sandbox_id=pod).stats
    assert stats.attributes.id == pod
    assert [c.attributes.id for c in stats.linux.containers] == [ctr]
    assert stats.linux.memory.usage_bytes.value > 0
    assert stats.linux.process.process_count.value == 1
    names = {stats.linux.network.default_interface.name, *(i.name for i in stats.linux.network.interfaces)}
    assert "eth0" in names
    assert [s.attributes.id for s in node.cri.ListPodSandboxStats(filter={"id": pod}).stats] == [pod]
