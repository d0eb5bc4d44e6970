"""gRPC calls over the native connection, asked by grpc's own client."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import pathlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from pycrio._native.base import live_handles
from pycrio._native.calls import HIGH, Begun, Call, CallServer, Handler, Limits
from pycrio._native.front import Front
from tests import frames

Code = grpc.StatusCode
SIZE = 8 << 20
EAGER: contextvars.ContextVar[bool] = contextvars.ContextVar("EAGER", default=False)


@pytest.fixture(autouse=True, params=["tasks", "quick"])
def eager(request: pytest.FixtureRequest) -> None:
    """Every test with calls that are tasks from the beginning, and with calls whose first step is made at once."""
    EAGER.set(request.param == "quick")


@contextlib.asynccontextmanager
async def serving(
    tmp_path: pathlib.Path, limits: Limits | None = None, **handlers: Handler
) -> AsyncIterator[tuple[grpc.aio.Channel, CallServer]]:
    """Handlers by name, and a channel to them."""
    table = {f"/t/{name}".encode(): handler for name, handler in handlers.items()}
    quick = frozenset(table) if EAGER.get() else frozenset()
    server = CallServer(table, limits or Limits(SIZE, SIZE), quick)
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "t.sock"))
        listener.listen(64)
        with Front(listener.fileno(), server.start(), "@none"):
            try:
                async with grpc.aio.insecure_channel(f"unix:{tmp_path}/t.sock", options=options) as channel:
                    yield channel, server
            finally:
                await server.stop(0)


def unary(channel: grpc.aio.Channel, name: str) -> Callable[..., Any]:
    return channel.unary_unary(f"/t/{name}", None, None)


def many(channel: grpc.aio.Channel, name: str) -> Callable[..., Any]:
    return channel.unary_stream(f"/t/{name}", None, None)


def waiting() -> tuple[asyncio.Event, asyncio.Event, Handler]:
    """A handler that waits for ever: when it began, when it ended, and itself."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, call: Call) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    return begun, ended, wait


async def echo(request: bytes, call: Call) -> bytes:
    return request


async def test_calls_of_many_clients(tmp_path: pathlib.Path) -> None:
    before = live_handles()
    async with serving(tmp_path, echo=echo) as (channel, _):
        answers = await asyncio.gather(*(unary(channel, "echo")(b"%d" % i) for i in range(500)))
        assert answers == [b"%d" % i for i in range(500)]
        for _ in range(20):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/t.sock", options=options) as other:
                assert await unary(other, "echo")(b"x") == b"x"
        assert await unary(channel, "echo")(b"") == b""
        big = os.urandom(SIZE - 1)
        assert await unary(channel, "echo")(big) == big
    assert live_handles() == before


