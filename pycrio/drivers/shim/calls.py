"""Calls of shims: one connection for each shim, made when it is first needed and anew when it was lost."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pycrio.drivers.shim import bootstrap, names
from pycrio.drivers.shim.place import Facts
from pycrio.errors import NotFound, RuntimeFailure, Timeout
from pycrio.ttrpc.frames import Plain
from pycrio.ttrpc.link import CallError, Link, LinkLost, refuse

M = TypeVar("M", bound=Message)
CONNECT_TIMEOUT = 10.0
NOT_FOUND = 5


class ShimGone(RuntimeFailure):
    """The shim cannot be reached: its process has ended, or it ended the connection."""


class Calls:
    """``timeout`` in seconds bounds calls that do not say otherwise."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._links: dict[str, Link] = {}
        self._making: dict[str, asyncio.Lock] = {}
        self._silent: dict[str, tuple[Link, int]] = {}

    async def call(
        self, facts: Facts, method: str, request: Message, answer: type[M], timeout: float | None = None
    ) -> M:
        """A call of the Task service; ``timeout`` 0: no limit. ShimGone, NotFound, Timeout or RuntimeFailure."""
        limit = self._timeout if timeout is None else timeout
        link = await self._link(facts.address)
        service = names.task_service(facts.version)
        heard = link.answers
        try:
            payload = await link.call(service, method, request.SerializeToString(), limit, patient=True)
            return answer.FromString(payload)
        except LinkLost as e:
            raise ShimGone(f"shim of pod {facts.pod} is gone: {e}") from e
        except TimeoutError as e:
            if link.answers == heard and method != "Wait":  # that one may take as long as it likes
                self._silent[facts.address] = (link, heard)
            raise Timeout(f"shim of pod {facts.pod}: {e}") from e
        except CallError as e:
            if e.code == NOT_FOUND:
                raise NotFound("task", getattr(request, "id", ""), str(e)) from e
            raise RuntimeFailure(f"shim {method} {getattr(request, 'id', '')}: {e}") from e
        except DecodeError as e:
            raise RuntimeFailure(f"shim of pod {facts.pod} answered {method} with what cannot be decoded: {e}") from e

    async def _link(self, address: str) -> Link:
        async with self._making.setdefault(address, asyncio.Lock()):
            known = self._links.get(address)
            if known is not None and not known.closed.done():
                return known
            loop = asyncio.get_running_loop()
            link = Link(refuse, accepted=False, codec=Plain(), peer="shim")
            try:
                connecting = loop.create_unix_connection(lambda: link, bootstrap.socket_name(address))
                await asyncio.wait_for(connecting, CONNECT_TIMEOUT)
            except (OSError, asyncio.TimeoutError) as e:
                link.close("not connected")
                raise ShimGone(f"shim at {address} cannot be reached: {e or 'no answer'}") from e
            self._links[address] = link
            return link

    def silent(self, address: str) -> bool:
        """Whether the shim has let a call's time pass and has answered nothing since, not even others' calls."""
        link, heard = self._silent.get(address, (None, 0))
        return link is not None and not link.closed.done() and link.answers == heard

    async def ended(self, address: str, timeout: float) -> bool:
        """Wait until the shim has ended the connection; False when the time was up first."""
        link = self._links.get(address)
        if link is None:
            return True
        done, _ = await asyncio.wait({link.closed}, timeout=timeout)
        return bool(done)

    async def forget(self, address: str) -> None:
        """Close the connection, if there is one."""
        link = self._links.pop(address, None)
        self._making.pop(address, None)
        self._silent.pop(address, None)
        if link is not None:
            link.close("not needed any more")
            await link.wait_closed()

    async def close(self) -> None:
        """Close every connection; shims go on."""
        for address in list(self._links):
            await self.forget(address)
