"""Port rules as values: what a pod's port mappings mean for each address family, and whose a rule is. No I/O."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pycrio.errors import InvalidRequest
from pycrio.model import pod

V4, V6 = 4, 6


class Mapping(Protocol):
    """A port mapping; see ``model.pod.PortMapping``."""

    @property
    def protocol(self) -> pod.Protocol: ...
    @property
    def container_port(self) -> int: ...
    @property
    def host_port(self) -> int: ...
    @property
    def host_ip(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """One host port of one family. ``host_ip`` "" means every address of the host.

    ``tag`` names the pod (see ``tag``). Rules found in iptables have none: their chains are named after pod and port,
    and ``chain`` carries that name's hash.
    """

    family: int
    protocol: str
    host_ip: str
    host_port: int
    pod_ip: str
    pod_port: int
    tag: str = ""
    chain: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[int, str, str, int]:
        """What only one pod can hold."""
        return self.family, self.protocol, self.host_ip, self.host_port

    @property
    def target(self) -> str:
        """Pod address and port as one word."""
        host = f"[{self.pod_ip}]" if self.family == V6 else self.pod_ip
        return f"{host}:{self.pod_port}"

    def of(self, pod_id: str) -> bool:
        """Whether the rule was made for that pod, by us or by another daemon with the same naming."""
        if self.tag:
            return self.tag == tag(pod_id)
        spellings = (self.host_ip,) if self.host_ip else ("", "0.0.0.0" if self.family == V4 else "::")
        return any(chain(pod_id, self.host_port, self.protocol, ip) == self.chain for ip in spellings)

    def __str__(self) -> str:
        host = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{host}:{self.host_port}/{self.protocol}" if host else f"{self.host_port}/{self.protocol}"


def _short(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode("ascii")


def tag(pod_id: str) -> str:
    """A pod's name in the comments of its nftables elements (facts: behaviours.md section 16)."""
    return _short(pod_id)


def chain(pod_id: str, host_port: int, protocol: str, host_ip: str) -> str:
    """The hash in the names of a port's iptables chains; the same as CRI-O's, so that each finds the other's."""
    return _short(f"{pod_id}{host_port}{protocol.upper()}{host_ip}")


def plan(pod_id: str, ips: Sequence[str], ports: Iterable[Mapping]) -> tuple[Rule, ...]:
    """The rules for a pod's ports: by the first pod address of each family; a host address restricts the family.

    Mappings without a host port are skipped. InvalidRequest for ports and addresses that cannot be, for one host port
    with two targets, and for a port that no family of the pod can serve.
    """
    targets: dict[int, str] = {}
    for ip in ips:
        address = ipaddress.ip_address(ip)
        targets.setdefault(address.version, address.compressed)
    found: dict[tuple[int, str, str, int], Rule] = {}
    for port in ports:
        if port.host_port <= 0:
            continue
        made = list(_rules(pod_id, port, targets))
        if not made:
            where = f" on {port.host_ip}" if port.host_ip else ""
            raise InvalidRequest(
                f"host port {port.host_port}{where} of pod sandbox {pod_id} needs a pod address of its family:"
                f" the pod has {', '.join(ips) or 'none'}"
            )
        for rule in made:
            other = found.setdefault(rule.key, rule)
            if other.pod_port != rule.pod_port:
                raise InvalidRequest(
                    f"host port {rule} of pod sandbox {pod_id} is mapped to both {other.pod_port} and {rule.pod_port}"
                )
    return tuple(found.values())


def _rules(pod_id: str, port: Mapping, targets: dict[int, str]) -> Iterable[Rule]:
    if not 0 < port.container_port <= 65535 or port.host_port > 65535:
        raise InvalidRequest(
            f"port mapping {port.host_port} to {port.container_port} of pod sandbox {pod_id} is not between 1 and 65535"
        )
    families: tuple[int, ...] = (V4, V6)
    host_ip = ""
    if port.host_ip:
        try:
            address = ipaddress.ip_address(port.host_ip)
        except ValueError as e:
            raise InvalidRequest(f"host address {port.host_ip!r} of pod sandbox {pod_id} is not an IP address") from e
        if "%" in port.host_ip:
            raise InvalidRequest(f"host address {port.host_ip!r} of pod sandbox {pod_id} has a zone: give it without")
        families = (address.version,)
        host_ip = "" if address.is_unspecified else address.compressed
    protocol = port.protocol.name.lower()
    for family in families:
        if family in targets:
            # The hash goes by the spelling of the request.
            name = chain(pod_id, port.host_port, protocol, port.host_ip)
            yield Rule(
                family, protocol, host_ip, port.host_port, targets[family], port.container_port, tag(pod_id), name
            )
