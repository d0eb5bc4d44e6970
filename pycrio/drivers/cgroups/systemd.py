"""Scopes and slices by systemd's D-Bus interface (org.freedesktop.systemd1, man 5 org.freedesktop.systemd1)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pycrio.errors import ExternalFailure, InvalidRequest, Timeout, Unavailable

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

NAME, PATH, MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
JOB_TIMEOUT = 30.0
SIGPIPE = 13


def expand_slice(name: str) -> str:
    """Where systemd puts a slice: ``a-b.slice`` is ``/a.slice/a-b.slice`` (man 5 systemd.slice)."""
    if not name.endswith(".slice") or "/" in name:
        raise InvalidRequest(f"{name!r} is not the name of a slice")
    stem = name.removesuffix(".slice")
    if stem == "-":
        return "/"
    if not stem or stem.startswith("-") or stem.endswith("-") or "--" in stem:
        raise InvalidRequest(f"{name!r} is not the name of a slice")
    parts = stem.split("-")
    return "/" + "/".join("-".join(parts[: i + 1]) + ".slice" for i in range(len(parts)))


# Ends of a connection as the library tells them; EOFError is the peer's.
_BROKEN = (OSError, EOFError, ValueError, asyncio.TimeoutError)


async def _call(bus: MessageBus, request: Message) -> list[Any]:
    """The body of the reply. ExternalFailure when the peer refuses, Timeout and Unavailable when it does not answer."""
    from dbus_fast import MessageType

    try:
        reply = await asyncio.wait_for(bus.call(request), JOB_TIMEOUT)
    except asyncio.TimeoutError as e:
        raise Timeout(f"systemd did not answer {request.member} within {JOB_TIMEOUT:.0f} s") from e
    except _BROKEN as e:
        raise Unavailable(f"the connection to systemd broke in {request.member}: {e or type(e).__name__}") from e
    if reply.message_type is MessageType.ERROR:
        raise ExternalFailure(str(reply.body[0] if reply.body else reply.error_name))
    return list(reply.body)


class Systemd:
    """One connection to the system bus, made when first needed and again after it broke."""

    def __init__(self) -> None:
        self._bus: MessageBus | None = None
        self._end: asyncio.Future[None] | None = None
        self._lock = asyncio.Lock()
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._early: dict[str, str] = {}

    async def close(self) -> None:
        """Leave the bus."""
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None
        if self._end is not None:
            await asyncio.wait([self._end])
            self._end = None

    async def _connected(self) -> MessageBus:
        from dbus_fast import BusType, Message
        from dbus_fast.aio import MessageBus

        async with self._lock:
            if self._bus is not None and self._bus.connected:
                return self._bus
            try:
                bus = await asyncio.wait_for(MessageBus(bus_type=BusType.SYSTEM).connect(), JOB_TIMEOUT)
            except _BROKEN as e:
                raise Unavailable(
                    f"systemd cannot be reached over D-Bus: {e or type(e).__name__}; is cgroup_manager = systemd right?"
                ) from e
            bus.add_message_handler(self._signal)
            rule = f"type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved'"
            for body, signature, member, path, interface, destination in (
                ([rule], "s", "AddMatch", "/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus"),
                ([], "", "Subscribe", PATH, MANAGER, NAME),
            ):
                try:
                    await _call(
                        bus,
                        Message(
                            destination=destination,
                            path=path,
                            interface=interface,
                            member=member,
                            signature=signature,
                            body=body,
                        ),
                    )
                except BaseException:
                    bus.disconnect()
                    raise
            self._bus = bus
            self._end = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
            self._end.add_done_callback(self._lost)
            return bus

    def _lost(self, end: asyncio.Future[None]) -> None:
        """The connection has ended: nobody will tell of the jobs that are waited for."""
        cause = None if end.cancelled() else end.exception()
        for job in self._jobs.values():
            if not job.done():
                job.set_exception(Unavailable(f"the connection to systemd broke: {cause or 'closed'}"))

    def _signal(self, message: Any) -> None:
        """JobRemoved(id, job, unit, result)."""
        if message.member != "JobRemoved" or message.interface != MANAGER:
            return
        job, result = str(message.body[1]), str(message.body[3])
        waiting = self._jobs.pop(job, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(result)
        elif waiting is None:
            self._early[job] = result  # the signal may overtake the reply that names the job
            while len(self._early) > 256:
                self._early.pop(next(iter(self._early)))

    async def scope(self, unit: str, slice_name: str, pid: int, cpuset: str = "", shares: int = 0) -> None:
        """Put a process into a transient scope of its own and wait until it is there."""
        from dbus_fast import Message, Variant

        properties: list[list[Any]] = [
            ["PIDs", Variant("au", [pid])],
            ["Slice", Variant("s", slice_name)],
            ["Delegate", Variant("b", True)],
            ["DefaultDependencies", Variant("b", False)],
            ["After", Variant("as", ["crio.service"])],
            ["KillSignal", Variant("i", SIGPIPE)],
        ]
        if shares:
            properties.append(["CPUShares", Variant("t", shares)])
        if cpuset:
            properties.append(["AllowedCPUs", Variant("ay", cpu_mask(cpuset))])
        bus = await self._connected()
        request = Message(
            destination=NAME,
            path=PATH,
            interface=MANAGER,
            member="StartTransientUnit",
            signature="ssa(sv)a(sa(sv))",
            body=[unit, "replace", properties, []],
        )
        try:
            reply = await _call(bus, request)
        except ExternalFailure as e:
            raise ExternalFailure(f"systemd did not make scope {unit} in {slice_name}: {e}") from e
        result = await self._job(str(reply[0]), unit)
        if result != "done":
            raise ExternalFailure(f"systemd did not make scope {unit} in {slice_name}: job {result}")

    async def set(self, unit: str, properties: Sequence[tuple[str, str, Any]]) -> None:
        """Change properties (name, D-Bus type, value) of a unit until the next boot."""
        from dbus_fast import Message, Variant

        bus = await self._connected()
        request = Message(
            destination=NAME,
            path=PATH,
            interface=MANAGER,
            member="SetUnitProperties",
            signature="sba(sv)",
            body=[unit, True, [[name, Variant(kind, value)] for name, kind, value in properties]],
        )
        try:
            await _call(bus, request)
        except ExternalFailure as e:
            raise ExternalFailure(f"systemd does not set {', '.join(p[0] for p in properties)} of {unit}: {e}") from e

    async def _job(self, job: str, unit: str) -> str:
        if job in self._early:
            return self._early.pop(job)
        future = self._jobs[job] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(future, JOB_TIMEOUT)
        except (asyncio.TimeoutError, TimeoutError) as e:
            raise Timeout(f"systemd did not finish making {unit} within {JOB_TIMEOUT:.0f} s") from e
        finally:
            self._jobs.pop(job, None)


def cpu_mask(text: str) -> bytes:
    """A CPU list (``0-3,8``) as the bit mask that systemd takes, least significant byte first."""
    mask = 0
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidRequest(f"{text!r} is not a CPU list such as 0-3,8")
        for cpu in range(int(first), int(last or first) + 1):
            mask |= 1 << cpu
    return mask.to_bytes((mask.bit_length() + 7) // 8 or 1, "little")
