"""Step timings of flows."""

from __future__ import annotations

import asyncio

import pytest

from pycrio.obs import steps


def test_a_flow_keeps_its_steps() -> None:
    with steps.flow("RunPodSandbox") as flow:
        flow.subject = "pod"
        with steps.step("network"):
            with steps.step("cni"):
                pass
        assert [entry["running"] for entry in steps.dump()] == [True]
        assert steps.current() is flow
    (entry,) = steps.dump()
    assert (entry["kind"], entry["subject"], entry["running"], entry["failed"]) == (
        "RunPodSandbox",
        "pod",
        False,
        False,
    )
    inner, outer = flow.steps
    assert (inner.name, outer.name) == ("cni", "network")
    assert 0 <= outer.start <= inner.start
    assert inner.start + inner.duration <= outer.start + outer.duration <= flow.duration
    assert steps.current() is None


def test_failures_are_marked() -> None:
    def fail() -> None:
        with steps.flow("PullImage", "image"):
            with steps.step("good"):
                pass
            with steps.step("bad"):
                raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    (flow,) = steps.recent()
    assert flow.failed
    assert [(step.name, step.failed) for step in flow.steps] == [("good", False), ("bad", True)]


def test_steps_outside_a_flow_record_nothing() -> None:
    with steps.step("alone"):
        pass
    assert steps.dump() == []


async def test_tasks_record_into_their_flow() -> None:
    async def part(name: str) -> None:
        with steps.step(name):
            await asyncio.sleep(0)

    async def call(kind: str) -> steps.Flow:
        with steps.flow(kind) as flow:
            await asyncio.gather(part(f"{kind}1"), part(f"{kind}2"))
        return flow

    for flow in await asyncio.gather(call("a"), call("b")):
        assert sorted(step.name for step in flow.steps) == [f"{flow.kind}1", f"{flow.kind}2"]


def test_rings_and_steps_are_bounded() -> None:
    for number in range(steps.KEPT + 5):
        with steps.flow("A", str(number)):
            pass
    with steps.flow("B") as flow:
        for _ in range(steps.MAX_STEPS + 3):
            with steps.step("s"):
                pass
    assert len(flow.steps) == steps.MAX_STEPS
    assert flow.left_out == 3
    subjects = [f.subject for f in steps.recent(["A"])]
    assert subjects == [str(n) for n in range(5, steps.KEPT + 5)]
    assert len(list(steps.recent())) == steps.KEPT + 1


def test_the_stage_of_a_running_flow() -> None:
    assert steps.stage("RunPodSandbox", "a", "begin") == "begin"
    with steps.flow("RunPodSandbox", "a"):
        assert steps.stage("RunPodSandbox", "a", "begin") == "begin"
        with steps.step("outer"):
            with steps.step("inner"):
                assert steps.stage("RunPodSandbox", "a", "begin") == "inner"
                assert steps.stage("RunPodSandbox", "b", "begin") == "begin"
                assert steps.stage("CreateContainer", "a", "begin") == "begin"
            assert steps.stage("RunPodSandbox", "a", "begin") == "outer"
        with pytest.raises(ValueError, match="x"), steps.step("fails"):
            raise ValueError("x")
        assert steps.stage("RunPodSandbox", "a", "begin") == "begin"
