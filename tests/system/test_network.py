"""Pods on real CNI plugins and real port rules, in a network namespace that each test makes and leaves behind empty."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import inspect
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pycrio._native import ns, pools
from pycrio.drivers.network import nft
from pycrio.drivers.network.cni import Network
from pycrio.drivers.network.cni import Settings as NetworkSettings
from pycrio.drivers.network.hostport import HostPorts, Settings
from pycrio.errors import AlreadyExists, NetworkFailure
from pycrio.model.pod import PortMapping, Protocol
from pycrio.model.requests import NetworkRequest

pytestmark = pytest.mark.system

T = TypeVar("T")
PLUGINS = "/usr/lib/cni"
GATEWAY4, GATEWAY6, OUTER4, OUTER6 = "10.77.0.1", "fd77::1", "192.0.2.7", "2001:db8::7"
_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _in_thread(work: Callable[[], T]) -> T:
    """Run in a thread of its own, which may change its network namespace."""
    found: list[T] = []
    failed: list[BaseException] = []

    def main() -> None:
        try:
            found.append(work())
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def inside(netns: str, work: Callable[[], T]) -> T:
    """Run in a pod's network namespace: sockets made there stay there."""

    def main() -> T:
        with open(netns, "rb") as f:
            assert _libc.setns(f.fileno(), _NEWNET) == 0, os.strerror(ctypes.get_errno())
        return work()

    return _in_thread(main)


def sh(*argv: str, netns: str = "") -> str:
    """Run a program, in a pod's namespace if one is given."""

    def work() -> str:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    return inside(netns, work) if netns else work()


def apart(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test runs in a network namespace of its own, its loop and its pools with it."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        def main() -> None:
            assert _libc.unshare(_NEWNET) == 0, os.strerror(ctypes.get_errno())
            sh("ip", "link", "set", "lo", "up")
            try:
                asyncio.run(test(*args, **kwargs))
            finally:
                pools.shutdown()

        pools.shutdown()  # threads that are there already live elsewhere
        _in_thread(main)

    # Otherwise pytest takes it for a coroutine function.
    del wrapper.__wrapped__
    wrapper.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return wrapper


def tables() -> str:
    """All rules of the host, without counters and handles."""
    return re.sub(r"packets \d+ bytes \d+", "", sh("nft", "list", "ruleset"))


@dataclass
class Pod:
    """A namespace, and what was made of it."""

    id: str
    netns: str
    ips: tuple[str, ...] = ()

    @property
    def request(self) -> NetworkRequest:
        return NetworkRequest(self.id, "pod", "ns", "uid", self.netns)

    def listen(self, port: int, kind: int = socket.SOCK_STREAM, proto: int = 0) -> dict[int, socket.socket]:
        """Listening sockets of both families by version."""

        def make() -> dict[int, socket.socket]:
            made = {}
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                s = socket.socket(family, kind, proto)
                if version == 6:
                    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("", port))
                if kind != socket.SOCK_DGRAM:
                    s.listen()
                made[version] = s
            return made

        return inside(self.netns, make)


