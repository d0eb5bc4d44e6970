"""Host ports: connections to a port of the node go to a pod (facts: behaviours.md section 16).

The rules are in nftables where kernel and program can, in iptables else; each family on its own. What is there is read
once, at first use, and known from then on: a pod without host ports costs no program call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio._native.run import run
from pycrio.drivers.network import localnet
from pycrio.drivers.network.iptables import IPTables
from pycrio.drivers.network.nft import WORDS, NFTables
from pycrio.drivers.network.rules import V4, V6, Mapping, Rule, plan, tag
from pycrio.drivers.network.whole import whole
from pycrio.errors import AlreadyExists, NetworkFailure, Unsupported
from pycrio.obs import log as obslog

log = obslog.get("hostport")


@dataclass(frozen=True, slots=True)
class Settings:
    """``localhost``: host ports are to be reachable at 127.0.0.1 too, for which ``route_localnet`` is set on the
    interface that leads to the pod (packets with loopback addresses from outside are dropped then)."""

    localhost: bool = True


class HostPorts:
    """See ``flows.ports.HostPorts``. One change at a time; a change that has begun is brought to its end even when its
    caller is cancelled, so that what we know is what the kernel has."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = asyncio.Lock()
        self._nft = NFTables()
        self._iptables = IPTables()
        self._loaded = False
        self._backend: dict[int, str] = {}
        self._told: set[str] = set()
        self._adding: set[str] = set()

    async def add(self, pod_id: str, pod_name: str, ips: Sequence[str], ports: Sequence[Mapping]) -> None:
        """Open host ports to a pod; all or none. Repeating it is harmless.

        AlreadyExists when another pod holds one, InvalidRequest for mappings that cannot be, Unsupported when the host
        has neither nftables nor iptables, NetworkFailure when these fail.
        """
        rules = plan(pod_id, ips, ports)
        if not rules:
            return
        self._adding.add(pod_id)
        try:
            async with self._lock:
                try:
                    await whole(self._add(pod_id, pod_name, rules))
                except BaseException:
                    await whole(self._undo(pod_id))
                    raise
        finally:
            self._adding.discard(pod_id)

    async def remove(self, pod_id: str) -> None:
        """Close every host port of a pod, whoever opened it and with whatever program."""
        if self._loaded and pod_id not in self._adding and not any(self._of(pod_id)):
            return
        async with self._lock:
            await whole(self._remove(pod_id))

    async def sweep(self, valid: Sequence[str]) -> None:
        """Close host ports of pods that are not in ``valid`` (ids)."""
        async with self._lock:
            await whole(self._sweep(valid))

    # --- what is there ----------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        if not self._loaded:
            await self._reload()

    async def _reload(self) -> None:
        await self._nft.load()
        await self._iptables.load(self._nft.tables)
        self._loaded = True

    def _of(self, pod_id: str) -> tuple[list[Rule], list[Rule]]:
        """The pod's rules in nftables and in iptables."""
        mark = tag(pod_id)
        return [r for r in self._nft.rules if r.tag == mark], [r for r in self._iptables.rules if r.of(pod_id)]

    def _conflict(self, pod_id: str, rules: Iterable[Rule]) -> Rule | None:
        wanted = {r.key: r for r in rules}
        there = (r for r in (*self._nft.rules, *self._iptables.rules) if r.key in wanted)
        return next((wanted[r.key] for r in there if not r.of(pod_id)), None)

    # --- changes ----------------------------------------------------------------------------------------------------

    async def _add(self, pod_id: str, pod_name: str, rules: Sequence[Rule]) -> None:
        await self._load()
        self._refuse(pod_id, pod_name, rules)
        for rule in rules:
            if rule.host_ip == "::1":
                log.warning("Host port has no effect: packets with ::1 never leave a node", port=str(rule), id=pod_id)
        served: list[Rule] = []
        trouble: dict[int, str] = {}
        for family in (V4, V6):
            wanted = [r for r in rules if r.family == family]
            if not wanted:
                continue
            try:
                backend = await self._choose(family)
            except Unsupported as e:
                trouble[family] = str(e)
                continue
            await self._put(pod_id, pod_name, backend, wanted)
            served += wanted
        self._complain(pod_id, rules, served, trouble)
        await self._flush(served)

    def _refuse(self, pod_id: str, pod_name: str, rules: Sequence[Rule]) -> None:
        taken = self._conflict(pod_id, rules)
        if taken is not None:
            raise AlreadyExists(
                f"host port {taken} for pod {pod_name} ({pod_id}) is held by another pod: stop that first"
            )

    async def _choose(self, family: int) -> str:
        """Which program serves a family; tried once, by setting up what it needs."""
        if family not in self._backend:
            reasons = []
            try:
                await self._nft.prepare(family)
                self._backend[family] = "nftables"
                return "nftables"
            except NetworkFailure as e:
                reasons.append(str(e))
            try:
                await self._iptables.probe(family)
                self._backend[family] = "iptables"
            except NetworkFailure as e:
                reasons.append(str(e))
                raise Unsupported(f"host ports of IPv{family} need nftables or iptables: {'; '.join(reasons)}") from e
            log.info("Host ports use iptables", family=WORDS[family], reason=reasons[0])
        return self._backend[family]

    async def _put(self, pod_id: str, pod_name: str, backend: str, rules: Sequence[Rule]) -> None:
        family = rules[0].family
        in_nft, in_iptables = self._of(pod_id)
        if backend == "iptables":
            old = [r for r in in_iptables if r.family == family and r not in rules]
            await self._iptables.change(family, rules, old, pod_name)
            localnets = await self._closed(rules)
            if localnets:
                await self._iptables.guard()
                await self._allow(localnets)
            return
        old = [r for r in in_nft if r.family == family and r not in rules]
        localnets = await self._closed(rules)
        try:
            await self._nft.change(family, rules, old, localnets)
        except NetworkFailure:
            # Somebody else may have changed the table since it was read: then say who holds the port, or try on that.
            await self._reload()
            self._refuse(pod_id, pod_name, rules)
            old = [r for r in self._of(pod_id)[0] if r.family == family]
            await self._nft.change(family, rules, old, localnets)
        await self._allow(localnets)

    def _complain(self, pod_id: str, rules: Sequence[Rule], served: Sequence[Rule], trouble: dict[int, str]) -> None:
        """A port that one family serves is good enough; one that none does is not."""
        if not trouble:
            return
        done = {(r.protocol, r.host_ip, r.host_port) for r in served}
        for rule in rules:
            if (rule.protocol, rule.host_ip, rule.host_port) not in done:
                raise Unsupported(f"host port {rule} of pod sandbox {pod_id}: {trouble[rule.family]}")
        for family, reason in trouble.items():
            self._once(
                f"family {family}", "Host ports are not open on every family", family=WORDS[family], error=reason
            )

    async def _undo(self, pod_id: str) -> None:
        try:
            await self._remove(pod_id)
        except NetworkFailure as e:
            log.warning("Half-made host ports not undone", id=pod_id, error=str(e))

    async def _remove(self, pod_id: str) -> None:
        await self._load()
        await self._drop(*self._of(pod_id))

    async def _sweep(self, valid: Sequence[str]) -> None:
        await self._load()
        tags = {tag(pod_id) for pod_id in valid}
        stale = [r for r in self._nft.rules if r.tag not in tags]
        older = [r for r in self._iptables.rules if not any(r.of(pod_id) for pod_id in valid)]
        if stale or older:
            log.info("Closing host ports of pods that are gone", ports=", ".join(map(str, (*stale, *older))))
        await self._drop(stale, older)

    async def _drop(self, in_nft: Sequence[Rule], in_iptables: Sequence[Rule]) -> None:
        for family in (V4, V6):
            gone = [r for r in in_nft if r.family == family]
            if gone:
                await self._drop_nft(family, gone)
            older = [r for r in in_iptables if r.family == family]
            if older:
                await self._iptables.change(family, [], older)
        await self._flush([*in_nft, *in_iptables])

    async def _drop_nft(self, family: int, gone: Sequence[Rule]) -> None:
        localnets = self._nft.localnets
        try:
            await self._nft.change(family, [], gone)
        except NetworkFailure:
            # Not as we left it (a reloaded firewall takes every table along): go by what is there now.
            await self._reload()
            left = [r for r in gone if r in self._nft.rules]
            if left:
                await self._nft.change(family, [], left)
        if localnets and not any(r.family == V4 for r in self._nft.rules):
            # The guard went with the table.
            await offload("proc", localnet.allow, tuple(localnets), False)
            localnets.clear()

    # --- around the rules -------------------------------------------------------------------------------------------

    async def _closed(self, rules: Sequence[Rule]) -> list[str]:
        """Interfaces to be opened for loopback addresses so that the ports are reachable at 127.0.0.1."""
        here = {r.pod_ip for r in rules if r.family == V4 and (not r.host_ip or r.host_ip.startswith("127."))}
        found = []
        for address in here if self.settings.localhost else ():
            try:
                found.append(await offload("proc", localnet.closed_interface, address))
            except OSError as e:
                self._once("localnet", "Host ports are not reachable at 127.0.0.1", ip=address, error=str(e))
        return [name for name in found if name]

    async def _allow(self, names: Sequence[str]) -> None:
        if names:
            try:
                await offload("proc", localnet.allow, names, True)
            except OSError as e:
                self._once("localnet", "Host ports are not reachable at 127.0.0.1", error=str(e))

    async def _flush(self, rules: Sequence[Rule]) -> None:
        """Have the kernel forget what it tracks of UDP ports: their packets would go on to where they went before."""
        await asyncio.gather(*(self._forget(r) for r in rules if r.protocol == "udp"))

    async def _forget(self, rule: Rule) -> None:
        family = "ipv4" if rule.family == V4 else "ipv6"
        argv = ["conntrack", "-D", "-f", family, "-p", "udp", "--orig-port-dst", str(rule.host_port)]
        if rule.host_ip:
            argv += ["--orig-dst", rule.host_ip]
        try:
            done = await run(argv, timeout=30)
        except NativeError as e:
            self._once("conntrack", "Tracked UDP connections stay: conntrack is not installed", error=e.strerror)
            return
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        if done.timed_out or (done.code != 0 and "0 flow entries" not in said):
            self._once("conntrack", "Tracked UDP connections not forgotten, going on", port=str(rule), error=said)

    def _once(self, topic: str, event: str, **fields: object) -> None:
        if topic not in self._told:
            self._told.add(topic)
            log.warning(event, **fields)
