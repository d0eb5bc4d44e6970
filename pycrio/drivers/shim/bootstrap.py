"""A shim's own command line: ``start``, which answers where it listens, and ``delete``, which cleans up after one that
is gone (containerd, runtime v2 README)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pycrio._native.base import NativeError
from pycrio._native.run import run
from pycrio.drivers.shim import names
from pycrio.drivers.shim.place import Place
from pycrio.errors import RuntimeFailure, Timeout
from pycrio.model.node import Handler
from pycrio.obs import trace

NEWEST = 3
"""Highest version of an answer that we understand."""
DELETE_TIMEOUT = 60.0
_UNIX = "unix://"


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a shim listens, and the version of the protocol."""

    address: str
    version: int


@dataclass(frozen=True, slots=True)
class Caller:
    """What a shim is told about us: the socket for its events, the program that it may run instead."""

    events: str
    publish: str
    debug: bool = False
    prefix: tuple[str, ...] = ()


def environment(handler: Handler, caller: Caller) -> dict[str, str]:
    """The daemon's environment, with the monitor's of the handler and where events go."""
    env = dict(os.environ)
    env |= dict(item.partition("=")[::2] for item in handler.monitor_env)
    return env | {"TTRPC_ADDRESS": caller.events, "NAMESPACE": names.NAMESPACE, "MAX_SHIM_VERSION": "2"}


def words(path: str, ident: str, caller: Caller) -> list[str]:
    """The command line up to the action."""
    flags = ["-namespace", names.NAMESPACE, "-address", caller.events, "-publish-binary", caller.publish, "-id", ident]
    return [path, *flags, *(["-debug"] if caller.debug else [])]


def delete_words(path: str, place: Place, caller: Caller) -> list[str]:
    """The clean-up command. It runs in the place."""
    return [*words(path, place.id, caller), "-bundle", place.dir, "delete"]


async def start(handler: Handler, place: Place, caller: Caller, options: bytes) -> Answer:
    """Start the shim of a pod, in the directory of its sandbox container."""
    command = [*caller.prefix, *words(handler.path, place.id, caller), "start"]
    with trace.span(f"{os.path.basename(handler.path)} start", {"process.executable.path": handler.path}):
        done = await _run(handler.path, command, place, environment(handler, caller), options, handler.create_timeout)
    try:
        return parse(done)
    except ValueError as e:
        raise RuntimeFailure(f"{handler.path} start of {place.id} answered what cannot be used: {e}") from e


async def delete(shim: str, place: Place, command: Sequence[str]) -> None:
    """Have a shim's program end and clean up what a shim that is gone has left."""
    with trace.span(f"{os.path.basename(shim)} delete", {"process.executable.path": shim}):
        await _run(shim, command, place, None, b"", DELETE_TIMEOUT)
    place.mark("deleted")


async def _run(
    shim: str, command: Sequence[str], place: Place, env: Mapping[str, str] | None, stdin: bytes, timeout: float
) -> bytes:
    try:
        done = await run(command, stdin=stdin, env=env, cwd=place.dir, timeout=timeout, cap=1 << 20)
    except NativeError as e:
        raise RuntimeFailure(f"shim {shim} cannot be executed: {e.strerror}; check runtime_path of its handler") from e
    if done.timed_out:
        raise Timeout(f"{shim} {command[-1]} of {place.id} did not end within {timeout:.0f} s")
    if done.code != 0:
        said = " ".join((done.stderr or done.stdout).decode("utf-8", "replace").split())[-2000:]
        raise RuntimeFailure(f"{os.path.basename(shim)} {command[-1]} {place.id}: {said or f'code {done.code}'}")
    return done.stdout


def parse(answer: bytes) -> Answer:
    """An address as plain text (the first shims), or a JSON object with version, address and protocol. ValueError when
    it is neither, or of a later version or another protocol than ours."""
    text = answer.decode("utf-8", "replace").strip()
    if not text.startswith("{"):
        return Answer(checked(text), 2)
    document = json.loads(text)
    version, protocol = document.get("version"), document.get("protocol") or "ttrpc"
    if not isinstance(version, int) or not 0 < version <= NEWEST:
        raise ValueError(f"version {version!r} is none of 1 to {NEWEST}")
    if protocol != "ttrpc":
        raise ValueError(f"protocol {protocol!r} is not ttrpc")
    return Answer(checked(str(document.get("address", ""))), version)


def checked(address: str) -> str:
    """The address, if it is one of a unix socket; ValueError otherwise."""
    if not address or not address.isprintable() or " " in address:
        raise ValueError(f"{address[:200]!r} is no address")
    if "://" in address and not address.startswith(_UNIX + "/"):
        raise ValueError(f"address {address!r} is not that of a unix socket")
    return address


def socket_name(address: str) -> str:
    """What to connect to: a path, or the name in the abstract namespace that addresses without unix:// are."""
    return address.removeprefix(_UNIX) if address.startswith(_UNIX) else f"\0{address}"