async def test_limits_of_messages(tmp_path: pathlib.Path) -> None:
    async def double(request: bytes, call: Call) -> bytes:
        return request * 2

    async with serving(tmp_path, Limits(1000, 1500), double=double) as (channel, _):
        for size, text in ((1001, "received message larger than max (1001 vs. 1000)"), (800, "(1600 vs. 1500)")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(channel, "double")(b"x" * size)
            assert caught.value.code() is Code.RESOURCE_EXHAUSTED
            assert text in (caught.value.details() or "")
        assert len(await unary(channel, "double")(b"x" * 750)) == 1500


async def test_what_a_handler_knows(tmp_path: pathlib.Path) -> None:
    async def tell(request: bytes, call: Call) -> bytes:
        left = call.time_remaining()
        return f"{call.metadata().get('traceparent')} {left is not None and 0 < left < 100}".encode()

    async with serving(tmp_path, tell=tell) as (channel, _):
        metadata = (("traceparent", "00-ab-cd-01"), ("other", "x"))
        assert await unary(channel, "tell")(b"", timeout=90, metadata=metadata) == b"00-ab-cd-01 True"
        assert await unary(channel, "tell")(b"") == b"None False"


async def test_ends_of_calls(tmp_path: pathlib.Path) -> None:
    async def end(request: bytes, call: Call) -> bytes:
        call.abort(9, "über %")

    async def broken(request: bytes, call: Call) -> bytes:
        raise ValueError("surprise")

    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    try:
        async with serving(tmp_path, end=end, broken=broken) as (channel, _):
            for name, code, text in (
                ("end", Code.FAILED_PRECONDITION, "über %"),
                ("broken", Code.UNKNOWN, "unforeseen failure: ValueError: surprise"),
                ("absent", Code.UNIMPLEMENTED, "unknown method /t/absent"),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await unary(channel, name)(b"x")
                assert (caught.value.code(), caught.value.details()) == (code, text)
    finally:
        loop.set_exception_handler(None)
    assert [type(t["exception"]) for t in told] == [ValueError]


async def test_a_deadline_ends_call_and_handler(tmp_path: pathlib.Path) -> None:
    begun, ended, wait = waiting()
    async with serving(tmp_path, wait=wait, echo=echo) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel, "wait")(b"", timeout=0.2)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        if begun.is_set():  # on a slow machine the deadline may have passed on the way
            await ended.wait()
        assert await unary(channel, "echo")(b"x") == b"x"


async def test_a_caller_that_leaves_cancels_its_call(tmp_path: pathlib.Path) -> None:
    begun, ended, wait = waiting()
    async with serving(tmp_path, wait=wait) as (channel, _):
        asked = asyncio.ensure_future(unary(channel, "wait")(b""))
        await begun.wait()
        asked.cancel()
        await ended.wait()
        begun.clear(), ended.clear()
        options = [("grpc.use_local_subchannel_pool", 1)]
        other = grpc.aio.insecure_channel(f"unix:{tmp_path}/t.sock", options=options)
        asked = asyncio.ensure_future(unary(other, "wait")(b""))
        await begun.wait()
        await other.close()
        await ended.wait()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await asked


async def test_streams_wait_for_slow_clients(tmp_path: pathlib.Path) -> None:
    piece = bytes(256 << 10)
    sent = 0

    async def flow(request: bytes, call: Call) -> None:
        nonlocal sent
        for _ in range(int(request)):
            await call.write(piece)
            sent += len(piece)

    async with serving(tmp_path, flow=flow) as (channel, server):
        answers = many(channel, "flow")(b"200")
        assert len(await answers.read()) == len(piece)
        # The client reads ahead as far as its window goes; then writing waits, and no event tells of that here.
        before = -1
        while before != sent or not any(link._writers for link in server._links):
            before = sent
            await asyncio.sleep(0.05)
        assert HIGH <= sent < 40 << 20  # the client's window, the socket's buffer, and HIGH at the most
        rest = [len(await answers.read()) for _ in range(199)]
        assert rest == [len(piece)] * 199
        assert await answers.read() is grpc.aio.EOF


async def test_answers_that_a_client_does_not_read_do_not_pile_up(tmp_path: pathlib.Path) -> None:
    """Its window is 0: one answer waits, as large as it may be, and then as much as the limit says."""
    answer = bytes(1000)

    async def large(request: bytes, call: Call) -> bytes:
        return answer

    async with serving(tmp_path, limits=Limits(1 << 20, 1 << 20, max_unread=2500), large=large) as (_, server):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        server.adopt(theirs.detach())
        reader, writer = await asyncio.open_connection(sock=ours)
        (path,) = server.handlers
        calls = b"".join(frames.call(1 + 2 * n, path.decode()) for n in range(4))
        writer.write(frames.PREFACE + frames.settings(window=0) + calls)
        found = b""
        while {stream for kind, _, stream, _ in frames.split(found) if kind == frames.HEADERS} != {1, 3, 5, 7}:
            found += await reader.read(1 << 16)
        ended = [s for kind, flags, s, _ in frames.split(found) if kind == frames.HEADERS and flags & frames.END_STREAM]
        assert ended == [5, 7]  # with a status and nothing else
        assert answer not in found
        # now it reads: the two that waited arrive
        writer.write(b"".join(frames.frame(8, 0, stream, (4000).to_bytes(4, "big")) for stream in (1, 3)))
        while found.count(answer) < 2:
            found += await reader.read(1 << 16)
        writer.close()


async def test_a_slow_stream_holds_nobody_up(tmp_path: pathlib.Path) -> None:
    async def flow(request: bytes, call: Call) -> None:
        while True:
            await call.write(bytes(1 << 20))

    async with serving(tmp_path, flow=flow, echo=echo) as (channel, _):
        slow = many(channel, "flow")(b"")
        await slow.read()
        assert await unary(channel, "echo")(b"quick") == b"quick"
        slow.cancel()
        assert await unary(channel, "echo")(b"again") == b"again"


async def test_stop_waits_then_cancels(tmp_path: pathlib.Path) -> None:
    begun, go, cancelled = asyncio.Semaphore(0), asyncio.Event(), asyncio.Event()

    async def polite(request: bytes, call: Call) -> bytes:
        begun.release()
        await go.wait()
        return b"done"

    async def endless(request: bytes, call: Call) -> bytes:
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    async with serving(tmp_path, polite=polite, endless=endless) as (channel, server):
        one = asyncio.ensure_future(unary(channel, "polite")(b""))
        two = asyncio.ensure_future(unary(channel, "endless")(b""))
        await begun.acquire()
        await begun.acquire()
        stopping = asyncio.ensure_future(server.stop(0.3))
        await asyncio.sleep(0)
        go.set()
        assert await one == b"done"
        await stopping
        assert cancelled.is_set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await two
        assert caught.value.code() is Code.UNAVAILABLE
        await server.stop(0)


async def test_more_connections_than_allowed_are_closed(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path, Limits(SIZE, SIZE, max_connections=1), echo=echo) as (channel, _):
        assert await unary(channel, "echo")(b"x") == b"x"
        reader, writer = await asyncio.open_unix_connection(tmp_path / "t.sock")
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
        assert await unary(channel, "echo")(b"y") == b"y"


async def test_garbage_costs_its_own_connection(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path, echo=echo) as (channel, server):
        for junk in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50, b"PRI * HTTP/2.0 rubbish and more of it"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "t.sock")
            writer.write(junk)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                await writer.wait_closed()
        assert await unary(channel, "echo")(b"x") == b"x"
        assert len(server._links) == 1


