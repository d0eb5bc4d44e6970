"""Host ports on 127.0.0.1: which interface leads to a pod, and letting loopback addresses pass there."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_RTA_DST, _RTA_OIF = 1, 4
_HEADER, _ROUTE, _ATTRIBUTE = struct.Struct("=LHHLL"), struct.Struct("=BBBBBBBBL"), struct.Struct("=HH")


def interface_to(address: str) -> str:
    """The interface that the kernel would send to an IPv4 address by; "" when there is no route (man 7 rtnetlink).

    OSError when the kernel does not answer.
    """
    destination = socket.inet_aton(address)
    body = _ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(destination), _RTA_DST) + destination
    message = _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as s:
        s.bind((0, 0))
        s.send(message)
        answer = s.recv(1 << 16)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _RTM_NEWROUTE:
        return ""
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, attribute = _ATTRIBUTE.unpack_from(answer, at)
        if attribute == _RTA_OIF:
            (index,) = struct.unpack_from("=i", answer, at + _ATTRIBUTE.size)
            return socket.if_indextoname(index)
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return ""


def closed_interface(address: str) -> str:
    """The interface that leads to a pod when packets with loopback addresses may not pass there; "" when they may, or
    when there is none. OSError when that cannot be found out."""
    name = interface_to(address)
    if not name or name == "lo":
        return ""
    with open(_path(name), encoding="ascii") as f:
        return "" if f.read().strip() == "1" else name


def allow(names: Iterable[str], allowed: bool) -> None:
    """Let packets with loopback addresses pass at interfaces, or not (ip-sysctl: route_localnet). An interface that is
    gone is passed over. OSError when it cannot be set."""
    for name in names:
        with contextlib.suppress(FileNotFoundError), open(_path(name), "w", encoding="ascii") as f:
            f.write("1" if allowed else "0")


def _path(name: str) -> str:
    return os.path.join("/proc/sys/net/ipv4/conf", name, "route_localnet")
