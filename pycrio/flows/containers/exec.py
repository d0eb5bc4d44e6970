"""Run a command in a container: to its end (ExecSync), or with its streams in the caller's hands (Exec)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from pycrio.errors import ExternalFailure, InvalidRequest, NotFound, WrongState
from pycrio.flows.containers.inputs import oom_score_adj
from pycrio.flows.node_state import Node
from pycrio.flows.ports import ExecRequest, ExecSession
from pycrio.model.container import ContainerRecord, ExecResult
from pycrio.spec.process import exec_process

OUTPUT_CAP = (16 << 20) - 4096
"""Bytes of both outputs together at most: kubelets accept messages of 16 MiB, and what is around the outputs counts."""


async def exec_sync(node: Node, ident: str, argv: tuple[str, ...], timeout: int) -> ExecResult:
    """Run to the end, without a terminal even in a container that has one: the two outputs stay apart.

    Timeout (``command timed out``) when it takes more than ``timeout`` seconds (0: no limit).
    """
    container, process = await _prepare(node, ident, argv, False)
    work = node.host.runtime.exec_sync(_request(node, container, process, timeout))
    return _fitted(await _tracked(node, container, work))


def _fitted(result: ExecResult) -> ExecResult:
    """Cut to what an answer may hold. What was said of errors is not lost behind a long output."""
    stdout = result.stdout[: max(OUTPUT_CAP - len(result.stderr), OUTPUT_CAP // 2)]
    stderr = result.stderr[: OUTPUT_CAP - len(stdout)]
    cut = len(stdout) < len(result.stdout) or len(stderr) < len(result.stderr)
    return replace(result, stdout=stdout, stderr=stderr, truncated=result.truncated or cut)


async def exec_stream(node: Node, ident: str, argv: tuple[str, ...], tty: bool, stdin: bool) -> ExecSession:
    """Start a command whose streams the caller serves; the caller closes the session."""
    container, process = await _prepare(node, ident, argv, tty)
    return await node.host.runtime.exec_stream(_request(node, container, process, 0), tty, stdin)


def _request(node: Node, container: ContainerRecord, process: dict[str, Any], timeout: float) -> ExecRequest:
    return ExecRequest(
        container_id=container.id,
        handler=node.handler_of(container),
        process=process,
        timeout=timeout,
        cap=OUTPUT_CAP,
        cgroup_path=container.cgroup_path,
    )


async def _prepare(node: Node, ident: str, argv: tuple[str, ...], tty: bool) -> tuple[ContainerRecord, dict[str, Any]]:
    """The container and the process object: the first process's own with another command."""
    if not argv:
        raise InvalidRequest("exec command cannot be empty")
    container = node.running(ident)
    live = node.live(container.id)
    if live.killing:
        raise WrongState(f"cannot start exec: container is being killed: {container.id}")
    if live.process is None:
        text = await node.host.files.read(f"{container.bundle}/config.json", 16 << 20)
        if text is None:
            raise NotFound("container", container.id, "its bundle is gone")
        live.process = json.loads(text)["process"]
    process = exec_process(live.process, argv, tty)
    if "oomScoreAdj" in process:  # what the container got may be more than today's daemon can hand on
        process["oomScoreAdj"] = oom_score_adj(node, process["oomScoreAdj"])
    return container, process


async def _tracked(node: Node, container: ContainerRecord, work: Any) -> ExecResult:
    """Book the exec with its container, whose end ends it."""
    live = node.live(container.id)
    task: asyncio.Task[Any] = asyncio.ensure_future(work)
    live.execs.add(task)
    task.add_done_callback(live.execs.discard)
    try:
        result: ExecResult = await task
    except ExternalFailure as e:
        if not node.host.processes.ending(container.pid, container.pid_start_time):
            raise
        raise NotFound("container", container.id, "container is not created or running: it ended meanwhile") from e
    except asyncio.CancelledError:
        if task.cancelled() and live.exited.is_set():
            raise WrongState(f"exec ended because container {container.id} was stopped") from None
        task.cancel()
        await asyncio.wait({task})
        raise
    return result
