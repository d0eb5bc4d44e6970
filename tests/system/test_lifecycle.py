"""The daemon under a service manager, and on records that a later version left."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.daemon import Daemon
from tests.isolation import Isolation, mounts_below, short_directory, unmount
from tests.system.conftest import Pushed
from tests.system.node import Node, assert_nothing_new, eventually, refused
from tests.system.test_restart import gone

pytestmark = pytest.mark.system


@contextlib.contextmanager
def daemon_in(directory: str, **env: str) -> Iterator[Daemon]:
    daemon = Daemon(directory, env=env)
    try:
        yield daemon
    finally:
        daemon.clean()


@pytest.fixture
def directory() -> Iterator[str]:
    path = short_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def heard(manager: socket.socket) -> dict[str, str]:
    """The next message, pings of the watchdog left out."""
    while True:
        fields = dict(line.partition("=")[::2] for line in manager.recv(4096).decode().splitlines())
        if fields != {"WATCHDOG": "1"}:
            return fields


def test_a_service_manager_is_told_of_the_whole_life(directory: str, isolation: Isolation, images: Pushed) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.settimeout(60)
        with daemon_in(directory, NOTIFY_SOCKET=f"{directory}/notify", WATCHDOG_USEC="1100000") as daemon:
            daemon.insecure(images.registry.address)
            daemon.start(wait=False)
            assert heard(manager) == {"READY": "1", "STATUS": "Serving"}
            with daemon.client() as cri:  # ready is ready: no second attempt
                assert cri.Status().status.conditions[0].status
            while manager.recv(4096) != b"WATCHDOG=1":
                pass
            node = Node(daemon, isolation, images.busy)
            node.cri.PullImage(image={"image": images.busy})
            # A runtime that inherits the socket would hand it on, and wait for READY from the container.
            assert "NOTIFY_SOCKET" not in node.sh(node.pod(), "env")
            node.clear()
            node.cri.close()
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGHUP)
            reloading = heard(manager)
            assert reloading.pop("RELOADING") == "1"
            assert int(reloading.pop("MONOTONIC_USEC")) > 0
            assert heard(manager)["READY"] == "1"
            pathlib.Path(directory, "conf.d", "bad.conf").write_text('[crio.runtime]\nlog_level = "shouting"\n')
            daemon.process.send_signal(signal.SIGHUP)
            assert heard(manager)["RELOADING"] == "1"
            assert heard(manager)["READY"] == "1"  # it serves on, with what it had
            assert daemon.stop() == 0
            assert heard(manager) == {"STOPPING": "1"}


def test_a_daemon_whose_socket_is_gone_gives_no_sign_of_life(directory: str, isolation: Isolation) -> None:
    """It is well but for that nobody reaches it: the manager starts another."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.settimeout(60)
        with daemon_in(directory, NOTIFY_SOCKET=f"{directory}/notify", WATCHDOG_USEC="1100000") as daemon:
            daemon.start()
            while manager.recv(4096) != b"WATCHDOG=1":
                pass
            os.unlink(f"{directory}/crio.sock")
            eventually(lambda: daemon.log.count("Health check failed") > 1)
            manager.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while manager.recv(4096):
                    pass  # signs from before
            looked = daemon.log.count("Health check failed")
            eventually(lambda: daemon.log.count("Health check failed") > looked)
            with pytest.raises(BlockingIOError):
                manager.recv(4096)
            assert daemon.stop() == 0


def test_the_end_waits_for_calls_and_takes_no_new_ones(directory: str, isolation: Isolation, images: Pushed) -> None:
    """SIGTERM, and again while it ends: calls under way finish, new ones are Unavailable, containers go on."""
    with daemon_in(directory) as daemon:
        daemon.insecure(images.registry.address)
        daemon.start()
        node = Node(daemon, isolation, images.busy)
        node.cri.PullImage(image={"image": images.busy})
        pod = node.pod()
        ctr = node.start(pod, "sleep", "1000")
        pid = node.pid_of(ctr)
        assert daemon.process is not None
        with concurrent.futures.ThreadPoolExecutor(1) as other, daemon.client() as late:
            late.Version()
            running = other.submit(node.exec, ctr, "sh", "-c", "sleep 1; echo done")
            eventually(lambda: any(line == "sleep 1" for line in isolation.processes().values()))
            daemon.process.send_signal(signal.SIGTERM)
            eventually(lambda: "Stopping; containers go on" in daemon.log)
            daemon.process.send_signal(signal.SIGTERM)
            with refused(grpc.StatusCode.UNAVAILABLE):
                late.Version(deadline=20)
            assert bytes(running.result().stdout) == b"done\n"
        assert daemon.process.wait(30) == 0
        assert os.path.exists(f"{directory}/clean.shutdown")
        assert not os.path.exists(f"{directory}/crio.sock")
        daemon.start()
        node.cri.close()
        node.cri = daemon.client()
        assert node.pid_of(ctr) == pid
        node.clear()
        node.cri.close()


