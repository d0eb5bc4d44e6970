"""One request while another is under way, at every step of the other: both end, and nothing is left behind.

The first request is held at one of its calls of the host; the second one runs as far as it can; then the first goes on.
Neither may fail in a way that no caller understands, nothing may hang, and what the records say must be what the host
holds, before and after everything is removed.
"""

from __future__ import annotations

import asyncio

import pytest

from pycrio.errors import NotFound, PycrioError, RuntimeFailure, WrongState
from pycrio.flows import exits, janitor
from pycrio.flows.containers import exec as exec_flow
from pycrio.model.event import EventType
from tests.unit.flows.test_cut_off import MOST, PLAIN, RUNNING, World, turns, world

MADE = ("run_pod", "create")
# the first request → (what there is before it, the requests that come while it is under way)
PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "run_pod": ((), ("run_pod",)),
    "create": (("run_pod",), ("create", "stop_pod", "remove_pod")),
    "start": (MADE, ("start", "stop", "remove", "update", "stop_pod", "remove_pod", "exit")),
    "stop": (RUNNING, ("stop", "stop_stubborn", "remove", "update", "stop_pod", "remove_pod", "exit")),
    "stop_stubborn": (RUNNING, ("stop", "remove", "remove_pod", "exit")),
    "remove": (RUNNING, ("start", "stop", "remove", "update", "stop_pod", "remove_pod", "exit")),
    "update": (RUNNING, ("stop", "remove", "update", "remove_pod", "exit")),
    "checkpoint": (PLAIN, ("checkpoint", "stop", "remove", "remove_pod", "exit")),
    "stop_pod": (RUNNING, ("create", "start", "stop", "remove", "stop_pod", "remove_pod", "exit")),
    "remove_pod": (RUNNING, ("create", "start", "stop", "remove", "run_pod", "stop_pod", "remove_pod", "exit")),
    "exit": (RUNNING, ("stop", "remove", "update", "stop_pod", "remove_pod", "checkpoint")),
    "pull": ((), ("pull", "remove_image")),
}
LONG = 20.0
"""Seconds after which a request that has not ended hangs. None takes more than a few turns of the loop."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs to wait long for reports that will not come."""
    monkeypatch.setattr(exits, "REPORT_WAIT", 0.05)


async def outcome(task: asyncio.Task[None]) -> Exception | None:
    """How a request has ended; it must have."""
    done, _ = await asyncio.wait({task}, timeout=LONG)
    if not done:
        task.cancel()
        raise AssertionError(f"hangs in {task.get_stack()}")
    error = task.exception()
    assert error is None or isinstance(error, Exception)
    return error


async def overtaken(first: str, second: str, at: int) -> bool:
    """One life of a host on which ``second`` comes at a step of ``first``; whether ``first`` has that many steps."""
    async with world() as made:
        for earlier in PAIRS[first][0]:
            await getattr(made, earlier)()
        await turns()
        others: list[asyncio.Task[None]] = []

        async def meanwhile() -> None:
            others.append(asyncio.ensure_future(getattr(made, second)()))
            await turns(60)

        made.fake.script.arm(at, meanwhile)
        one = asyncio.ensure_future(getattr(made, first)())
        error = await outcome(one)
        await turns()
        if not made.fake.script.disarm():
            assert error is None
            await made.take_down()
            return False
        where = f"{second} while {first} is at its step {at}, {made.fake.script.calls[-1]}"
        for found in (error, *[await outcome(other) for other in others]):
            assert found is None or isinstance(found, (NotFound, WrongState)), f"{where}: {found!r}"
        await turns()
        await at_rest(made, where)
        return True


async def at_rest(made: World, where: str) -> None:
    """Nothing is under way: records and host agree, an end was told at most once, and all can be removed."""
    for container in made.node.containers:  # whose end nobody reported is looked after
        await janitor._look(made.node, container, set())
    stopped = [e.container_id for e in made.events if e.type is EventType.STOPPED]
    assert len(stopped) == len(set(stopped)), f"{where}: an end was told twice"
    assert made.misfits() == [], where
    try:
        await made.take_down()
    except (PycrioError, AssertionError) as e:
        raise AssertionError(f"{where}: then {e!r}") from e


