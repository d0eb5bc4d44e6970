"""From the services' descriptors to handlers: the calls come from the proto, so none can be forgotten."""

from __future__ import annotations

import re
from typing import Protocol

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.boundary import QUICK, Boundary, Handler


class Service(Protocol):
    """An object with a method for each call of a service, named in snake case: ``(request, remaining) → answer``, or
    an asynchronous iterator of answers. ``remaining`` is the caller's patience in seconds, None without a deadline."""

    @property
    def service(self) -> str:
        """The service's name in the proto."""


def snake(name: str) -> str:
    """``StreamPodSandboxes`` → ``stream_pod_sandboxes``."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def quick(service: Service) -> frozenset[bytes]:
    """Paths of those of a service's calls that as a rule wait for nothing."""
    descriptor = pb.DESCRIPTOR.services_by_name[service.service]
    names = (method.name for method in descriptor.methods)
    return frozenset(f"/{descriptor.full_name}/{name}".encode() for name in names if name in QUICK)


def handlers(service: Service, boundary: Boundary) -> dict[bytes, Handler]:
    """Path → handler for every call of a service; AttributeError when it lacks one."""
    descriptor = pb.DESCRIPTOR.services_by_name[service.service]
    table: dict[bytes, Handler] = {}
    for method in descriptor.methods:
        wrap = boundary.stream if method.server_streaming else boundary.unary
        path = f"/{descriptor.full_name}/{method.name}"
        table[path.encode()] = wrap(path, getattr(pb, method.input_type.name), getattr(service, snake(method.name)))
    return table