KNOWN: contextvars.ContextVar[str] = contextvars.ContextVar("KNOWN", default="nothing")


async def test_what_is_answered_at_once_has_no_task(tmp_path: pathlib.Path) -> None:
    async def at_once(request: bytes, call: Call) -> bytes:
        return b"no task" if asyncio.current_task() is None else b"task"

    async with serving(tmp_path, answer=at_once) as (channel, _):
        expected = b"no task" if EAGER.get() else b"task"
        asked = [unary(channel, "answer")(b"", timeout=30) for _ in range(50)]
        assert [await a for a in asked] == [expected] * 50


async def test_a_call_has_one_context_in_all_of_its_steps(tmp_path: pathlib.Path) -> None:
    async def remember(request: bytes, call: Call) -> bytes:
        token = KNOWN.set(request.decode())
        for _ in range(3):
            await asyncio.sleep(0)
        known = KNOWN.get()
        KNOWN.reset(token)
        return f"{known} {KNOWN.get()}".encode()

    async with serving(tmp_path, remember=remember) as (channel, _):
        asked = [unary(channel, "remember")(b"%d" % number) for number in range(20)]
        assert [await a for a in asked] == [b"%d nothing" % number for number in range(20)]


async def test_a_begun_call_that_is_cancelled_before_its_task_runs() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            steps.append("begun")
            await asyncio.get_running_loop().create_future()
        finally:
            steps.append("ended")

    task = asyncio.get_running_loop().create_task(Begun(work()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["begun", "ended"]


async def test_a_begun_call_can_be_awaited_like_any_other() -> None:
    seen: list[str] = []

    async def work(limit: float) -> None:
        try:
            await asyncio.sleep(0)
            await asyncio.wait_for(asyncio.Event().wait(), limit)
        except (asyncio.TimeoutError, TimeoutError):
            seen.append("late")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    await Begun(work(0.01))

    async def around() -> None:
        await Begun(work(60))

    task = asyncio.get_running_loop().create_task(around())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["late", "cancelled"]