@pytest.mark.parametrize(("first", "second"), [(one, two) for one, (_, twos) in PAIRS.items() for two in twos])
async def test_overtaken_at_every_step(first: str, second: str) -> None:
    at = 0
    while await overtaken(first, second, at):
        at += 1
        assert at < MOST
    assert at > 0


async def failing(made: World, call: str, request: asyncio.Task[None], second: str) -> Exception | None:
    """How ``request`` ends when ``call``, a program's, fails for what ``second`` did meanwhile."""
    there, go = made.fake.script.stop_at(call)
    await asyncio.wait({request, asyncio.ensure_future(there.wait())}, return_when=asyncio.FIRST_COMPLETED)
    other = asyncio.ensure_future(getattr(made, second)())
    await turns(60)
    made.fake.script.fail[call] = RuntimeFailure("no such file or directory")
    go.set()
    error = await outcome(request)
    del made.fake.script.hold[call], made.fake.script.fail[call]
    assert await outcome(other) is None
    return error


@pytest.mark.parametrize(
    ("first", "call", "second", "words"),
    [
        ("create", "monitors.create", "stop_pod", "as the sandbox was stopped"),
        ("create", "monitors.create", "remove_pod", "as the sandbox was stopped"),
        ("start", "runtime.start", "stop", "was stopped while it started"),
        ("start", "runtime.start", "stop_pod", "was stopped while it started"),
    ],
)
async def test_a_program_s_failure_is_told_as_what_it_comes_of(first: str, call: str, second: str, words: str) -> None:
    async with world() as made:
        for earlier in PAIRS[first][0]:
            await getattr(made, earlier)()
        request = asyncio.ensure_future(getattr(made, first)())
        error = await failing(made, call, request, second)
        assert isinstance(error, WrongState)
        assert words in str(error)
        await turns()
        await at_rest(made, f"{second} during {first}")


async def test_exec_in_a_container_that_ends_meanwhile() -> None:
    async with world() as made:
        for earlier in RUNNING:
            await getattr(made, earlier)()

        async def run() -> None:
            await exec_flow.exec_sync(made.node, made.container, ("true",), 0)

        error = await failing(made, "runtime.exec_sync", asyncio.ensure_future(run()), "exit")
        assert isinstance(error, NotFound)
        assert "not created or running" in str(error)
        await at_rest(made, "exit during an exec")


@pytest.mark.parametrize(("first", "call"), [("create", "monitors.create"), ("start", "runtime.start")])
async def test_a_program_s_failure_stays_one_where_nothing_else_happened(first: str, call: str) -> None:
    async with world() as made:
        for earlier in PAIRS[first][0]:
            await getattr(made, earlier)()
        made.fake.script.fail[call] = RuntimeFailure("broken")
        assert isinstance(await outcome(asyncio.ensure_future(getattr(made, first)())), RuntimeFailure)
        await turns()
        await at_rest(made, first)


async def test_a_creation_in_an_old_pod_is_not_that_of_its_successor() -> None:
    """Both pods have the same name, and so have their containers."""
    async with world() as made:
        await made.run_plain_pod()
        there, go = made.fake.script.stop_at("monitors.create")
        old = asyncio.ensure_future(made.create_plain())
        await there.wait()
        gone = made.pod
        await made.remove_pod()
        await made.run_plain_pod()
        assert made.pod != gone
        new = asyncio.ensure_future(made.create_plain())
        await turns(60)
        go.set()
        assert isinstance(await outcome(old), (WrongState, NotFound))
        assert await outcome(new) is None
        assert made.node.containers.get(made.container).pod_id == made.pod
        await turns()
        await at_rest(made, "a successor")
