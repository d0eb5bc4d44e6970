"""What every call has in common: request id, log, metric, trace, deadline, error class to gRPC status, cancellation.

A caller's deadline ends the caller's wait, not a flow that makes or removes something: those run shielded and keep or
undo what they finish (``SHIELDED``). Every other flow is cancelled with its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import time
import urllib.parse
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, NoReturn, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from pycrio import errors
from pycrio.api.codes import Code
from pycrio.api.describe import describe
from pycrio.obs import log as obslog
from pycrio.obs import trace
from pycrio.obs.metrics import metrics

log = obslog.get("api")

T = TypeVar("T")
Unary = Callable[[Any, float | None], Coroutine[Any, Any, Message | bytes]]
Stream = Callable[[Any, float | None], AsyncGenerator[Message | bytes, None]]


class Context(Protocol):
    """What a call knows of its caller."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""

    def metadata(self) -> dict[str, str]:
        """What the caller sent beside the call, by name in lower case."""

    def abort(self, status: int, text: str) -> NoReturn:
        """End the call with a status other than OK, by raising."""

    async def write(self, message: bytes) -> None:
        """One message of an answer with several; waits while the caller is slow."""


Handler = Callable[[bytes, Any], Coroutine[Any, Any, "bytes | None"]]
"""The request's bytes and a Context to the answer's bytes; None when all was written with ``Context.write``."""

CODES: dict[type[BaseException], Code] = {
    errors.NotFound: Code.NOT_FOUND,
    errors.Ambiguous: Code.NOT_FOUND,
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.WrongState: Code.FAILED_PRECONDITION,
    errors.InUse: Code.FAILED_PRECONDITION,
    errors.Busy: Code.ABORTED,
    errors.Denied: Code.PERMISSION_DENIED,
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.Exhausted: Code.RESOURCE_EXHAUSTED,
    errors.Timeout: Code.DEADLINE_EXCEEDED,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.RegistryNotFound: Code.NOT_FOUND,
    errors.RegistryDenied: Code.PERMISSION_DENIED,
    # The kubelet takes the code away only from UNKNOWN errors of a pull and then compares the beginning of the text
    # with these names: any other code would hide them.
    errors.SignatureInvalid: Code.UNKNOWN,
    errors.RegistryUnavailable: Code.UNKNOWN,
    errors.ImageMountFailed: Code.UNKNOWN,
    # Everything else that is foreseen: text for people, no code that a client could act upon.
    errors.PycrioError: Code.UNKNOWN,
}
"""The one table from failure to status; the class nearest to the failure's own counts."""

SHIELDED = frozenset(
    {
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
        "UpdateContainerResources",
        "UpdatePodSandboxResources",
        "ReopenContainerLog",
        "CheckpointContainer",
        "CheckpointPod",
        "RestorePod",
        "RemoveImage",
    }
)
"""Calls whose flow outlives its caller. PullImage is not among them: the flow itself counts who still waits."""

QUICK = frozenset(
    {
        "Version",
        "RuntimeConfig",
        "ListPodSandbox",
        "ListContainers",
        "ListMetricDescriptors",
    }
)
"""Calls that are answered from memory, and of which a client has one under way.

Statuses are asked for in crowds. There the turn of the loop that a task takes lets more of them arrive, and they are
read, answered and written together: without it a daemon that is quicker than its client wakes for every single one.
"""

WANTS = {
    errno.EMFILE: "the daemon has no file descriptors left, raise LimitNOFILE of its unit",
    errno.ENFILE: "the machine has no file descriptors left, raise the sysctl fs.file-max",
    errno.ENOMEM: "the kernel has no memory for it",
    errno.EAGAIN: "the kernel makes no more processes, threads or locks for the daemon, raise TasksMax of its unit",
    errno.ENOSPC: "there is no space left, free disk space or inodes",
    errno.EDQUOT: "the disk quota is used up",
}
"""What a machine runs out of, wherever it shows."""

_WORTH_A_WARNING = frozenset({Code.UNKNOWN, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED})
_STATUS = "rpc.grpc.status_code"
_DETAILS = 4096
"""Bytes of an error's text, percent-encoded as it travels: HTTP/2 peers refuse trailers of 8 KiB and more."""


def request_id() -> str:
    """A UUID (version 4) for the log's lines of one call.

    It has to be unique, not unpredictable: the kernel's random bytes cost a sixth of a status call.
    """
    digits = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def status_of(error: BaseException) -> tuple[Code, str]:
    """Status code and text for a failure."""
    for kind in type(error).__mro__:
        code = CODES.get(kind)
        if code is not None:
            return code, _details(str(error))
    if isinstance(error, OSError) and (want := WANTS.get(error.errno or 0)) is not None:
        return Code.RESOURCE_EXHAUSTED, _details(f"{want}: {error}")
    return Code.INTERNAL, _details(f"unforeseen failure in pycrio, see its log: {type(error).__name__}: {error}")


def parse(kind: type[T], raw: bytes) -> T:
    """The request in its bytes; InvalidRequest when they are none."""
    try:
        request: T = kind.FromString(raw)  # type: ignore[attr-defined]
    except DecodeError as e:
        raise errors.InvalidRequest(f"the request is not a {kind.__name__}: {e}") from e
    return request


