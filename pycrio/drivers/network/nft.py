"""Host port rules in nftables: one table ``crio-hostports`` per family, elements of maps per port (man 8 nft).

The layout is the one that CRI-O uses, so either daemon finds the other's rules when one replaces the other on a node.
Every change is one transaction of the kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pycrio._native.base import NativeError
from pycrio._native.run import run
from pycrio.drivers.network.rules import V4, V6, Rule
from pycrio.errors import NetworkFailure
from pycrio.obs import log as obslog
from pycrio.obs import trace

log = obslog.get("hostport")
TABLE = "crio-hostports"
TIMEOUT = 30.0
WORDS = {V4: "ip", V6: "ip6"}


class Missing(NetworkFailure):
    """The program is not installed."""


async def nft(*arguments: str, stdin: str = "") -> bytes:
    """Run the program. NetworkFailure with its words, Missing when there is none."""
    try:
        with trace.span("nft"):
            done = await run(["nft", *arguments], stdin=stdin.encode(), timeout=TIMEOUT)
    except NativeError as e:
        raise Missing(f"nft cannot be executed: {e.strerror}") from e
    if done.timed_out:
        raise NetworkFailure(f"nft did not end within {TIMEOUT:.0f} s")
    if done.code != 0:
        words = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise NetworkFailure(f"nft failed with exit code {done.code}: {words[:1000]}")
    return done.stdout


def layout(family: int) -> str:
    """The table with its chains: harmless to repeat; sets up what somebody flushed. The contents of maps and sets
    stay."""
    word = WORDS[family]
    address = "ipv4_addr" if family == V4 else "ipv6_addr"
    table = f"{word} {TABLE}"
    # Translated already by these rules or others, and to nothing else than a new destination.
    dnat = "ct status & (dnat | snat) == dnat"
    # The kernel lets no packet with ::1 leave the node, whatever its destination was translated to. Refused at once,
    # clients of "localhost" try 127.0.0.1 next; translated, they would hang.
    local = "" if family == V4 else "ip6 daddr != ::1 "
    to = f"dnat {word} addr . port to"
    lines = [
        f"add table {table}",
        f"add map {table} hostports {{ type inet_proto . inet_service : {address} . inet_service ; }}",
        f"add map {table} hostipports {{ type {address} . inet_proto . inet_service : {address} . inet_service ; }}",
        f"add set {table} hairpins {{ type {address} . {address} ; }}",
        f"add chain {table} hostports",
        f"add chain {table} prerouting {{ type nat hook prerouting priority -100 ; }}",
        f"add chain {table} output {{ type nat hook output priority -100 ; }}",
        f"add chain {table} masquerading {{ type nat hook postrouting priority 100 ; }}",
        *(f"flush chain {table} {c}" for c in ("hostports", "prerouting", "output", "masquerading")),
        # The particular address goes before the port on every address.
        f"add rule {table} hostports {to} {word} daddr . meta l4proto . th dport map @hostipports",
        f"add rule {table} hostports {to} meta l4proto . th dport map @hostports",
        f"add rule {table} prerouting fib daddr type local goto hostports",
        f"add rule {table} output {local}fib daddr type local goto hostports",
        # A pod that reaches itself by its host port would answer itself directly: the address must be the host's.
        f"add rule {table} masquerading {dnat} {word} saddr . {word} daddr @hairpins masquerade",
    ]
    if family == V4:
        loopback = "127.0.0.0/8"
        # Host ports on localhost need route_localnet, which alone would let pods reach what listens on 127.0.0.1.
        lines += [
            f"add rule {table} masquerading {dnat} ip saddr {loopback} masquerade",
            f"add set {table} localnets {{ type ifname ; }}",
            f"add chain {table} localnet {{ type filter hook prerouting priority -300 ; }}",
            f"flush chain {table} localnet",
            f"add rule {table} localnet iifname @localnets ip daddr {loopback} drop",
            f"add rule {table} localnet iifname @localnets ip saddr {loopback} drop",
        ]
    return "\n".join(lines) + "\n"


def _place(rule: Rule) -> tuple[str, str]:
    key = f"{rule.protocol} . {rule.host_port}"
    return ("hostipports", f"{rule.host_ip} . {key}") if rule.host_ip else ("hostports", key)


def elements(rules: Iterable[Rule]) -> str:
    """Commands that add the rules' elements."""
    lines: dict[str, None] = {}
    for rule in rules:
        table = f"{WORDS[rule.family]} {TABLE}"
        name, key = _place(rule)
        note = f'comment "{rule.tag}"'
        lines[f"add element {table} {name} {{ {key} {note} : {rule.pod_ip} . {rule.pod_port} }}"] = None
        lines[f"add element {table} hairpins {{ {rule.pod_ip} . {rule.pod_ip} {note} }}"] = None
    return "".join(f"{line}\n" for line in lines)


