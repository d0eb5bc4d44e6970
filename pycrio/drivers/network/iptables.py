"""Host port rules in iptables, for kernels without nftables: chains KUBE-HOSTPORTS and CRIO-HOSTPORTS-MASQ in the nat
table, two chains per port (man 8 iptables-restore). Names and matches are CRI-O's."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence

from pycrio._native.base import NativeError
from pycrio._native.run import run
from pycrio.drivers.network.rules import V4, V6, Rule
from pycrio.errors import NetworkFailure
from pycrio.obs import log as obslog
from pycrio.obs import trace

log = obslog.get("hostport")
PORTS, PORT = "KUBE-HOSTPORTS", "KUBE-HP-"
MASQS, MASQ = "CRIO-HOSTPORTS-MASQ", "CRIO-MASQ-"
TIMEOUT = 60.0
WAIT = "30"
_WORDS = {V4: "iptables", V6: "ip6tables"}
_LISTS = {V4: "/proc/thread-self/net/ip_tables_names", V6: "/proc/thread-self/net/ip6_tables_names"}
_LOOPBACK = {V4: "127.0.0.0/8", V6: "::1/128"}
_PROBE = {
    V4: Rule(V4, "tcp", "127.0.0.1", 1, "127.0.0.1", 1, "", "PROBE"),
    V6: Rule(V6, "tcp", "::1", 1, "::1", 1, "", "PROBE"),
}


async def _call(family: int, what: str, *arguments: str, stdin: str = "") -> str:
    name = f"{_WORDS[family]}-{what}".rstrip("-")
    try:
        with trace.span(name):
            done = await run([name, *arguments], stdin=stdin.encode(), timeout=TIMEOUT)
    except NativeError as e:
        raise NetworkFailure(f"{name} cannot be executed: {e.strerror}") from e
    if done.timed_out:
        raise NetworkFailure(f"{name} did not end within {TIMEOUT:.0f} s: does another program hold the xtables lock?")
    if done.code != 0:
        words = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise NetworkFailure(f"{name} failed with exit code {done.code}: {words[:1000]}")
    return done.stdout.decode("utf-8", "replace")


def in_use(family: int, tables: frozenset[tuple[str, str]] | None) -> bool:
    """Whether the family's nat table can hold anything, found out without running a program: by what nft listed (None:
    it could not) and what the kernel says of the older kind of table. Looking for it would load its modules."""
    try:
        with open(_LISTS[family], encoding="ascii") as f:
            if "nat" in f.read().split():
                return True
    except OSError:
        pass  # the module is not there, so no table of that kind is
    if tables is None:
        return any(os.access(os.path.join(d, f"{_WORDS[family]}-save"), os.X_OK) for d in _path())
    return (("ip" if family == V4 else "ip6"), "nat") in tables


def _path() -> Sequence[str]:
    return (os.environ.get("PATH") or os.defpath).split(":")


class Dump:
    """What ``iptables-save -t nat`` says of our chains, each with its rules in order, and of the jumps to them."""

    def __init__(self, text: str) -> None:
        self.chains: dict[str, list[str]] = {}
        self.jumps: dict[tuple[str, str], str] = {}
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:].strip()
            elif line.startswith(":") and _ours(name := line[1:].partition(" ")[0]):
                self.chains.setdefault(name, [])
            elif line.startswith("-A ") and table == "nat":
                name, _, rest = line[3:].partition(" ")
                if _ours(name):
                    self.chains.setdefault(name, []).append(rest)
                elif rest.endswith((f"-j {PORTS}", f"-j {MASQS}")):
                    self.jumps[name, rest.rpartition(" ")[2]] = line[3:]

    def rules(self, family: int) -> list[Rule]:
        """The ports that the chains open; a chain that does not say all is left out."""
        found = []
        for line in self.chains.get(PORTS, ()):
            jump = _options(line)
            name = jump.get("-j", "")
            for inner in map(_options, self.chains.get(name, ())):
                ip, _, port = inner.get("--to-destination", "").rpartition(":")
                if inner.get("-j") == "DNAT" and port.isdigit() and jump.get("--dport", "").isdigit():
                    host_ip = inner.get("-d", "").partition("/")[0]
                    ip = ip.strip("[]")
                    number = int(jump["--dport"])
                    hashed = name.removeprefix(PORT)
                    found.append(Rule(family, jump.get("-p", ""), host_ip, number, ip, int(port), "", hashed))
        return found


def _ours(name: str) -> bool:
    return name in (PORTS, MASQS) or name.startswith((PORT, MASQ))


def _options(line: str) -> Mapping[str, str]:
    words = shlex.split(line)
    return {a: b for a, b in itertools.pairwise(words) if a.startswith("-")}


class IPTables:
    """Rules of both families: those that the last ``load`` saw and what was changed since."""

    def __init__(self) -> None:
        self.rules: set[Rule] = set()
        self._guarded = False

    async def load(self, tables: frozenset[tuple[str, str]] | None) -> None:
        """Read what is there now. ``tables``: see ``in_use``."""
        self.rules = set()
        for family in (V4, V6):
            if in_use(family, tables):
                try:
                    self.rules.update((await self._dump(family)).rules(family))
                except NetworkFailure as e:
                    # A host without either is no reason to refuse pods that need no port.
                    log.warning("Host port rules in iptables cannot be looked for, going on", error=str(e))

    async def probe(self, family: int) -> None:
        """NetworkFailure unless the programs are there and the kernel has the table and the matches."""
        await self._dump(family)
        await _call(
            family,
            "restore",
            "--noflush",
            "--test",
            "-w",
            WAIT,
            stdin=compose(family, Dump(""), [_PROBE[family]], [], ""),
        )

    async def guard(self) -> None:
        """Drop IPv4 packets with loopback addresses from outside; harmless to repeat. It stays: nothing else keeps what
        listens on 127.0.0.1 from the pods while route_localnet is set."""
        for side in () if self._guarded else ("-d", "-s"):
            rule = ["PREROUTING", "!", "-i", "lo", side, _LOOPBACK[V4], "-j", "DROP"]
            try:
                await _call(V4, "", "-w", WAIT, "-t", "raw", "-C", *rule)
            except NetworkFailure:
                await _call(V4, "", "-w", WAIT, "-t", "raw", "-I", *rule)
        self._guarded = True

    async def _dump(self, family: int) -> Dump:
        return Dump(await _call(family, "save", "-t", "nat"))

    async def change(self, family: int, add: Sequence[Rule], drop: Sequence[Rule], pod_name: str = "") -> None:
        """Drop and add rules of one family in one transaction per table."""
        dump = await self._dump(family)
        script = compose(family, dump, add, drop, pod_name)
        if script:
            await _call(family, "restore", "--noflush", "-w", WAIT, stdin=script)
        self.rules.difference_update(drop)
        # Those found in the chains know less than those made here.
        self.rules = {r for r in self.rules if r.chain not in {a.chain for a in add} or r.family != family}.union(add)


def compose(family: int, dump: Dump, add: Sequence[Rule], drop: Sequence[Rule], pod_name: str) -> str:
    """Input for ``iptables-restore --noflush``. A chain that is declared there loses its rules, so the two collecting
    chains are written as a whole."""
    gone = {prefix + r.chain for r in (*add, *drop) for prefix in (PORT, MASQ)}
    dead = {prefix + r.chain for r in drop for prefix in (PORT, MASQ)} & dump.chains.keys()
    dead -= {prefix + r.chain for r in add for prefix in (PORT, MASQ)}
    if not add and not dead:
        return ""
    lines = ["*nat", f":{PORTS} - [0:0]", f":{MASQS} - [0:0]"]
    ports: list[str] = []
    masqs: list[str] = []
    inner: list[str] = []
    for rule in add:
        lines += [f":{PORT}{rule.chain} - [0:0]", f":{MASQ}{rule.chain} - [0:0]"]
        _write(rule, pod_name, ports, masqs, inner)
    # An address of its own goes before the port on every address, whoever came first.
    old = [line for line in dump.chains.get(PORTS, ()) if _options(line).get("-j") not in {*gone, "RETURN"}]
    whole = sorted([*ports, *old], key=lambda line: not _restricted(line, dump, add))
    others = [
        line
        for line in dump.chains.get(MASQS, ())
        if _options(line).get("-j") not in gone and _LOOPBACK[family] not in line
    ]
    if family == V6:
        # The kernel lets no packet with ::1 leave the node: refused at once, clients try 127.0.0.1 next.
        lines.append(f"-A {PORTS} -d {_LOOPBACK[V6]} -j RETURN")
    lines += [f"-A {PORTS} {line}" for line in whole]
    if not whole and not masqs and not others:
        return "\n".join(["*nat", *_vanish(dump), "COMMIT", ""])
    if family == V4:
        others.append(f'-m comment --comment "SNAT for localhost access to hostports" -s {_LOOPBACK[V4]} -j MASQUERADE')
    lines += [f"-A {MASQS} {line}" for line in (*masqs, *others)]
    lines += inner
    if add:
        lines += _jumps(dump)
    lines += [f":{name} - [0:0]" for name in sorted(dead)]
    lines += [f"-X {name}" for name in sorted(dead)]
    return "\n".join([*lines, "COMMIT", ""])


def _vanish(dump: Dump) -> list[str]:
    """The last port goes: so do the chains and the jumps to them."""
    chains = sorted(dump.chains)
    jumps = [f"-D {line}" for line in dump.jumps.values()]
    return [*(f":{name} - [0:0]" for name in chains), *jumps, *(f"-X {name}" for name in chains)]


def _write(rule: Rule, pod_name: str, ports: list[str], masqs: list[str], inner: list[str]) -> None:
    """The four lines of a port."""
    safe = "".join(c for c in pod_name if c.isalnum() or c in "-._")[:200]
    note = f'-m comment --comment "{safe} hostport {rule.host_port}"'
    match = f"-p {rule.protocol} -m {rule.protocol}"
    where = f" -d {rule.host_ip}" if rule.host_ip else ""
    ports.append(f"{note} {match} --dport {rule.host_port} -j {PORT}{rule.chain}")
    masqs.append(f"{note} -j {MASQ}{rule.chain}")
    inner.append(f"-A {PORT}{rule.chain} {note} {match}{where} -j DNAT --to-destination {rule.target}")
    inner.append(
        f"-A {MASQ}{rule.chain} {note} -m conntrack --ctorigdstport {rule.host_port} {match}"
        f" --dport {rule.pod_port} -s {rule.pod_ip} -d {rule.pod_ip} -j MASQUERADE"
    )


def _restricted(line: str, dump: Dump, add: Iterable[Rule]) -> bool:
    name = _options(line).get("-j", "")
    mine = [r for r in add if PORT + r.chain == name]
    if mine:
        return bool(mine[0].host_ip)
    return any("-d" in _options(inner) for inner in dump.chains.get(name, ()))


def _jumps(dump: Dump) -> list[str]:
    """Jumps from the built-in chains, where they are missing."""
    portals = f'-m comment --comment "kube hostport portals" -m addrtype --dst-type LOCAL -j {PORTS}'
    masquerading = f'-m comment --comment "kube hostport masquerading" -m conntrack --ctstate DNAT -j {MASQS}'
    wanted = (("PREROUTING", PORTS, portals), ("OUTPUT", PORTS, portals), ("POSTROUTING", MASQS, masquerading))
    return [f"-A {name} {text}" for name, target, text in wanted if (name, target) not in dump.jumps]
