"""Pass an event of a containerd shim on to the daemon: what shims run that do not send their events themselves."""

from __future__ import annotations

import socket

from google.protobuf.message import DecodeError

from pycrio.drivers.shim import names
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.errors import InvalidRequest, Unavailable
from pycrio.ttrpc import frames
from pycrio.ttrpc._pb import ttrpc_pb2

TIMEOUT = 10.0
STREAM = 1


def publish(address: str, topic: str, namespace: str, event: bytes) -> None:
    """Send the event (a protobuf Any) to the socket that the daemon gave the shim as its address.

    InvalidRequest for an event that cannot be decoded, Unavailable when nobody takes it.
    """
    envelope = pb.Envelope(topic=topic, namespace=namespace)
    envelope.timestamp.GetCurrentTime()
    try:
        envelope.event.ParseFromString(event)
    except DecodeError as e:
        raise InvalidRequest(f"the event on standard input is no protobuf Any: {e}") from e
    payload = pb.ForwardRequest(envelope=envelope).SerializeToString()
    request = ttrpc_pb2.Request(
        service=names.EVENTS, method="Forward", payload=payload, timeout_nano=int(TIMEOUT * 1e9)
    )
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(address.removeprefix("unix://"))
            sock.sendall(frames.encode(frames.Message(STREAM, frames.REQUEST, 0, request.SerializeToString())))
            answer = ttrpc_pb2.Response.FromString(_answer(sock).data)
    except (OSError, ValueError, DecodeError, frames.FramingError) as e:
        raise Unavailable(f"the daemon does not take events at {address!r}: {e}") from e
    if answer.status.code:
        raise Unavailable(f"the daemon at {address!r} refused the event: {answer.status.message}")


def _answer(sock: socket.socket) -> frames.Message:
    got = bytearray()
    while not (messages := frames.take(got)):
        data = sock.recv(65536)
        if not data:
            raise ValueError("it closed the connection")
        got += data
    return messages[0]
