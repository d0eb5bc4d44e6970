"""The host's own address for a server that is told none."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct

from pycrio.errors import ConfigError

_SIOCGIFADDR = 0x8915  # netdevice(7)
_FAR = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))  # RFC 5737, RFC 3849: never reached


def choose() -> str:
    """The address that packets to other hosts have, else the first of any interface but loopback.

    ConfigError when there is none.
    """
    for far, family in _FAR:
        # Connecting a datagram socket asks the routing table and sends nothing.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))
            if _good(found := str(sock.getsockname()[0])):
                return found
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            if _good(found := socket.inet_ntoa(answer[20:24])):
                return found
    raise ConfigError(["no address for the streaming server was found on this host: set stream_address"])


def _good(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local)