class Host:
    """The test's namespace as a node: a second address, a network by plugins, pods."""

    def __init__(self, path: Path, *more: dict[str, Any]) -> None:
        self.path = path
        self.net_d = path / "net.d"
        self.net_d.mkdir()
        (path / "bin").mkdir(exist_ok=True)
        ranges = [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]
        ipam = {
            "type": "host-local",
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            "dataDir": str(path / "ipam"),
        }
        bridge = {"type": "bridge", "bridge": "cni77", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        document = {"cniVersion": "1.0.0", "name": "net77", "plugins": [bridge, *more]}
        (self.net_d / "10-net.conflist").write_text(json.dumps(document))
        sh("ip", "link", "add", "outer", "type", "bridge")
        sh("ip", "link", "set", "outer", "up")
        sh("ip", "addr", "add", f"{OUTER4}/24", "dev", "outer")
        sh("ip", "addr", "add", f"{OUTER6}/64", "dev", "outer", "nodad")
        self.pods: list[Pod] = []
        dirs = (str(path / "bin"), PLUGINS)
        self.network = Network(NetworkSettings(str(self.net_d), dirs, cache_dir=str(path / "cache")))

    async def __aenter__(self) -> Host:
        await self.network.open()
        await asyncio.wait_for(self.network.ready(), 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.network.close()
        for pod in self.pods:
            ns.unpin(pod.netns)

    def namespace(self) -> Pod:
        pod = Pod(f"{len(self.pods):064x}", str(self.path / f"netns{len(self.pods)}"))
        ns.create({"net": pod.netns})
        self.pods.append(pod)
        return pod

    async def pod(self) -> Pod:
        pod = self.namespace()
        pod.ips = (await self.network.add(pod.request)).ips
        return pod

    @property
    def leases_dir(self) -> Path:
        """Where host-local keeps a file per address."""
        return self.path / "ipam" / "net77"

    def leases(self) -> list[str]:
        """Addresses that are given away."""
        directory = self.leases_dir
        return sorted(n for n in os.listdir(directory) if n[0].isdigit() or ":" in n) if directory.exists() else []

    def ports(self) -> list[str]:
        """The pods' ends on the bridge."""
        return [line.split(":")[1].strip() for line in sh("ip", "-o", "link", "show", "type", "veth").splitlines()]


def reach(address: str, port: int, server: socket.socket, netns: str = "", proto: int = 0) -> str:
    """Connect, exchange a word both ways, and say whom the server saw."""

    def work() -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM, proto) as client:
            client.settimeout(20)
            client.connect((address, port))
            server.settimeout(20)
            accepted, peer = server.accept()
            with accepted:
                client.sendall(b"ping")
                assert accepted.recv(4) == b"ping"
                accepted.sendall(b"pong")
                assert client.recv(4) == b"pong"
            return str(peer[0])

    return inside(netns, work) if netns else work()


def refused(address: str, port: int) -> bool:
    """Nobody answers there, and that at once."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(20)
        return s.connect_ex((address, port)) == errno.ECONNREFUSED


@contextlib.contextmanager
def closing(servers: dict[int, socket.socket]) -> Iterator[dict[int, socket.socket]]:
    try:
        yield servers
    finally:
        for s in servers.values():
            s.close()


def mapping(host: int, container: int, ip: str = "", protocol: Protocol = Protocol.TCP) -> PortMapping:
    return PortMapping(protocol, container, host, ip)


def hostports(backend: str) -> HostPorts:
    """A driver whose nft is there or not."""
    driver = HostPorts(Settings())
    if backend == "iptables":

        async def prepare(family: int) -> None:
            raise nft.Missing("not for this test")

        driver._nft.prepare = prepare  # type: ignore[method-assign]
    return driver


both = pytest.mark.parametrize("backend", ["nftables", "iptables"])

# --- CNI --------------------------------------------------------------------------------------------------------------


@apart
async def test_attach_check_detach(tmp_path: Path) -> None:
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}
    async with Host(tmp_path, tuning, {"type": "firewall"}) as host:
        before = tables()
        one, two = await host.pod(), await host.pod()
        assert one.ips == ("10.77.0.2", "fd77::2")
        assert two.ips == ("10.77.0.3", "fd77::3")
        assert set(one.ips) <= set(ns.addresses(one.netns, "eth0"))
        assert [s.name for s in ns.link_stats(one.netns)] == ["lo", "eth0"]
        assert host.leases() == ["10.77.0.2", "10.77.0.3", "fd77::2", "fd77::3"]
        with closing(two.listen(80)) as servers:
            assert reach(two.ips[0], 80, servers[4], one.netns) == one.ips[0]
            assert reach(two.ips[1], 80, servers[6], one.netns) == one.ips[1]
        await host.network.check(one.request)
        sh("ip", "addr", "flush", "dev", "eth0", netns=one.netns)
        with pytest.raises(NetworkFailure, match=r"plugin 'bridge' \(CHECK\)"):
            await host.network.check(one.request)
        await host.network.delete(one.request)
        await host.network.delete(one.request)
        assert host.leases() == ["10.77.0.3", "fd77::3"]
        assert len(host.ports()) == 1
        ns.unpin(two.netns)
        await host.network.delete(two.request)
        assert host.leases() == []
        assert os.listdir(tmp_path / "cache") == []
        assert "10.77.0" not in tables()
        assert tables().count("table") >= before.count("table")


@apart
async def test_a_late_plugin_that_fails_leaves_no_address(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "late"
    script.write_text("#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND = ADD ] && echo oh no && exit 1\nexit 0\n")
    script.chmod(0o755)
    async with Host(tmp_path, {"type": "late"}) as host:
        pod = host.namespace()
        with pytest.raises(NetworkFailure, match="oh no"):
            await host.network.add(pod.request)
        assert host.leases() == []
        assert host.ports() == []
        assert os.listdir(tmp_path / "cache") == []


@apart
async def test_gc_after_a_crash(tmp_path: Path) -> None:
    async with Host(tmp_path) as host:
        lost, kept = await host.pod(), await host.pod()
        ns.unpin(lost.netns)
        dirs = (PLUGINS,)
        again = Network(NetworkSettings(str(host.net_d), dirs, cache_dir=str(tmp_path / "cache")))
        await again.open()
        await again.gc([kept.request])
        await again.close()
        assert host.leases() == sorted(kept.ips)
        await host.network.delete(kept.request)


@apart
async def test_an_address_whose_owner_a_power_cut_erased_is_free_again(tmp_path: Path) -> None:
    """host-local does not sync what it writes: after a power cut the file may be there and empty."""
    async with Host(tmp_path) as host:
        lost, kept = await host.pod(), await host.pod()
        for address in lost.ips:
            (host.leases_dir / address).write_text("")
        await host.network.delete(lost.request)  # succeeds, as it has to, and frees nothing
        assert host.leases() == sorted([*lost.ips, *kept.ips])
        await host.network.gc([kept.request])
        assert host.leases() == sorted(kept.ips)
        await host.network.delete(kept.request)


@apart
async def test_plugins_of_debian_do_not_speak_1_1(tmp_path: Path) -> None:
    async with Host(tmp_path) as host:
        path = host.net_d / "10-net.conflist"
        path.write_text(path.read_text().replace('"1.0.0"', '"1.1.0"'))
        fresh = Network(NetworkSettings(str(host.net_d), (PLUGINS,), cache_dir=str(tmp_path / "cache")))
        await fresh.open()
        assert "plugin 'bridge' speaks CNI" in fresh.condition().message
        await fresh.close()


# --- host ports -------------------------------------------------------------------------------------------------------


@both
@apart
async def test_tcp_from_everywhere(tmp_path: Path, backend: str) -> None:
    async with Host(tmp_path) as host:
        pod, other = await host.pod(), await host.pod()
        driver = hostports(backend)
        before = tables()
        await driver.add(pod.id, "ns_pod", pod.ips, [mapping(8080, 80)])
        with closing(pod.listen(80)) as servers:
            # The node itself, by every address of its own.
            assert reach("127.0.0.1", 8080, servers[4]) == GATEWAY4, "loopback addresses do not leave the node"
            assert reach(OUTER4, 8080, servers[4]) in (OUTER4, GATEWAY4)
            assert reach(GATEWAY4, 8080, servers[4]) == GATEWAY4
            assert reach(OUTER6, 8080, servers[6]) in (OUTER6, GATEWAY6)
            # The kernel lets no packet with ::1 out: refused, so that clients of "localhost" go on to 127.0.0.1.
            assert refused("::1", 8080)
            # Another pod is seen by its own address, the pod itself as the node.
            assert reach(OUTER4, 8080, servers[4], other.netns) == other.ips[0]
            assert reach(OUTER6, 8080, servers[6], other.netns) == other.ips[1]
            assert reach(OUTER4, 8080, servers[4], pod.netns) == GATEWAY4
            assert reach(OUTER6, 8080, servers[6], pod.netns) == GATEWAY6
            # Other hosts' ports are none of ours.
            with closing(other.listen(8080)) as theirs:
                assert reach(other.ips[0], 8080, theirs[4]) == GATEWAY4
        await driver.remove(pod.id)
        for address in ("127.0.0.1", OUTER4, "::1", OUTER6):
            assert refused(address, 8080)
        if backend == "nftables":
            assert tables() == before
            assert sh("cat", "/proc/sys/net/ipv4/conf/cni77/route_localnet").strip() == "0"
        else:
            assert "8080" not in tables()
            assert "KUBE-HOSTPORTS" not in tables()


@both
@apart
async def test_host_addresses_restrict_and_come_first(tmp_path: Path, backend: str) -> None:
    async with Host(tmp_path) as host:
        pod, other = await host.pod(), await host.pod()
        driver = hostports(backend)
        await driver.add(other.id, "wide", other.ips, [mapping(8080, 80)])
        await driver.add(pod.id, "narrow", pod.ips, [mapping(8080, 80, OUTER4), mapping(8081, 80, OUTER6)])
        with closing(pod.listen(80)) as narrow, closing(other.listen(80)) as wide:
            reach(OUTER4, 8080, narrow[4])
            reach("127.0.0.1", 8080, wide[4])
            reach(OUTER6, 8080, wide[6])
            reach(OUTER6, 8081, narrow[6])
        for address in ("127.0.0.1", OUTER4, "::1"):
            assert refused(address, 8081)
        with pytest.raises(AlreadyExists, match=f"{OUTER4}:8080/tcp"):
            await driver.add("f" * 64, "third", ["10.77.0.9"], [mapping(8080, 80, OUTER4)])
        await driver.remove(pod.id)
        with closing(other.listen(80)) as wide:
            reach(OUTER4, 8080, wide[4])
        await driver.remove(other.id)
        assert refused(OUTER4, 8080)


@both
@apart
async def test_udp_goes_to_the_new_pod_at_once(tmp_path: Path, backend: str) -> None:
    async with Host(tmp_path) as host:
        one, two = await host.pod(), await host.pod()
        driver = hostports(backend)
        with (
            closing(one.listen(53, socket.SOCK_DGRAM)) as first,
            closing(two.listen(53, socket.SOCK_DGRAM)) as second,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            client.connect((OUTER4, 5353))
            for pod, servers in ((one, first), (two, second)):
                await driver.add(pod.id, "dns", pod.ips, [mapping(5353, 53, protocol=Protocol.UDP)])
                client.settimeout(20)
                with contextlib.suppress(ConnectionRefusedError):  # left over from before the port was open
                    client.send(b"stale")
                client.send(b"query")
                servers[4].settimeout(20)
                data, peer = servers[4].recvfrom(100)
                while data != b"query":
                    data, peer = servers[4].recvfrom(100)
                servers[4].sendto(b"answer", peer)
                assert client.recv(100) == b"answer"
                await driver.remove(pod.id)


@both
@apart
async def test_sctp(tmp_path: Path, backend: str) -> None:
    async with Host(tmp_path) as host:
        pod = await host.pod()
        driver = hostports(backend)
        await driver.add(pod.id, "sctp", pod.ips, [mapping(9000, 900, protocol=Protocol.SCTP)])
        rules = tables()
        assert "sctp" in rules
        assert re.search(r"sctp \. 9000|sctp dport 9000|--dport 9000", rules)
        await driver.remove(pod.id)
        assert "sctp" not in tables()


@both
@apart
async def test_pods_cannot_use_route_localnet_to_reach_the_nodes_loopback(tmp_path: Path, backend: str) -> None:
    async with Host(tmp_path) as host:
        pod = await host.pod()
        driver = hostports(backend)
        await driver.add(pod.id, "pod", pod.ips, [mapping(8080, 80)])
        assert sh("cat", "/proc/sys/net/ipv4/conf/cni77/route_localnet").strip() == "1"
        # The pod takes its own loopback away and sends 127.0.0.1 to the node.
        sh("ip", "addr", "del", "127.0.0.1/8", "dev", "lo", netns=pod.netns)
        sh("ip", "route", "add", "127.0.0.0/8", "via", GATEWAY4, "src", pod.ips[0], netns=pod.netns)
        sh("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet", netns=pod.netns)
        with socket.socket() as secret:
            secret.bind(("127.0.0.1", 7777))
            secret.listen()

            def attack() -> int:
                with socket.socket() as s:
                    s.settimeout(0.5)
                    return s.connect_ex(("127.0.0.1", 7777))

            assert inside(pod.netns, attack) != 0
            # Without the guard it would have come through, so the test is worth something.
            if backend == "nftables":
                sh("nft", "flush", "chain", "ip", "crio-hostports", "localnet")
            else:
                sh("iptables", "-t", "raw", "-F", "PREROUTING")
            sh("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/cni77/rp_filter")
            sh("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")
            assert inside(pod.netns, attack) == 0


@apart
async def test_restart_and_sweep(tmp_path: Path) -> None:
    async with Host(tmp_path) as host:
        before = tables()
        one, two = await host.pod(), await host.pod()
        old = hostports("iptables")
        await old.add(one.id, "old", one.ips, [mapping(8080, 80)])
        await hostports("nftables").add(two.id, "pod", two.ips, [mapping(8081, 80)])
        fresh = HostPorts(Settings())
        with pytest.raises(AlreadyExists):
            await fresh.add("f" * 64, "new", ["10.77.0.9"], [mapping(8080, 80)])
        await fresh.sweep([one.id, two.id])
        with closing(one.listen(80)) as first, closing(two.listen(80)) as second:
            reach(OUTER4, 8080, first[4])
            reach(OUTER4, 8081, second[4])
            await fresh.sweep([two.id])
            assert refused(OUTER4, 8080)
            reach(OUTER4, 8081, second[4])
        assert "KUBE-H" not in tables()
        await fresh.sweep([])
        assert refused(OUTER4, 8081)
        assert "crio-hostports" not in tables()
        assert "crio-hostports" not in before


@apart
async def test_a_flushed_ruleset_is_set_up_again(tmp_path: Path) -> None:
    async with Host(tmp_path) as host:
        one, two = await host.pod(), await host.pod()
        driver = HostPorts(Settings())
        await driver.add(one.id, "pod", one.ips, [mapping(8080, 80)])
        sh("nft", "flush", "ruleset")
        await driver.add(two.id, "pod", two.ips, [mapping(8081, 80)])
        with closing(two.listen(80)) as servers:
            reach("127.0.0.1", 8081, servers[4])
        await driver.remove(one.id)
        await driver.remove(two.id)
        assert "crio-hostports" not in tables()


@apart
async def test_a_table_of_another_layout_is_made_anew(tmp_path: Path) -> None:
    async with Host(tmp_path) as host:
        pod = await host.pod()
        sh("nft", "add", "table", "ip", "crio-hostports")
        sh("nft", "add", "map", "ip", "crio-hostports", "hostports", "{ type inet_service : ipv4_addr ; }")
        driver = HostPorts(Settings())
        await driver.add(pod.id, "pod", pod.ips, [mapping(8080, 80)])
        with closing(pod.listen(80)) as servers:
            reach(OUTER4, 8080, servers[4])
        await driver.remove(pod.id)
