"""A CRI client for tests: calls by name, messages by the proto."""

from __future__ import annotations

from typing import Any

import grpc

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.codes import Code

_METHODS = {
    method.name: (f"/{service.full_name}/{method.name}", method)
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def _types(name: str) -> tuple[str, Any, Any]:
    path, method = _METHODS[name]
    return path, getattr(pb, method.input_type.name), getattr(pb, method.output_type.name)


async def call(channel: grpc.aio.Channel, name: str, deadline: float | None = 20, **fields: Any) -> Any:
    """One unary call with the request's fields; AioRpcError as it comes."""
    path, request, response = _types(name)
    stub = channel.unary_unary(path, request_serializer=None, response_deserializer=response.FromString)
    return await stub(request(**fields).SerializeToString(), timeout=deadline)


async def raw(channel: grpc.aio.Channel, name: str, content: bytes, deadline: float | None = 20) -> Any:
    """One unary call with bytes as the request."""
    path, _, response = _types(name)
    return await channel.unary_unary(path, None, response_deserializer=response.FromString)(content, timeout=deadline)


def stream(channel: grpc.aio.Channel, name: str, deadline: float | None = 20, **fields: Any) -> Any:
    """One call with many answers, to be iterated."""
    path, request, response = _types(name)
    stub = channel.unary_stream(path, None, response_deserializer=response.FromString)
    return stub(request(**fields).SerializeToString(), timeout=deadline)


def code(error: grpc.aio.AioRpcError) -> Code:
    """The status of a failed call."""
    return Code(error.code().value[0])
