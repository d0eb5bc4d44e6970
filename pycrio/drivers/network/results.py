"""CNI results: from one version's form to another's, and the pod's addresses in them. No I/O.

Three forms: up to 0.2 one address per family (``ip4``, ``ip6``), 0.3 and 0.4 a list with the family told, from 1.0 on a
list without (CNI spec, sections "Result types" of each).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from pycrio.drivers.network.conf import VERSIONS, version_number
from pycrio.errors import NetworkFailure

_LISTS, _PLAIN = (0, 3, 0), (1, 0, 0)


def normal(result: Any, version: str, where: str) -> dict[str, Any]:
    """A plugin's result in the form of ``version``. One that names no version is taken to have the network's.

    NetworkFailure when it is not of a form that its version has; ``where`` says whose it is.
    """
    if not isinstance(result, dict):
        raise NetworkFailure(f"the CNI result of {where} is not a JSON object")
    has = result.get("cniVersion") or version
    if has not in VERSIONS:
        raise NetworkFailure(f"the CNI result of {where} has the version {has!r}: {', '.join(VERSIONS)} are known")
    old, new = version_number(has), version_number(version)
    try:
        out = dict(result)
        if old < _LISTS <= new:
            out = _to_lists(out)
        if old < _PLAIN and new >= _PLAIN:
            out["ips"] = [{k: v for k, v in ip.items() if k != "version"} for ip in out.get("ips") or ()]
        elif old >= _PLAIN > new:
            out["ips"] = [{"version": str(_interface(ip).version), **ip} for ip in out.get("ips") or ()]
        if new < _LISTS <= old:
            out = _from_lists(out)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise NetworkFailure(f"the CNI result of {where} does not have the form of version {has}") from e
    out["cniVersion"] = version
    return out


def _interface(ip: Mapping[str, Any]) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    address = ip["address"]
    if not isinstance(address, str):
        raise TypeError(address)
    return ipaddress.ip_interface(address)


def _to_lists(result: dict[str, Any]) -> dict[str, Any]:
    ips: list[dict[str, Any]] = []
    routes: list[Any] = []
    for family in ("4", "6"):
        one = result.get(f"ip{family}")
        if one:
            ips.append({"version": family, "address": one["ip"], **_kept(one, "gateway")})
            routes += one.get("routes") or []
    return {"ips": ips, "routes": routes, "dns": result.get("dns") or {}}


def _from_lists(result: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"dns": result.get("dns") or {}}
    for ip in result.get("ips") or ():
        family = _interface(ip).version
        routes = [r for r in result.get("routes") or () if ipaddress.ip_interface(r["dst"]).version == family]
        out.setdefault(f"ip{family}", {"ip": ip["address"], **_kept(ip, "gateway"), "routes": routes})
    return out


def _kept(source: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {key: source[key]} if source.get(key) else {}


def addresses(result: Any, where: str) -> tuple[str, ...]:
    """The pod's addresses without prefix lengths, in the plugin's order. NetworkFailure when there is none."""
    try:
        lists = normal(result, "1.0.0", where)
        interfaces = lists.get("interfaces") or []
        found = lists.get("ips") or []
        inside = [ip for ip in found if _in_pod(ip.get("interface"), interfaces)]
        # Plugins that do not say where an interface is give pod addresses all the same.
        out = tuple(_interface(ip).ip.compressed for ip in inside or found)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise NetworkFailure(f"the CNI result of {where} has addresses of a form that no CNI version has") from e
    if not out:
        raise NetworkFailure(f"the CNI result of {where} has no address for the pod")
    return tuple(dict.fromkeys(out))


def _in_pod(number: Any, interfaces: Any) -> bool:
    if number is None or not 0 <= number < len(interfaces):
        return True
    return bool(interfaces[number].get("sandbox"))
