"""What checkpoints of a container and of a pod have in common.

1. Freeze every container, so that all are captured as of one moment.
2. Capture each: the processes by CRIU, the changes in its root file system, its log, and the documents.
3. Let them run on, whatever happened.

A capture is a directory of the container; it becomes an archive after the containers run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pycrio.errors import NotFound, PycrioError, StoreFailure, Timeout, Unsupported, WrongState
from pycrio.flows.node_state import Node, now
from pycrio.flows.ports import CaptureRequest
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.ids import new_id
from pycrio.model.node import Handler
from pycrio.obs import log as obslog

log = obslog.get("checkpoint")
SCRATCH = "capture-"
DOCUMENT_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Captured:
    """A container as captured at ``at`` (nanoseconds since the epoch) in ``directory``."""

    container: ContainerRecord
    directory: str
    at: int


async def need(node: Node, handler: Handler) -> None:
    """Unsupported with the reason when checkpoints cannot be made or used here."""
    reason = await node.host.checkpoints.available(handler)
    if reason:
        raise Unsupported(f"checkpoint/restore support not available: {reason}")


def in_time(due: float | None) -> None:
    """Timeout when the loop's time ``due`` has come. Asked between the steps, since a dump is never interrupted."""
    if due is not None and asyncio.get_running_loop().time() >= due:
        raise Timeout("the deadline of the request has passed, what was done for it is undone")


async def take(node: Node, idents: Sequence[str], undo: Undo, due: float | None = None) -> list[Captured]:
    """Capture running containers as of one moment; they run on when this returns or raises.

    The directories are the caller's to remove (``discard``), after a failure they go with ``undo``.
    """
    async with contextlib.AsyncExitStack() as turns:
        for ident in sorted(idents):
            await turns.enter_async_context(node.turns.of(("container", ident)))
        containers = [_running(node, ident) for ident in idents]
        async with Undo("capture containers") as frozen:  # undone first: they must not wait for files to be removed
            for container in containers:
                in_time(due)
                frozen.push("resume container", thaw, node, container.id)
                await freeze(node, container)
            found = []
            for container in containers:
                in_time(due)
                found.append(await _capture(node, node.containers.get(container.id), undo))
            for container in containers:
                await thaw(node, container.id)
            frozen.release()
    return found


def _running(node: Node, ident: str) -> ContainerRecord:
    container = node.containers.get(ident)
    if container.state is not ContainerState.RUNNING:
        raise WrongState(f"container {container.id} is not running")
    if container.paused:
        raise WrongState(f"container {container.id} is paused")
    if container.pod_id in node.pods and node.pods.get(container.pod_id).uid_map:
        raise Unsupported(f"container {container.id} runs in a user namespace of its pod, which CRIU cannot restore")
    return container


async def freeze(node: Node, container: ContainerRecord) -> None:
    """Pause a container. The record says so first: after a crash somebody must know whom to thaw."""
    runtime, handler = node.host.runtime, node.handler_of(container)
    node.live(container.id).unfrozen.clear()
    node.containers.put(replace(container, paused=True))
    await runtime.pause(handler, container.id, True)


async def thaw(node: Node, ident: str) -> None:
    """Let a container run on; nothing to do when it does, or is gone."""
    container = node.containers.resolve(ident)
    if container is None:
        return
    try:
        if not container.paused:
            return
        handler = node.handler_of(container)
        try:
            await node.host.runtime.pause(handler, ident, False)
        except PycrioError:
            state = await node.host.runtime.state(handler, ident)
            if state is not None and state.get("status") == "paused":
                raise
        node.containers.put(replace(node.containers.get(ident), paused=False))
    finally:
        node.live(ident).unfrozen.set()


async def _capture(node: Node, container: ContainerRecord, undo: Undo) -> Captured:
    host = node.host
    at = now()
    directory = posixpath.join(container.persist_dir, f"{SCRATCH}{new_id()[:16]}")
    undo.push("remove capture", host.files.remove, directory)
    await host.files.make_dirs(directory, 0o700)
    for name, document in (await _documents(node, container, at)).items():
        await host.files.write(f"{directory}/{name}", document, 0o600)
    await host.checkpoints.capture(
        CaptureRequest(
            container_id=container.id,
            handler=node.handler_of(container),
            directory=directory,
            log_path=container.log_path,
            binds=await _binds(node, container),
        )
    )
    await host.changes.save(container.id, directory)
    return Captured(container, directory, at)


async def _spec(node: Node, container: ContainerRecord) -> dict[str, Any]:
    text = await node.host.files.read(f"{container.bundle}/config.json", DOCUMENT_LIMIT)
    if text is None:
        raise StoreFailure(f"container {container.id} has lost its OCI config {container.bundle}/config.json")
    document: dict[str, Any] = json.loads(text.decode("utf-8", "surrogateescape"))
    return document


async def _documents(node: Node, container: ContainerRecord, at: int) -> dict[str, bytes]:
    """What restores, and tools that look into archives, want to know (checkpointctl's ``config.dump`` and
    ``spec.dump``)."""
    spec = await _spec(node, container)
    annotations = spec.setdefault("annotations", {})
    annotations.setdefault("io.kubernetes.cri-o.Created", timestamp(container.created_at))
    annotations.setdefault("io.kubernetes.cri-o.LogPath", container.log_path)
    config = {
        "id": container.id,
        "name": container.name,
        "rootfsImage": container.image_name or container.config.image.image,
        "rootfsImageRef": container.image_id,
        "rootfsImageName": container.image_name,
        "runtime": container.handler,
        "createdTime": timestamp(container.created_at),
        "checkpointedTime": timestamp(at),
        "restoredTime": timestamp(container.started_at) if container.restored_from else "0001-01-01T00:00:00Z",
        "restored": bool(container.restored_from),
    }
    dumped = {"config.dump": config, "spec.dump": spec}
    return {name: json.dumps(d).encode("utf-8", "surrogateescape") for name, d in dumped.items()}


async def _binds(node: Node, container: ContainerRecord) -> tuple[tuple[str, str], ...]:
    """Sources of the mounts that were asked for; the pod's own files are made anew wherever it is restored."""
    asked = {posixpath.normpath(m.container_path) for m in container.mounts}
    mounts = (await _spec(node, container)).get("mounts") or ()
    return tuple((m["source"], m["destination"]) for m in mounts if m["destination"] in asked)


def timestamp(at: int) -> str:
    """Nanoseconds since the epoch in the form of RFC 3339."""
    seconds, rest = divmod(at, 10**9)
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


async def discard(node: Node, captured: Captured) -> None:
    """Remove the capture and note the checkpoint in the record."""
    try:
        await node.host.files.remove(captured.directory)
    except PycrioError as e:
        log.warning(
            "Scratch files of a checkpoint stay until the container goes", id=captured.container.id, error=str(e)
        )
    container = node.containers.resolve(captured.container.id)
    if container is not None:
        node.containers.put(replace(container, checkpointed_at=captured.at))


def known(node: Node, ident: str) -> ContainerRecord:
    """The container by id or prefix; NotFound when absent."""
    container = node.containers.resolve(ident)
    if container is None:
        raise NotFound("container", ident, "could not find container")
    return container
