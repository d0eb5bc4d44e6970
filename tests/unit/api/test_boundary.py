"""What every call has in common, seen by a client: status codes, texts, cancellation, log, metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from pycrio import errors
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.boundary import CODES, SHIELDED, Boundary, status_of
from pycrio.api.codes import Code
from pycrio.api.methods import handlers, snake
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics
from tests.unit.api import client
from tests.unit.api.conftest import Serve


def all_errors(kind: type[errors.PycrioError] = errors.PycrioError) -> list[type[errors.PycrioError]]:
    return [kind, *(e for sub in kind.__subclasses__() for e in all_errors(sub))]


class Scripted:
    """A RuntimeService of which every call does what a test says."""

    service = "RuntimeService"

    def __init__(self, do: Callable[[Any, float | None], Awaitable[Any]] | None = None) -> None:
        self.do = do
        self.pieces: Callable[[], AsyncIterator[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("stream_", "get_container_events")):
            return self._stream
        return self._unary

    async def _unary(self, request: Any, remaining: float | None) -> Any:
        assert self.do is not None
        return await self.do(request, remaining)

    async def _stream(self, request: Any, remaining: float | None) -> AsyncIterator[Any]:
        assert self.pieces is not None
        async for piece in self.pieces():
            yield piece


@pytest.fixture
def lines() -> Any:
    """Events that were logged, with their fields, at debug level."""
    found: list[tuple[int, str, dict[str, object]]] = []
    stop = obslog.observe(lambda level, event, fields: found.append((level, event, dict(fields))))
    obslog.set_level("debug")
    yield found
    obslog.set_level("info")
    stop()


# --- errors


def test_each_class_of_ours_has_a_code() -> None:
    for kind in all_errors():
        code, _ = status_of(kind.__new__(kind))
        assert code is not Code.INTERNAL, kind


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("container", "x"), Code.NOT_FOUND),
        (errors.Ambiguous("container", "x"), Code.NOT_FOUND),
        (errors.InvalidRequest("x"), Code.INVALID_ARGUMENT),
        (errors.AlreadyExists("x"), Code.ALREADY_EXISTS),
        (errors.WrongState("x"), Code.FAILED_PRECONDITION),
        (errors.InUse("x"), Code.FAILED_PRECONDITION),
        (errors.Busy("x"), Code.ABORTED),
        (errors.Denied("x"), Code.PERMISSION_DENIED),
        (errors.Unsupported("x"), Code.UNIMPLEMENTED),
        (errors.Exhausted("x"), Code.RESOURCE_EXHAUSTED),
        (errors.Timeout("x"), Code.DEADLINE_EXCEEDED),
        (errors.Unavailable("x"), Code.UNAVAILABLE),
        (errors.SignatureInvalid("x"), Code.UNKNOWN),
        (errors.RegistryUnavailable("x"), Code.UNKNOWN),
        (errors.ImageMountFailed("x"), Code.UNKNOWN),
        (errors.RuntimeFailure("x"), Code.UNKNOWN),
        (errors.BadImage("x"), Code.UNKNOWN),
        (ValueError("x"), Code.INTERNAL),
        (OSError(28, "No space left on device"), Code.RESOURCE_EXHAUSTED),
        (OSError(24, "Too many open files", "/x"), Code.RESOURCE_EXHAUSTED),
        (OSError(5, "Input/output error"), Code.INTERNAL),
    ],
)
async def test_codes_arrive(serve: Serve, error: Exception, code: Code) -> None:
    async def fail(request: Any, remaining: float | None) -> Any:
        raise error

    async with serve(Scripted(fail)) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(channel, "Version")
    assert client.code(caught.value) is code
    assert str(error) in (caught.value.details() or "")


def test_the_kubelet_finds_the_names_it_looks_for_first() -> None:
    for error, name in (
        (errors.SignatureInvalid("x"), "SignatureValidationFailed"),
        (errors.RegistryUnavailable("x"), "RegistryUnavailable"),
        (errors.ImageMountFailed("x"), "ImageVolumeMountFailed"),
    ):
        assert status_of(error)[1].startswith(name)


async def test_long_texts_arrive_cut(serve: Serve) -> None:
    text = "runc: " + "ü\n" * 50_000 + " the last word"

    async def fail(request: Any, remaining: float | None) -> Any:
        raise errors.RuntimeFailure(text)

    async with serve(Scripted(fail)) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(channel, "Version")
    assert client.code(caught.value) is Code.UNKNOWN
    details = caught.value.details() or ""
    assert details.startswith("runc: ")
    assert details.endswith("the last word")


async def test_bytes_that_are_no_request(serve: Serve) -> None:
    async def never(request: Any, remaining: float | None) -> Any:
        raise AssertionError("not to be reached")

    async with serve(Scripted(never)) as (channel, _):
        for content in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.raw(channel, "Version", content)
            assert client.code(caught.value) is Code.INVALID_ARGUMENT


async def test_unknown_calls_are_unimplemented(serve: Serve) -> None:
    async with serve(Scripted()) as (channel, _):
        for path in ("/runtime.v1.RuntimeService/Nothing", "/runtime.v1alpha2.RuntimeService/Version"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path, None, None)(b"")
            assert client.code(caught.value) is Code.UNIMPLEMENTED


async def test_a_stream_fails_with_the_same_codes(serve: Serve) -> None:
    service = Scripted()

    async def broken() -> AsyncIterator[Any]:
        yield pb.StreamContainersResponse(containers=[pb.Container(id="1")])
        raise errors.Busy("not now")

    service.pieces = broken
    async with serve(service) as (channel, _):
        answers = client.stream(channel, "StreamContainers")
        assert [c.id for c in (await answers.read()).containers] == ["1"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answers.read()
    assert (client.code(caught.value), caught.value.details()) == (Code.ABORTED, "not now")


# --- answers, deadlines, cancellation


async def test_answers_may_be_bytes_or_messages(serve: Serve) -> None:
    for answer in (pb.VersionResponse(version="1"), pb.VersionResponse(version="1").SerializeToString()):

        async def give(request: Any, remaining: float | None, answer: Any = answer) -> Any:
            return answer

        async with serve(Scripted(give)) as (channel, _):
            assert (await client.call(channel, "Version")).version == "1"


async def test_the_deadline_is_handed_on(serve: Serve) -> None:
    seen: list[float | None] = []

    async def look(request: Any, remaining: float | None) -> Any:
        seen.append(remaining)
        return pb.VersionResponse()

    async with serve(Scripted(look)) as (channel, _):
        await client.call(channel, "Version", deadline=50)
        await client.call(channel, "Version", deadline=None)
    assert seen[0] is not None
    assert 0 < seen[0] < 60
    assert seen[1] is None


@pytest.mark.parametrize("name", ["StartContainer", "ExecSync"])
async def test_who_outlives_its_caller(serve: Serve, name: str) -> None:
    """Flows that make something go on to their end; others end with their caller."""
    begun, go, cancelled, finished = (asyncio.Event() for _ in range(4))

    async def wait(request: Any, remaining: float | None) -> Any:
        begun.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        finished.set()
        return b""

    async with serve(Scripted(wait)) as (channel, boundary):
        running = asyncio.ensure_future(client.call(channel, name))
        await begun.wait()
        running.cancel()
        if name in SHIELDED:
            assert await boundary.drain(0.01) == 1
            go.set()
            assert await boundary.drain(10) == 0
            assert finished.is_set()
            assert not cancelled.is_set()
        else:
            await asyncio.wait_for(cancelled.wait(), 10)
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_passed_deadline_is_reported(serve: Serve) -> None:
    go = asyncio.Event()

    async def wait(request: Any, remaining: float | None) -> Any:
        await go.wait()
        return b""

    async with serve(Scripted(wait)) as (channel, boundary):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(channel, "StopContainer", deadline=0.2)
        assert client.code(caught.value) is Code.DEADLINE_EXCEEDED
        go.set()
        await boundary.drain(10)


async def test_the_end_of_a_flow_without_caller_is_logged(serve: Serve, lines: Any) -> None:
    begun, go, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fail(request: Any, remaining: float | None) -> Any:
        begun.set()
        await go.wait()
        raise errors.RuntimeFailure("runc said no")

    stop = obslog.observe(lambda level, event, fields: left.set() if "cancelled" in event else None)

    async with serve(Scripted(fail)) as (channel, boundary):
        running = asyncio.ensure_future(client.call(channel, "CreateContainer"))
        await begun.wait()
        running.cancel()
        await asyncio.wait({running})
        await left.wait()
        stop()
        go.set()
        await boundary.drain(10)
    assert [f["error"] for _, event, f in lines if "has failed" in event] == ["runc said no"]
    assert [f["name"] for _, event, f in lines if "has failed" in event] == [
        "/runtime.v1.RuntimeService/CreateContainer"
    ]


async def test_a_client_that_leaves_a_stream_ends_it(serve: Serve) -> None:
    closed = asyncio.Event()
    service = Scripted()

    async def endless() -> AsyncIterator[Any]:
        try:
            while True:
                yield pb.ContainerEventResponse(container_id="c")
                await asyncio.sleep(0)
        finally:
            closed.set()

    service.pieces = endless
    async with serve(service) as (channel, _):
        running = client.stream(channel, "GetContainerEvents", deadline=None)
        assert (await running.read()).container_id == "c"
        running.cancel()
        await asyncio.wait_for(closed.wait(), 10)


# --- log and metrics


async def test_lines_of_a_call(serve: Serve, lines: Any) -> None:
    async def give(request: Any, remaining: float | None) -> Any:
        obslog.get("test").info("Inside")
        return pb.VersionResponse(version="1")

    async with serve(Scripted(give)) as (channel, _):
        await client.call(channel, "Version", version="0.1.0")
    mine = [(event, fields) for _, event, fields in lines if "name" in fields]
    assert [event for event, _ in mine] == [
        'Request: VersionRequest: {version: "0.1.0"}',
        "Inside",
        'Response: VersionResponse: {version: "1"}',
    ]
    assert {fields["name"] for _, fields in mine} == {"/runtime.v1.RuntimeService/Version"}
    (ident,) = {str(fields["id"]) for _, fields in mine}
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", ident)


async def test_unforeseen_failures_leave_a_traceback(serve: Serve, lines: Any) -> None:
    async def fail(request: Any, remaining: float | None) -> Any:
        raise KeyError("surprise")

    async with serve(Scripted(fail)) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(channel, "Version")
    assert "Traceback" not in (caught.value.details() or "")
    (stack,) = [fields["stack"] for level, _, fields in lines if level == obslog.ERROR]
    assert "surprise" in str(stack)


async def test_each_unary_call_counts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        type(metrics), "operation", lambda self, name, seconds, failed=False: counted.append((name, failed))
    )

    async def maybe(request: Any, remaining: float | None) -> Any:
        if request.version:
            raise errors.InvalidRequest("no")
        return b""

    async with serve(Scripted(maybe)) as (channel, _):
        await client.call(channel, "Version")
        with pytest.raises(grpc.aio.AioRpcError):
            await client.call(channel, "Version", version="x")
        with pytest.raises(grpc.aio.AioRpcError):
            await client.raw(channel, "Version", b"\xff")
    assert counted == [("Version", False), ("Version", True), ("Version", True)]


# --- the table


def test_every_shielded_call_exists() -> None:
    names = {m.name for s in pb.DESCRIPTOR.services_by_name.values() for m in s.methods}
    assert names >= SHIELDED


def test_a_service_that_lacks_a_call_is_refused() -> None:
    class Empty:
        service = "ImageService"

    with pytest.raises(AttributeError, match="list_images"):
        handlers(Empty(), Boundary())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Version", "version"), ("StreamPodSandboxes", "stream_pod_sandboxes"), ("ImageFsInfo", "image_fs_info")],
)
def test_snake(name: str, expected: str) -> None:
    assert snake(name) == expected


def test_the_table_names_only_failures() -> None:
    assert all(issubclass(kind, errors.PycrioError) for kind in CODES)
