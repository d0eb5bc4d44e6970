"""One layer blob into a pipe: resumed when the connection is cut, bounded in size, watched for progress."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from pycrio.drivers.registry.endpoint import Endpoint
from pycrio.drivers.registry.sink import Sink
from pycrio.drivers.registry.transport import Transport, refusal
from pycrio.drivers.registry.trouble import Trouble
from pycrio.model.image import LayerDescriptor

if TYPE_CHECKING:
    import aiohttp

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# So much in one go and the place is taken for working: the count of failed attempts begins anew.
GOOD_RUN = 256 << 10

Opener = Callable[[dict[str, str]], AbstractAsyncContextManager["aiohttp.ClientResponse"]]


class Stall:
    """Time spent waiting for the network (not for the reader of the pipe) without enough bytes to call it progress."""

    def __init__(self, window: float, slowest: int, clock: Callable[[], float]) -> None:
        self._window = window
        self._least = slowest * window
        self._clock = clock
        self._begun = 0.0
        self._waited = 0.0
        self._got = 0

    @property
    def limited(self) -> bool:
        """True when the operator set a time."""
        return self._window > 0

    def begin(self) -> None:
        """A read starts."""
        self._begun = self._clock()

    def end(self, got: int) -> None:
        """A read ended with so many bytes; Trouble when it has been too slow for too long."""
        self._waited += self._clock() - self._begun
        self._got += got
        if self._window <= 0 or self._waited < self._window:
            return
        if self._got < self._least:
            raise Trouble("stalled", f"only {self._got} bytes in {self._waited:.0f} s (pull_progress_timeout)")
        self._waited, self._got = 0.0, 0


class Transfer:
    """The state of a layer's way into the sink; survives a change of the place that it comes from."""

    def __init__(self, layer: LayerDescriptor, sink: Sink, progress: Callable[[int], None], stall: Stall) -> None:
        self._layer = layer
        self._sink = sink
        self._progress = progress
        self._stall = stall
        self.done = 0

    @property
    def complete(self) -> bool:
        """All bytes were written."""
        return self.done == self._layer.size

    async def from_endpoint(self, endpoint: Endpoint) -> None:
        """Get what is missing from a registry, in as many attempts as bring it forward. Raises Trouble, SinkClosed."""
        await self._run(endpoint, lambda headers: endpoint.open(f"blobs/{self._layer.digest}", headers))

    async def from_url(self, endpoint: Endpoint, transport: Transport, url: str) -> None:
        """The same from a foreign layer's own address, without credentials."""

        @asynccontextmanager
        async def opened(headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
            async with transport.exchange(url, headers, insecure=False) as response:
                if response.status not in (200, 206):
                    raise await refusal(response, 65536)
                yield response

        await self._run(endpoint, opened)

    async def _run(self, endpoint: Endpoint, opener: Opener) -> None:
        attempt = 0
        while not self.complete:
            attempt += 1
            before = self.done
            try:
                await self._once(opener)
            except Trouble as trouble:
                if trouble.kind == "stalled" and self._stall.limited:
                    raise
                if trouble.kind == "cut" and self.done - before >= GOOD_RUN:
                    attempt = 1
                await endpoint.pause(trouble, attempt)

    async def _once(self, opener: Opener) -> None:
        """One request and as much of its body as comes."""
        start = self.done
        async with opener({"Range": f"bytes={start}-"} if start else {}) as response:
            skip = self._check(response, start)
            while True:
                self._stall.begin()
                chunk = await response.content.readany()
                if not chunk:
                    break
                self._stall.end(len(chunk))
                if skip:
                    dropped = min(skip, len(chunk))
                    skip -= dropped
                    chunk = chunk[dropped:]
                await self._take(chunk)
        if not self.complete:
            missing = self._layer.size - self.done
            if response.content_length is None and "chunked" not in response.headers.get("Transfer-Encoding", ""):
                raise Trouble("cut", f"the connection ended {missing} bytes before the end of the layer")
            raise Trouble("bad", f"layer {self._layer.digest} ends {missing} bytes before its {self._layer.size}")

    async def _take(self, chunk: bytes) -> None:
        if self.done + len(chunk) > self._layer.size:
            raise Trouble(
                "bad", f"layer {self._layer.digest} is longer than the {self._layer.size} bytes that its manifest says"
            )
        if chunk:
            await self._sink.write(chunk)
            self.done += len(chunk)
            self._progress(self.done)

    def _check(self, response: aiohttp.ClientResponse, start: int) -> int:
        """How many bytes of the body are known already; Trouble when the answer does not fit the question."""
        size = self._layer.size
        length = response.content_length
        if response.status == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start or match[3] not in ("*", str(size)):
                raise Trouble(
                    "protocol",
                    f"asked for layer {self._layer.digest} from byte {start} on, got "
                    f"{response.headers.get('Content-Range', 'no Content-Range')!r}",
                )
            expected = size - start
        else:
            expected = size  # ranges are not served: the beginning comes again
        if length is not None and length != expected:
            raise Trouble("bad", f"layer {self._layer.digest} has {length} bytes where {expected} were expected")
        return 0 if response.status == 206 else start