def test_a_daemon_that_cannot_start_is_never_ready(directory: str, isolation: Isolation) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.setblocking(False)
        daemon = Daemon(directory, env={"NOTIFY_SOCKET": f"{directory}/notify"})
        pathlib.Path(directory, "conf.d", "bad.conf").write_text('[crio.runtime]\ndefault_runtime = "none"\n')
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 1
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_records_of_a_later_version(directory: str, isolation: Isolation, images: Pushed) -> None:
    """They stop the start, which says what can be done; what they tell of goes on meanwhile, and goes when told to."""
    with daemon_in(directory) as daemon:
        daemon.insecure(images.registry.address)
        daemon.start()
        node = Node(daemon, isolation, images.busy)
        node.cri.PullImage(image={"image": images.busy})
        before = node.picture()
        pod = node.pod()
        ctr = node.start(pod, "sleep", "1000")
        pid = node.pid_of(ctr)
        daemon.kill()
        (path,) = pathlib.Path(directory, "run/pycrio/state/pods").glob("*.json")
        text = path.read_text()
        path.write_text(text.replace('"version":1', '"version":2', 1))
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 1
        said = daemon.log.splitlines()[-1]
        for word in (pod, "version 2", "knows 1", str(path), "Start the pycrio that wrote it again", "delete"):
            assert word in said
        os.kill(pid, 0)
        path.write_text(text)
        daemon.start()
        node.cri.close()
        node.cri = daemon.client()
        assert node.pid_of(ctr) == pid
        daemon.kill()
        path.unlink()
        daemon.start()
        node.cri.close()
        node.cri = daemon.client()
        assert not node.cri.ListContainers().containers
        gone(pid)
        left = {k: v - before[k] for k, v in node.picture().items() if isinstance(v, set) and v - before[k]}
        assert left == {}
        node.cri.close()


def reboot(daemon: Daemon, isolation: Isolation) -> None:
    """What a reboot does to a node: processes, mounts, namespaces, cgroups and everything on tmpfs are gone. What is on
    disks stays: the store, and what CNI plugins noted."""
    node = Node(daemon, isolation, "")
    daemon.kill()
    node.cri.close()
    isolation.end({pid: line for pid, line in isolation.processes().items() if node._ours(pid, line)})
    for point in reversed(mounts_below(daemon.dir)):
        unmount(point)
    for name in ("run", "ns", "exits", "attach", "rt", "version", "crio.sock"):
        path = pathlib.Path(daemon.dir, name)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for top in isolation.hierarchies():
        for group, _, _ in os.walk(f"{top}/crio", topdown=False):
            os.rmdir(group)
    for link in pathlib.Path("/proc/self/net/dev_snmp6").iterdir():
        if link.name.startswith("veth"):
            subprocess.run(["ip", "link", "del", link.name], check=False)


def test_a_reboot(directory: str, isolation: Isolation, images: Pushed) -> None:
    """Containers of the earlier boot go from the store, their addresses are free again; images stay."""
    with daemon_in(directory) as daemon:
        daemon.insecure(images.registry.address)
        daemon.start()
        node = Node(daemon, isolation, images.busy)
        node.cri.PullImage(image={"image": images.busy})
        before = node.picture()
        pods = [node.pod(port_mappings=[pb.PortMapping(container_port=80, host_port=18090 + n)]) for n in range(2)]
        for pod in pods:
            node.start(pod, "sleep", "1000")
        reboot(daemon, isolation)
        daemon.start()
        node.cri.close()
        node.cri = daemon.client()
        assert not node.cri.ListPodSandbox().items
        assert not node.cri.ListContainers().containers
        assert len(node.cri.ListImages().images) == 1
        before["descriptors"] = node.picture()["descriptors"]
        assert_nothing_new(node, before)
        pod = node.pod(port_mappings=[pb.PortMapping(container_port=80, host_port=18090)])
        assert node.sh(pod, "echo up") == "up\n"
        node.clear()
        node.cri.close()


@pytest.mark.parametrize("kind", ["mount", "net", "file", "absent"])
def test_a_mount_namespace_to_join(directory: str, isolation: Isolation, images: Pushed, kind: str) -> None:
    """KUBENSMNT: there pods are run; what is no mount namespace costs a warning only."""
    pin = f"{directory}/kubens"
    pathlib.Path(pin).touch()
    own = os.readlink("/proc/self/ns/mnt")
    if kind in ("mount", "net"):
        subprocess.run(["unshare", f"--{kind}={pin}", "true"], check=True)
    try:
        with daemon_in(directory, KUBENSMNT=f"{directory}/none" if kind == "absent" else pin) as daemon:
            daemon.insecure(images.registry.address)
            daemon.start()
            assert daemon.process is not None
            now = os.readlink(f"/proc/{daemon.process.pid}/ns/mnt")
            if kind != "mount":
                assert now == own
                assert "KUBENSMNT is not joined, going on in that of the parent" in daemon.log
                return
            assert now == f"mnt:[{os.stat(pin).st_ino}]"
            assert 'msg="Joined mount namespace"' in daemon.log
            node = Node(daemon, isolation, images.busy)
            node.cri.PullImage(image={"image": images.busy})
            ctr = node.start(node.pod(), "sleep", "1000")
            assert bytes(node.exec(ctr, "echo", "here").stdout) == b"here\n"
            assert mounts_below(directory) == [pin]
            node.clear()
            node.cri.close()
    finally:
        if kind in ("mount", "net"):
            unmount(pin)
