"""Spans of calls as they come over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest

from pycrio import errors
from pycrio.api._pb import api_pb2 as pb
from pycrio.obs import steps, trace
from pycrio.obs.otlp import TraceSettings, Tracing
from tests.collector import SERVER, Collector, Span
from tests.unit.api import client
from tests.unit.api.conftest import Serve
from tests.unit.api.test_boundary import Scripted

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALL = "/runtime.v1.RuntimeService/"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


Traced = Callable[[Awaitable[Any]], Awaitable[dict[str, Span]]]


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Traced:
    """Await something with tracing on; the spans by name."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")

    async def run(work: Awaitable[Any]) -> dict[str, Span]:
        exporting = Tracing(TraceSettings(collector.endpoint, 1_000_000, "1"))
        stop = trace.start(exporting)
        try:
            await work
        finally:
            stop()
            await asyncio.get_running_loop().run_in_executor(None, exporting.close)
        return {s.name: s for s in collector.spans}

    return run


async def test_a_call_and_its_flow(serve: Serve, traced: Traced) -> None:
    async def do(request: Any, remaining: float | None) -> Any:
        with steps.flow("RunPodSandbox") as flow:
            flow.subject = "pod"
            with steps.step("network"):
                await asyncio.sleep(0)
        return pb.RunPodSandboxResponse(pod_sandbox_id="p")

    async def work() -> None:
        async with serve(Scripted(do)) as (channel, _):
            await client.call(channel, "RunPodSandbox")

    spans = await traced(work())
    call = spans[f"{CALL}RunPodSandbox"]
    assert call.kind == SERVER
    assert len(call.attributes.pop("pycrio.request")) == 36
    assert call.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "runtime.v1.RuntimeService",
        "rpc.method": "RunPodSandbox",
        "rpc.grpc.status_code": 0,
    }
    assert not call.failed
    assert spans["RunPodSandbox"].parent == call.id
    assert spans["network"].parent == spans["RunPodSandbox"].id
    assert spans["network"].within(spans["RunPodSandbox"])
    assert spans["RunPodSandbox"].within(call)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.NotFound("container", "x"), 5, "container 'x' not found"),
        (errors.Timeout("too slow"), 4, "too slow"),
        (KeyError("bug"), 13, "unforeseen failure in pycrio, see its log: KeyError: 'bug'"),
    ],
)
async def test_a_call_that_fails(serve: Serve, traced: Traced, error: Exception, code: int, said: str) -> None:
    async def do(request: Any, remaining: float | None) -> Any:
        raise error

    async def work() -> None:
        async with serve(Scripted(do)) as (channel, _):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.call(channel, "StopContainer")

    span = (await traced(work()))[f"{CALL}StopContainer"]
    assert (span.failed, span.said, span.attributes["rpc.grpc.status_code"]) == (True, said, code)


async def test_a_request_that_is_none(serve: Serve, traced: Traced) -> None:
    async def work() -> None:
        async with serve(Scripted()) as (channel, _):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.raw(channel, "StopContainer", b"\xff\xff")

    span = (await traced(work()))[f"{CALL}StopContainer"]
    assert (span.failed, span.attributes["rpc.grpc.status_code"]) == (True, 3)


async def test_a_caller_that_leaves(serve: Serve, traced: Traced, collector: Collector) -> None:
    """Its span ends as cancelled; the flow goes on below it and is seen to its end."""
    begun, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def do(request: Any, remaining: float | None) -> Any:
        with steps.flow("RunPodSandbox"):
            begun.set()
            await go.wait()
        done.set()
        return pb.RunPodSandboxResponse()

    async def work() -> None:
        async with serve(Scripted(do)) as (channel, boundary):
            calling = asyncio.create_task(client.call(channel, "RunPodSandbox"))
            await begun.wait()
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            # The server learns of it in its own time: the handler's span ends then, and the flow has not.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, collector.named, f"{CALL}RunPodSandbox")
            go.set()
            await done.wait()
            await boundary.drain(20)

    spans = await traced(work())
    call, flow = spans[f"{CALL}RunPodSandbox"], spans["RunPodSandbox"]
    assert (call.failed, call.attributes["rpc.grpc.status_code"]) == (True, 1)
    assert flow.parent == call.id
    assert flow.end >= call.end
    assert not flow.failed


async def test_a_stream(serve: Serve, traced: Traced) -> None:
    async def pieces() -> AsyncIterator[Any]:
        with trace.span("gather"):
            yield pb.ContainerEventResponse(container_id="c")

    async def work() -> None:
        scripted = Scripted()
        scripted.pieces = pieces
        async with serve(scripted) as (channel, _):
            assert [e.container_id async for e in client.stream(channel, "GetContainerEvents")] == ["c"]

    spans = await traced(work())
    call = spans[f"{CALL}GetContainerEvents"]
    assert not call.failed
    assert spans["gather"].parent == call.id


@pytest.mark.parametrize("sampled", [True, False])
async def test_the_callers_trace_is_taken_over(serve: Serve, traced: Traced, sampled: bool) -> None:
    async def do(request: Any, remaining: float | None) -> Any:
        return pb.StopContainerResponse()

    async def work() -> None:
        async with serve(Scripted(do)) as (channel, _):
            stub = channel.unary_unary(f"{CALL}StopContainer")
            parent = f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}"
            await stub(b"", metadata=[("traceparent", parent), ("other", "x"), ("data-bin", b"\0")])

    spans = await traced(work())
    assert [(s.trace, s.parent) for s in spans.values()] == ([(TRACE, PARENT)] if sampled else [])