class Boundary:
    """Wraps calls into gRPC handlers, and knows the flows that go on without their callers."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._sending: set[asyncio.Task[bytes]] = set()
        self._ended: set[asyncio.Task[bytes]] = set()

    def unary(self, path: str, kind: type[Message], call: Unary) -> Handler:
        """A handler for a call with one answer; ``path`` is ``/service/Method``."""
        name = path.rpartition("/")[2]
        shielded = name in SHIELDED
        attributes = _attributes(path)

        async def handle(raw: bytes, context: Context) -> bytes:
            began = time.perf_counter()
            failed = True
            try:
                ident = request_id()
                with (
                    obslog.bind(id=ident, name=path),
                    trace.server(path, attributes, lambda: _carrier(context)) as span,
                ):
                    span.set("pycrio.request", ident)
                    request = _checked(context, kind, raw)
                    flow = call(request, context.time_remaining())
                    answer = await _answered(context, self.shield(flow) if shielded else flow)
                    failed = False
                    return answer
            finally:
                metrics.operation(name, time.perf_counter() - began, failed)

        return handle

    def stream(self, path: str, kind: type[Message], call: Stream) -> Handler:
        """A handler for a call with any number of answers."""
        attributes = _attributes(path)

        async def send(request: Message, context: Context) -> bytes:
            async with contextlib.aclosing(call(request, context.time_remaining())) as answers:
                async for answer in answers:
                    await context.write(answer if isinstance(answer, bytes) else answer.SerializeToString())
            return b""

        async def handle(raw: bytes, context: Context) -> None:
            ident = request_id()
            with obslog.bind(id=ident, name=path), trace.server(path, attributes, lambda: _carrier(context)) as span:
                span.set("pycrio.request", ident)
                request = _checked(context, kind, raw)
                sending = asyncio.get_running_loop().create_task(send(request, context))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)
                await _answered(context, self._until_ended(sending))

        return handle

    async def shield(self, flow: Coroutine[Any, Any, T]) -> T:
        """Await a flow that goes on when the waiting ends; how it then ends is logged."""
        task = asyncio.get_running_loop().create_task(flow)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_finished_alone)
            raise

    async def _until_ended(self, sending: asyncio.Task[bytes]) -> bytes:
        """Await a stream; one that ``end_streams`` cancelled fails as Unavailable, so that clients connect anew."""
        try:
            return await sending
        except asyncio.CancelledError:
            if sending not in self._ended:
                raise
            raise errors.Unavailable("the daemon stops serving: connect again when it is back") from None

    def end_streams(self) -> None:
        """End the open streams, some of which (events) would else never end by themselves."""
        self._ended |= self._sending
        for task in self._sending:
            task.cancel()

    async def drain(self, grace: float) -> int:
        """Wait until the flows that go on alone have ended, ``grace`` seconds at most; how many are left."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        return len(self._running)


def _attributes(path: str) -> trace.Attributes:
    """Of a call's span (OpenTelemetry semantic conventions for gRPC servers); the status is that of success."""
    _, service, method = path.split("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, _STATUS: int(Code.OK)}


def _carrier(context: Context) -> trace.Carrier:
    """The caller's trace context."""
    return {name: value for name, value in context.metadata().items() if name in trace.HEADERS}


def _checked(context: Context, kind: type[Message], raw: bytes) -> Message:
    """The decoded request, logged; the call is aborted when it is none."""
    try:
        request = parse(kind, raw)
    except errors.InvalidRequest as e:
        _abort(context, e)
    if log.enabled(obslog.DEBUG):
        log.debug(f"Request: {describe(request)}")
    return request


async def _answered(context: Context, flow: Awaitable[Message | bytes]) -> bytes:
    """The serialised answer, logged; the call is aborted when the flow fails."""
    try:
        answer = await flow
    except asyncio.CancelledError:
        log.debug("Request cancelled: its caller has left or its deadline has passed")
        trace.failed("its caller has left or its deadline has passed", {_STATUS: int(Code.CANCELLED)})
        raise
    except Exception as e:
        _abort(context, e)
    if log.enabled(obslog.DEBUG):
        log.debug(f"Response: {f'{len(answer)} bytes' if isinstance(answer, bytes) else describe(answer)}")
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _abort(context: Context, error: Exception) -> NoReturn:
    """End the call with the error's status (raises)."""
    code, text = status_of(error)
    if code is Code.INTERNAL:
        log.exception("Unforeseen failure")
    elif code in _WORTH_A_WARNING:
        log.warning("Request failed", code=code.name, error=text)
    else:
        log.debug(f"Response error: {text}", code=code.name)
    trace.failed(text, {_STATUS: int(code)})
    context.abort(code, text)


def _finished_alone(task: asyncio.Task[Any]) -> None:
    """Log how a flow ended whose caller had left."""
    if task.cancelled():
        log.warning("Flow of a caller that had left was cancelled")
    elif (error := task.exception()) is None:
        log.info("Flow of a caller that had left has finished")
    elif isinstance(error, errors.PycrioError):
        log.warning("Flow of a caller that had left has failed", error=str(error))
    else:
        log.error("Flow of a caller that had left has failed unforeseen", error=f"{type(error).__name__}: {error}")


def _details(text: str) -> str:
    """A text that fits the trailers, cut in the middle: both what failed and the last words of a program matter."""
    if _travelling(text) <= _DETAILS:
        return text
    low, high = 0, len(text)
    while low < high:
        half = (low + high + 1) // 2
        low, high = (half, high) if _travelling(_cut(text, half)) <= _DETAILS else (low, half - 1)
    return _cut(text, low)


def _cut(text: str, kept: int) -> str:
    tail = kept // 2
    return f"{text[: kept - tail]} … {text[len(text) - tail :]}"


def _travelling(text: str) -> int:
    return len(urllib.parse.quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", errors="replace"))
