"""A small synchronous CRI client for tests, benchmarks and the demonstration.

cri = Cri("unix:///run/x/crio.sock")
cri.RunPodSandbox(config=...)          # keyword arguments are the request's fields
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from pycrio.api._pb import api_pb2 as pb

SERVICES = {
    name: service
    for service in ("RuntimeService", "ImageService")
    for name in pb.DESCRIPTOR.services_by_name[service].methods_by_name
}


class Cri:
    """Every call of both services as a method. ``timeout`` in seconds is the deadline of each; a call's own
    ``deadline`` goes before it (``timeout`` is a field of some requests)."""

    def __init__(self, endpoint: str, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.channel = grpc.insecure_channel(
            endpoint,
            options=[("grpc.max_receive_message_length", 80 << 20), ("grpc.default_authority", "localhost")],
        )
        self._calls: dict[str, Callable[..., Any]] = {}

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the socket answers."""
        grpc.channel_ready_future(self.channel).result(timeout)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in SERVICES:
            raise AttributeError(name)
        method = pb.DESCRIPTOR.services_by_name[SERVICES[name]].methods_by_name[name]
        request_type = getattr(pb, method.input_type.name)
        response_type = getattr(pb, method.output_type.name)
        path = f"/runtime.v1.{SERVICES[name]}/{name}"
        make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        invoke = make(path, request_type.SerializeToString, response_type.FromString)

        def call(request: Any = None, *, deadline: float | None = None, **fields: Any) -> Any:
            return invoke(request if request is not None else request_type(**fields), timeout=deadline or self.timeout)

        self.__dict__[name] = call
        return call

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()

    def __enter__(self) -> Cri:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def pod(name: str, **more: Any) -> pb.PodSandboxConfig:
    """A pod's config with an identity made from its name; ``linux``, ``log_directory``, ``labels`` … as given."""
    metadata = pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace=more.pop("namespace", "default"))
    metadata.attempt = more.pop("attempt", 0)
    return pb.PodSandboxConfig(metadata=metadata, **more)


def container(name: str, image: str, *command: str, **more: Any) -> pb.ContainerConfig:
    """A container's config."""
    more.setdefault("log_path", f"{name}.log")
    metadata = pb.ContainerMetadata(name=name, attempt=more.pop("attempt", 0))
    return pb.ContainerConfig(metadata=metadata, image=pb.ImageSpec(image=image), command=command, **more)
