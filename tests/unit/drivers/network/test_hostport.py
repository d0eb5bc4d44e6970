"""Host ports: what is asked of the programs, and that what the driver knows is what the kernel has."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable

import pytest

from pycrio.drivers.network import hostport, iptables, localnet, nft
from pycrio.drivers.network.hostport import HostPorts, Settings
from pycrio.drivers.network.iptables import Dump, compose
from pycrio.drivers.network.rules import V4, V6, Rule, plan
from pycrio.errors import AlreadyExists, InvalidRequest, NetworkFailure, Unsupported
from pycrio.model.pod import PortMapping, Protocol
from tests.unit.drivers.network.kernel import Kernel

A, B = "a" * 64, "b" * 64
TABLE = "crio-hostports"


def tcp(host: int, container: int = 80, ip: str = "") -> PortMapping:
    return PortMapping(Protocol.TCP, container, host, ip)


def udp(host: int, container: int = 53, ip: str = "") -> PortMapping:
    return PortMapping(Protocol.UDP, container, host, ip)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    for module in (nft, iptables, hostport):
        monkeypatch.setattr(module, "run", kernel.run)
    monkeypatch.setattr(iptables, "_LISTS", {V4: "/nonexistent", V6: "/nonexistent"})
    opened: set[str] = set()
    monkeypatch.setattr(localnet, "closed_interface", lambda ip: "" if "cni0" in opened else "cni0")
    monkeypatch.setattr(localnet, "allow", lambda names, on: opened.update(names) if on else opened.clear())
    return kernel


@pytest.fixture
def ports(kernel: Kernel) -> HostPorts:
    return HostPorts(Settings())


# --- plans ------------------------------------------------------------------------------------------------------------


def keys(rules: tuple[Rule, ...]) -> list[tuple[int, str, str, int, str]]:
    return [(r.family, r.protocol, r.host_ip, r.host_port, r.target) for r in rules]


def test_first_address_of_each_family() -> None:
    rules = plan(A, ["fd00::0:5", "10.0.0.5", "10.0.0.6"], [tcp(8080), tcp(0), tcp(-1)])
    assert keys(rules) == [(4, "tcp", "", 8080, "10.0.0.5:80"), (6, "tcp", "", 8080, "[fd00::5]:80")]


@pytest.mark.parametrize(
    ("host_ip", "found"),
    [
        ("", [(4, ""), (6, "")]),
        ("0.0.0.0", [(4, "")]),
        ("::", [(6, "")]),
        ("127.0.0.1", [(4, "127.0.0.1")]),
        ("fd00:0::1", [(6, "fd00::1")]),
    ],
)
def test_the_host_address_restricts(host_ip: str, found: list[tuple[int, str]]) -> None:
    rules = plan(A, ["10.0.0.5", "fd00::5"], [tcp(1, ip=host_ip)])
    assert [(r.family, r.host_ip) for r in rules] == found


@pytest.mark.parametrize(
    ("mappings", "words"),
    [
        ([tcp(1, 0)], "not between 1 and 65535"),
        ([tcp(1, 65536)], "not between 1 and 65535"),
        ([tcp(65536)], "not between 1 and 65535"),
        ([tcp(1, ip="localhost")], "is not an IP address"),
        ([tcp(1, ip="fe80::1%eth0")], "has a zone"),
        ([tcp(1, ip="::1")], "needs a pod address of its family"),
        ([tcp(1, 80), tcp(1, 81)], "mapped to both 80 and 81"),
    ],
)
def test_impossible_mappings(mappings: list[PortMapping], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as e:
        plan(A, ["10.0.0.5"], mappings)
    assert A in str(e.value)


def test_the_same_mapping_twice_is_one() -> None:
    assert len(plan(A, ["10.0.0.5"], [tcp(1), tcp(1), udp(1, 80), tcp(1, ip="10.1.1.1")])) == 3


def test_names_are_those_of_other_daemons() -> None:
    def short(text: str) -> str:
        return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16]

    (rule,) = plan(A, ["10.0.0.5"], [PortMapping(Protocol.SCTP, 99, 9, "0.0.0.0")])
    assert rule.tag == short(A)
    assert rule.chain == short(A + "9" + "SCTP" + "0.0.0.0")
    untagged = Rule(V4, "sctp", "", 9, "10.0.0.5", 99, "", rule.chain)
    assert untagged.of(A)
    assert not untagged.of(B)


# --- nftables ---------------------------------------------------------------------------------------------------------


async def test_a_pod_without_ports_runs_nothing(kernel: Kernel, ports: HostPorts) -> None:
    await ports.add(A, "pod", ["10.0.0.5"], [tcp(0)])
    assert kernel.calls == []
    await ports.sweep([A])
    kernel.calls.clear()
    for _ in range(3):
        await ports.add(A, "pod", ["10.0.0.5"], [])
        await ports.remove(A)
    await ports.sweep([])
    assert kernel.calls == []


async def test_open_and_close(kernel: Kernel, ports: HostPorts) -> None:
    await ports.add(A, "pod", ["10.0.0.5", "fd00::5"], [tcp(8080), tcp(81, ip="127.0.0.1"), tcp(82, ip="::1")])
    await ports.add(B, "other", ["10.0.0.6"], [tcp(90)])
    assert kernel.ports() == {
        "tcp . 8080": "10.0.0.5 . 80",
        "127.0.0.1 . tcp . 81": "10.0.0.5 . 80",
        "tcp . 90": "10.0.0.6 . 80",
    }
    assert kernel.ports("ip6") == {"tcp . 8080": "fd00::5 . 80", "::1 . tcp . 82": "fd00::5 . 80"}
    assert kernel.hairpins() == ["10.0.0.5", "10.0.0.6"]
    assert list(kernel.tables[f"ip {TABLE}"]["localnets"]) == ['"cni0"']
    await ports.remove(A)
    assert kernel.ports() == {"tcp . 90": "10.0.0.6 . 80"}
    assert kernel.hairpins() == ["10.0.0.6"]
    assert f"ip6 {TABLE}" not in kernel.tables, "the table goes with its last rule"
    await ports.remove(B)
    assert kernel.tables == {}
    kernel.calls.clear()
    await ports.remove(B)
    assert kernel.calls == []


async def test_loopback_is_closed_again_with_the_last_port(
    kernel: Kernel, ports: HostPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[tuple[str, ...], bool]] = []
    monkeypatch.setattr(localnet, "allow", lambda names, on: told.append((tuple(names), on)))
    await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    await ports.add(B, "pod", ["10.0.0.6"], [tcp(81)])
    assert told == [(("cni0",), True), (("cni0",), True)]
    assert kernel.scripts[0].count("localnets") >= 3, "the guard is there before the interface is opened"
    again = HostPorts(Settings())
    await again.remove(A)
    assert told[2:] == []
    await again.remove(B)
    assert told[2:] == [(("cni0",), False)]


async def test_loopback_is_left_alone_where_nobody_asks(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(ip: str) -> str:
        raise AssertionError(ip)

    monkeypatch.setattr(localnet, "closed_interface", never)
    await HostPorts(Settings()).add(A, "pod", ["10.0.0.5"], [tcp(80, ip="192.0.2.1")])
    await HostPorts(Settings(localhost=False)).add(B, "pod", ["10.0.0.6"], [tcp(80)])


async def test_loopback_that_cannot_be_opened_is_no_failure(
    kernel: Kernel, ports: HostPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(localnet, "allow", refuse)
    await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    monkeypatch.setattr(localnet, "closed_interface", refuse)
    await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    assert len(kernel.ports()) == 1


async def test_adding_again_is_harmless_and_follows_the_pods_address(kernel: Kernel, ports: HostPorts) -> None:
    for _ in range(2):
        await ports.add(A, "pod", ["10.0.0.5"], [tcp(80), tcp(81)])
    await ports.add(A, "pod", ["10.0.0.9"], [tcp(80)])
    assert kernel.ports() == {"tcp . 80": "10.0.0.9 . 80"}
    assert kernel.hairpins() == ["10.0.0.9"]
    again = HostPorts(Settings())
    await again.add(A, "pod", ["10.0.0.9"], [tcp(80)])
    assert kernel.ports() == {"tcp . 80": "10.0.0.9 . 80"}


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        (tcp(80), tcp(80), True),
        (tcp(80, ip="0.0.0.0"), tcp(80), True),
        (tcp(80, ip="127.0.0.1"), tcp(80, ip="127.0.0.1"), True),
        (tcp(80), tcp(80, ip="127.0.0.1"), False),
        (tcp(80), udp(80), False),
        (tcp(80), tcp(81), False),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_port_that_another_pod_holds(
    kernel: Kernel, ports: HostPorts, first: PortMapping, second: PortMapping, conflict: bool, restarted: bool
) -> None:
    await ports.add(A, "pod", ["10.0.0.5"], [first])
    if restarted:
        ports = HostPorts(Settings())
    if not conflict:
        await ports.add(B, "other", ["10.0.0.6"], [second])
        assert len(kernel.ports()) == 2
        return
    before = kernel.ports()
    with pytest.raises(AlreadyExists, match=rf"host port .*80/tcp for pod other \({B}\) is held by another pod"):
        await ports.add(B, "other", ["10.0.0.6"], [tcp(99), second])
    assert kernel.ports() == before, "all or none"


async def test_sweep(kernel: Kernel, ports: HostPorts) -> None:
    await ports.add(A, "pod", ["10.0.0.5", "fd00::5"], [tcp(80)])
    await ports.add(B, "other", ["10.0.0.6"], [tcp(81)])
    names = kernel.tables[f"ip {TABLE}"]
    names["hostports"]["tcp . 9999"] = ("", "10.0.0.7 . 1")
    names["hairpins"]["10.0.0.7 . 10.0.0.7"] = ("", "")
    again = HostPorts(Settings())
    await again.sweep([B])
    assert kernel.ports() == {"tcp . 81": "10.0.0.6 . 80"}
    assert kernel.hairpins() == ["10.0.0.6"]
    assert kernel.ports("ip6") == {}


async def test_an_address_with_a_new_owner_keeps_its_hairpin(kernel: Kernel, ports: HostPorts) -> None:
    await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    await ports.add(B, "next", ["10.0.0.5"], [tcp(81)])
    await ports.remove(A)
    assert kernel.hairpins() == ["10.0.0.5"]


async def test_udp_ports_are_forgotten_by_conntrack(kernel: Kernel, ports: HostPorts) -> None:
    await ports.add(A, "pod", ["10.0.0.5", "fd00::5"], [udp(53), udp(54, ip="192.0.2.1"), tcp(80)])
    wanted = {
        "conntrack -D -f ipv4 -p udp --orig-port-dst 53",
        "conntrack -D -f ipv6 -p udp --orig-port-dst 53",
        "conntrack -D -f ipv4 -p udp --orig-port-dst 54 --orig-dst 192.0.2.1",
    }
    for work in (None, ports.remove(A)):
        if work is not None:
            kernel.calls.clear()
            await work
        assert {c for c in kernel.calls if c.startswith("conntrack")} == wanted


@pytest.mark.parametrize("how", ["missing", "fail", "nothing"])
async def test_conntrack_that_does_not_work_is_no_failure(kernel: Kernel, ports: HostPorts, how: str) -> None:
    if how == "missing":
        kernel.missing.add("conntrack")
    else:
        kernel.fail["conntrack"] = "0 flow entries have been deleted" if how == "nothing" else "Operation not supported"
    await ports.add(A, "pod", ["10.0.0.5"], [udp(53)])
    assert ports._told == (set() if how == "nothing" else {"conntrack"})


async def test_somebody_flushed_everything(kernel: Kernel, ports: HostPorts) -> None:
    await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    await ports.add(B, "other", ["10.0.0.6"], [tcp(81)])
    kernel.tables.clear()
    await ports.remove(A)
    assert kernel.tables == {}
    await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    assert kernel.ports() == {"tcp . 80": "10.0.0.5 . 80"}


async def test_somebody_else_took_the_port_meanwhile(kernel: Kernel, ports: HostPorts) -> None:
    await ports.sweep([])
    await HostPorts(Settings()).add(B, "other", ["10.0.0.6"], [tcp(80)])
    with pytest.raises(AlreadyExists):
        await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    assert kernel.ports() == {"tcp . 80": "10.0.0.6 . 80"}


async def test_a_failure_leaves_nothing(kernel: Kernel, ports: HostPorts) -> None:
    await ports.add(B, "other", ["10.0.0.6"], [tcp(81)])
    kernel.fail["nft"] = "Error: Cannot allocate memory"
    with pytest.raises(NetworkFailure, match="Cannot allocate memory"):
        await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    kernel.fail.clear()
    again = HostPorts(Settings())
    await again.remove(A)
    assert kernel.ports() == {"tcp . 81": "10.0.0.6 . 80"}
    await again.add(A, "pod", ["10.0.0.5"], [tcp(80)])


@pytest.mark.parametrize("what", ["add", "remove"])
async def test_a_cancelled_change_is_brought_to_its_end(kernel: Kernel, ports: HostPorts, what: str) -> None:
    await ports.add(B, "other", ["10.0.0.6"], [tcp(81)])
    if what == "remove":
        await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    kernel.hold = asyncio.Event()
    work = ports.add(A, "pod", ["10.0.0.5"], [tcp(80)]) if what == "add" else ports.remove(A)
    task = asyncio.ensure_future(work)
    await kernel.held.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    kernel.hold.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kernel.ports() == {"tcp . 81": "10.0.0.6 . 80"}
    kernel.calls.clear()
    await ports.remove(A)
    assert kernel.calls == [], "and it is known"


async def test_removing_waits_for_the_add_of_the_same_pod(kernel: Kernel, ports: HostPorts) -> None:
    await ports.sweep([])
    kernel.hold = asyncio.Event()
    adding = asyncio.ensure_future(ports.add(A, "pod", ["10.0.0.5"], [tcp(80)]))
    await kernel.held.wait()
    removing = asyncio.ensure_future(ports.remove(A))
    await ports.remove(B)
    kernel.hold.set()
    await adding
    await removing
    assert kernel.tables == {}


def test_elements_of_an_unknown_form_are_passed_over() -> None:
    good = [{"elem": {"val": {"concat": ["tcp", 80]}, "comment": "T"}}, {"concat": ["10.0.0.5", 80]}]
    bad = [[{"elem": {}}, {}], [{"concat": ["tcp"]}, {"concat": []}], ["x"], [{"val": 1}, 2], 7]
    document = {"nftables": [{"map": {"name": "hostports", "elem": [*bad, good]}}, {"map": {"name": "x"}}, {"set": {}}]}
    assert nft.parse(V4, document) == [Rule(V4, "tcp", "", 80, "10.0.0.5", 80, "T")]


# --- iptables ---------------------------------------------------------------------------------------------------------


async def test_iptables_where_nft_is_missing(kernel: Kernel, ports: HostPorts) -> None:
    kernel.missing.add("nft")
    await ports.add(A, "ns_pod", ["10.0.0.5", "fd00::5"], [tcp(8080)])
    restores = [c for c in kernel.calls if "-restore" in c]
    assert restores == [
        "iptables-restore --noflush --test -w 30",
        "iptables-restore --noflush -w 30",
        "ip6tables-restore --noflush --test -w 30",
        "ip6tables-restore --noflush -w 30",
    ]
    (four,) = (s for s in kernel.scripts if "10.0.0.5" in s)
    (rule,) = plan(A, ["10.0.0.5"], [tcp(8080)])
    note = '-m comment --comment "ns_pod hostport 8080" -p tcp -m tcp'
    for line in (
        f":KUBE-HP-{rule.chain} - [0:0]",
        f":CRIO-MASQ-{rule.chain} - [0:0]",
        f"-A KUBE-HOSTPORTS {note} --dport 8080 -j KUBE-HP-{rule.chain}",
        f"-A KUBE-HP-{rule.chain} {note} -j DNAT --to-destination 10.0.0.5:80",
    ):
        assert line in four.splitlines()


async def test_each_family_on_its_own(kernel: Kernel, ports: HostPorts, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = kernel._apply

    def apply(tables: dict[str, dict[str, dict[str, tuple[str, str]]]], line: str) -> None:
        if " ip6 " in line:
            raise KeyError("Operation not supported")
        inner(tables, line)

    monkeypatch.setattr(kernel, "_apply", apply)
    await ports.add(A, "pod", ["10.0.0.5", "fd00::5"], [tcp(80)])
    assert kernel.ports() == {"tcp . 80": "10.0.0.5 . 80"}
    assert "[fd00::5]:80" in kernel.scripts[-1]
    assert ports._backend == {V4: "nftables", V6: "iptables"}
    await ports.remove(A)
    assert kernel.tables == {}
    assert not ports._iptables.rules


@pytest.mark.parametrize("broken", ["iptables-save", "iptables-restore"])
async def test_neither(kernel: Kernel, ports: HostPorts, broken: str) -> None:
    kernel.fail["nft"] = "Operation not supported"
    kernel.missing.add(broken)
    with pytest.raises(Unsupported, match=r"IPv4 need nftables or iptables: nft .*not supported; iptables-.* cannot"):
        await ports.add(A, "pod", ["10.0.0.5"], [tcp(80)])
    await ports.remove(A)
    await ports.sweep([])


async def test_a_family_that_nothing_serves_is_borne_if_the_other_is(kernel: Kernel, ports: HostPorts) -> None:
    kernel.missing |= {"nft", "ip6tables-restore"}
    await ports.add(A, "pod", ["10.0.0.5", "fd00::5"], [tcp(80)])
    assert {r.family for r in ports._iptables.rules} == {V4}
    with pytest.raises(Unsupported, match="IPv6"):
        await ports.add(B, "pod", ["10.0.0.6", "fd00::6"], [tcp(81), tcp(82, ip="::1")])
    assert {r.host_port for r in ports._iptables.rules} == {80}


OLD = """*nat
:PREROUTING ACCEPT [0:0]
:KUBE-HOSTPORTS - [0:0]
:CRIO-HOSTPORTS-MASQ - [0:0]
:KUBE-HP-{one} - [0:0]
:CRIO-MASQ-{one} - [0:0]
:KUBE-HP-{two} - [0:0]
:CRIO-MASQ-{two} - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -m comment --comment "kube hostport portals" -m addrtype --dst-type LOCAL -j KUBE-HOSTPORTS
-A POSTROUTING -m comment --comment "kube hostport masquerading" -m conntrack --ctstate DNAT -j CRIO-HOSTPORTS-MASQ
-A KUBE-HOSTPORTS -p tcp -m comment --comment "a hostport 80" -m tcp --dport 80 -j KUBE-HP-{one}
-A KUBE-HOSTPORTS -p udp -m comment --comment "b hostport 53" -m udp --dport 53 -j KUBE-HP-{two}
-A CRIO-HOSTPORTS-MASQ -m comment --comment "a hostport 80" -j CRIO-MASQ-{one}
-A CRIO-HOSTPORTS-MASQ -m comment --comment "b hostport 53" -j CRIO-MASQ-{two}
-A KUBE-HP-{one} -d 192.0.2.1/32 -p tcp -m comment --comment "a port" -m tcp -j DNAT --to-destination 10.0.0.5:8080
-A KUBE-HP-{two} -p udp -m comment --comment "b hostport 53" -m udp -j DNAT --to-destination 10.0.0.6:53
COMMIT
*filter
-A INPUT -j KUBE-HOSTPORTS
COMMIT
"""


@pytest.fixture
def old(kernel: Kernel) -> str:
    """Rules that an older daemon left in iptables: pod A holds 192.0.2.1:80/tcp, B 53/udp."""
    (one,) = plan(A, ["10.0.0.5"], [tcp(80, 8080, "192.0.2.1")])
    (two,) = plan(B, ["10.0.0.6"], [udp(53)])
    kernel.saved["iptables"] = OLD.format(one=one.chain, two=two.chain)
    kernel.tables["ip nat"] = {}
    return kernel.saved["iptables"]


def test_what_iptables_says(old: str) -> None:
    dump = Dump(old)
    assert set(dump.jumps) == {("PREROUTING", "KUBE-HOSTPORTS"), ("POSTROUTING", "CRIO-HOSTPORTS-MASQ")}
    one, two = dump.rules(V4)
    assert (one.protocol, one.host_ip, one.host_port, one.target) == ("tcp", "192.0.2.1", 80, "10.0.0.5:8080")
    assert one.of(A)
    assert not one.of(B)
    assert two.of(B)
    assert Dump(":KUBE-HOSTPORTS - [0:0]\n-A KUBE-HOSTPORTS -j KUBE-HP-X\n-A KUBE-HOSTPORTS garbage").rules(V4) == []


async def test_rules_of_an_older_daemon_count_and_go(kernel: Kernel, ports: HostPorts, old: str) -> None:
    with pytest.raises(AlreadyExists):
        await ports.add("c" * 64, "pod", ["10.0.0.7"], [udp(53)])
    await ports.remove(A)
    script = kernel.scripts[-1]
    (one,) = plan(A, ["10.0.0.5"], [tcp(80, 8080, "192.0.2.1")])
    assert f"-X KUBE-HP-{one.chain}" in script
    assert f"-j KUBE-HP-{one.chain}" not in script
    assert '-A KUBE-HOSTPORTS -p udp -m comment --comment "b hostport 53"' in script
    assert "-X KUBE-HOSTPORTS" not in script
    assert kernel.calls.count("ip6tables-save -t nat") == 0, "that table is not there: looking would make it"
    assert "conntrack -D -f ipv4 -p udp --orig-port-dst 53" not in kernel.calls


async def test_sweep_of_an_older_daemons_rules(kernel: Kernel, ports: HostPorts, old: str) -> None:
    await ports.sweep([B])
    assert {r.host_port for r in ports._iptables.rules} == {53}
    assert "conntrack -D -f ipv4 -p udp --orig-port-dst 53" not in kernel.calls
    await ports.sweep([])
    assert not ports._iptables.rules
    assert "conntrack -D -f ipv4 -p udp --orig-port-dst 53" in kernel.calls


def test_the_last_port_takes_chains_and_jumps_along(old: str) -> None:
    dump = Dump(old)
    script = compose(V4, dump, [], dump.rules(V4), "")
    lines = script.splitlines()
    assert "-X KUBE-HOSTPORTS" in lines
    assert "-X CRIO-HOSTPORTS-MASQ" in lines
    assert (
        '-D PREROUTING -m comment --comment "kube hostport portals" -m addrtype --dst-type LOCAL -j KUBE-HOSTPORTS'
        in lines
    )
    assert not [line for line in lines if line.startswith("-A ")]
    assert "KUBE-SERVICES" not in script
    order: Callable[[str], int] = lines.index
    assert order("*nat") == 0
    assert max(map(order, (x for x in lines if x.startswith("-D")))) < order("-X KUBE-HOSTPORTS")
    assert compose(V4, Dump(""), [], dump.rules(V4), "") == "", "gone already"


def test_an_address_of_its_own_goes_first(old: str) -> None:
    rules = plan("c" * 64, ["10.0.0.7"], [tcp(80, 1)])
    script = compose(V4, Dump(old), rules, [], 'p"od; rm')
    ports = [line for line in script.splitlines() if line.startswith("-A KUBE-HOSTPORTS")]
    assert [line.split(" --dport ")[1].split(" ")[0] for line in ports] == ["80", "80", "53"]
    assert rules[0].chain not in ports[0]
    assert '--comment "podrm hostport 80"' in script
    jumps = [line for line in script.splitlines() if line.startswith(("-A PREROUTING", "-A OUTPUT", "-A POSTROUTING"))]
    assert [line.split(" ")[1] for line in jumps] == ["OUTPUT"], "those that are there are not made twice"


# --- loopback ---------------------------------------------------------------------------------------------------------


def test_routes() -> None:
    assert localnet.interface_to("127.0.0.1") == "lo"
    assert localnet.closed_interface("127.0.0.1") == ""
    localnet.allow(["no-such-interface"], True)