def removals(rules: Iterable[Rule], kept: frozenset[str] = frozenset()) -> str:
    """Commands that delete the rules' elements, and the hairpins of those pod addresses that are not to be ``kept``."""
    lines: dict[str, None] = {}
    for rule in rules:
        table = f"{WORDS[rule.family]} {TABLE}"
        name, key = _place(rule)
        lines[f"delete element {table} {name} {{ {key} }}"] = None
        if rule.pod_ip not in kept:
            lines[f"delete element {table} hairpins {{ {rule.pod_ip} . {rule.pod_ip} }}"] = None
    return "".join(f"{line}\n" for line in lines)


class NFTables:
    """Rules of both families as they are in the kernel.

    ``rules``: those that the last ``load`` saw and what was changed since. ``localnets``: interfaces whose
    route_localnet was set for host ports. ``tables``: the (family word, name) pairs of the last ``load``; None when the
    program is missing or refuses.
    """

    def __init__(self) -> None:
        self.rules: set[Rule] = set()
        self.localnets: set[str] = set()
        self.tables: frozenset[tuple[str, str]] | None = None
        self._laid: set[int] = set()

    async def load(self) -> None:
        """Read what is there now; nothing without the program."""
        self.rules, self.localnets = set(), set()
        self._laid.clear()
        try:
            listed = json.loads(await nft("-j", "list", "tables"))
        except NetworkFailure as e:
            tell = log.debug if isinstance(e, Missing) else log.warning
            tell("Host port rules in nftables cannot be looked for, going on", error=str(e))
            self.tables = None
            return
        tables = [item["table"] for item in listed["nftables"] if "table" in item]
        self.tables = frozenset((t["family"], t["name"]) for t in tables)
        for family, word in WORDS.items():
            if (word, TABLE) in self.tables:
                document = json.loads(await nft("-j", "list", "table", word, TABLE))
                self.rules.update(parse(family, document))
                self.localnets.update(parse_localnets(document))

    async def change(
        self, family: int, add: Sequence[Rule], drop: Sequence[Rule], localnets: Sequence[str] = ()
    ) -> None:
        """Drop and add rules of one family in one transaction, and guard the ``localnets``. The table goes with its
        last rule."""
        left = {r for r in self.rules.difference(drop) if r.family == family}
        if add or left:
            # An address may have a new owner already, whose hairpin it is then.
            # Writing rules anew makes the kernel wait for every CPU, which takes longer than all the rest.
            script = layout(family) if add and family not in self._laid else ""
            script += removals(drop, frozenset(r.pod_ip for r in left)) + elements(add)
            script += "".join(f"add element ip {TABLE} localnets {{ {json.dumps(name)} }}\n" for name in localnets)
        else:
            script = f"delete table {WORDS[family]} {TABLE}\n"
        await nft("-f", "-", stdin=script)
        if add:
            self._laid.add(family)
        elif not left:
            self._laid.discard(family)
        self.rules.difference_update(drop)
        self.rules.update(add)
        self.localnets.update(localnets)

    async def prepare(self, family: int) -> None:
        """Make the table; NetworkFailure when the kernel or nft cannot. One of another layout is replaced, with the
        known rules in it."""
        try:
            await nft("-f", "-", stdin=layout(family))
        except Missing:
            raise
        except NetworkFailure as e:
            table = f"table {WORDS[family]} {TABLE}"
            known = elements(r for r in self.rules if r.family == family)
            await nft("-f", "-", stdin=f"add {table}\ndelete {table}\n{layout(family)}{known}")
            log.warning("Host port table had another layout, made anew", family=WORDS[family], error=str(e))
        self._laid.add(family)


def parse_localnets(document: Any) -> list[str]:
    """Names in the set of guarded interfaces, from the JSON form of a table."""
    sets = (item["set"] for item in document["nftables"] if "set" in item)
    return [name for s in sets if s.get("name") == "localnets" for name in s.get("elem") or () if isinstance(name, str)]


def parse(family: int, document: Any) -> list[Rule]:
    """Rules from the JSON form of a table; an element that is not of our form is skipped with a warning."""
    found = []
    for item in document["nftables"]:
        content = item.get("map") or {}
        if content.get("name") not in ("hostports", "hostipports"):
            continue
        for element in content.get("elem") or ():
            try:
                found.append(_rule(family, *element))
            except (KeyError, TypeError, ValueError) as e:
                log.warning("Host port element is of an unknown form, skipped", element=str(element), error=repr(e))
    return found


def _rule(family: int, key: Any, value: Any) -> Rule:
    element = key.get("elem") or {"val": key}
    *host, protocol, port = element["val"]["concat"]
    pod_ip, pod_port = value["concat"]
    host_ip = str(host[0]) if host else ""
    # A comment that is not ours must match no pod and is nobody's, so that a sweep takes it away.
    return Rule(family, protocol, host_ip, int(port), pod_ip, int(pod_port), str(element.get("comment") or "-"))
