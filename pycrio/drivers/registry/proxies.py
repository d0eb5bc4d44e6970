"""HTTP proxies from the environment, with the rules that Go programs follow (golang.org/x/net/http/httpproxy)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from pycrio.errors import ConfigError


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy's URL for a request, None to connect directly. ConfigError when the variable is unusable."""
    parts = urlsplit(url)
    upper = "HTTPS_PROXY" if parts.scheme == "https" else "HTTP_PROXY"
    value = environ.get(upper) or environ.get(upper.lower()) or ""
    if not value:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if bypassed(parts.hostname or "", port, environ.get("NO_PROXY") or environ.get("no_proxy") or ""):
        return None
    proxy = value if "://" in value else f"http://{value}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise ConfigError([f"{upper} names a proxy of an unsupported kind: only http:// and https:// proxies work"])
    return proxy


def bypassed(host: str, port: int, no_proxy: str) -> bool:
    """True when a host is reached without proxy: loopback always, else what NO_PROXY lists."""
    host = host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_covers(entry.strip().lower(), host, port, address) for entry in no_proxy.split(",") if entry.strip())


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _covers(entry: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    """One entry of NO_PROXY: ``*``, address, network, name with its subdomains, or ``.name`` for those alone."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
        return address is not None and address in network
    if _address(entry.strip("[]")) is None:
        name, colon, number = entry.rpartition(":")
        if colon and number.isdigit():
            if int(number) != port:
                return False
            entry = name
    literal = _address(entry.strip("[]"))
    if literal is not None:
        return address == literal
    entry = entry.removeprefix("*").rstrip(".")
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")
