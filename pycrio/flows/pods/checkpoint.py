"""Checkpoint running containers of a pod, all as of one moment, into a directory.

1. Check the request; nothing but what it names is touched.
2. Freeze all of its containers, capture each, let all run on (``containers/capture.py``).
3. Make an archive of each capture.
4. Write the manifest, which tells a checkpoint from the rest of one.
"""

from __future__ import annotations

import asyncio
import json
import posixpath
from typing import Any

from pycrio.errors import AlreadyExists, InvalidRequest, NotFound, WrongState
from pycrio.flows.containers import capture
from pycrio.flows.node_state import Node
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.pod import PodRecord
from pycrio.obs import log as obslog
from pycrio.obs import steps

log = obslog.get("checkpoint")
MANIFEST = "pod-checkpoint.json"
VERSION = 1


async def checkpoint(
    node: Node, ident: str, output_path: str, containers: tuple[str, ...], options: dict[str, str], remaining: float
) -> None:
    """NotFound when absent, Unsupported with the reason when it cannot be done here, Timeout when ``remaining``
    (seconds) is not enough. Of a failure nothing stays in the directory."""
    pod = node.pods.resolve(ident)
    if pod is None:
        raise NotFound("pod sandbox", ident, "could not find pod")
    due = asyncio.get_running_loop().time() + remaining
    await capture.need(node, node.host.handlers.get(pod.handler))
    no_options(options)
    chosen = _chosen(node, pod, containers)
    await _empty_place(node, output_path)
    with steps.flow("CheckpointPod", pod.name):
        async with Undo("checkpoint pod") as undo:
            with steps.step("capture"):
                captured = await capture.take(node, [c.id for c in chosen], undo, due)
            with steps.step("archive"):
                for one in captured:
                    capture.in_time(due)
                    path = posixpath.join(output_path, archive_name(one.container))
                    undo.once("remove archive", node.host.files.remove, path)
                    await node.host.checkpoints.pack(one.directory, path)
                capture.in_time(due)
                undo.once("remove manifest", node.host.files.remove, f"{output_path}/{MANIFEST}")
                await node.host.files.write(f"{output_path}/{MANIFEST}", _manifest(pod, captured), 0o600)
            undo.release()
    for one in captured:
        await capture.discard(node, one)
    log.info("Checkpointed pod sandbox", id=pod.id, containers=len(captured), location=output_path)


def no_options(options: dict[str, str]) -> None:
    """InvalidRequest for options: no handler has any yet."""
    if options:
        raise InvalidRequest(f"unknown checkpoint options: {', '.join(sorted(options))}")


def archive_name(container: ContainerRecord) -> str:
    """By id: a container's name may be longer than a file's."""
    return f"{container.id}.tar"


def _chosen(node: Node, pod: PodRecord, idents: tuple[str, ...]) -> list[ContainerRecord]:
    """The containers that the request names: members of the pod, running, each once."""
    if not idents:
        raise InvalidRequest("CheckpointPod names no containers")
    if len(set(idents)) != len(idents):
        raise InvalidRequest("CheckpointPod names a container twice")
    members = {c.id: c for c in node.containers_of(pod.id)}
    for ident in idents:
        if ident not in members:
            raise InvalidRequest(f"container {ident!r} is not in pod sandbox {pod.id}")
        if members[ident].state is not ContainerState.RUNNING:
            raise WrongState(f"container {ident} is not running")
    chosen = [members[ident] for ident in idents]
    names = [c.config.metadata.name for c in chosen]
    if len(set(names)) != len(names):
        raise InvalidRequest(f"two of the containers have the same name: {', '.join(sorted(names))}")
    return chosen


async def _empty_place(node: Node, path: str) -> None:
    if not posixpath.isabs(path) or not await node.host.files.check_dir(path):
        raise InvalidRequest(f"output path {path!r} must be an existing directory, given by its absolute path")
    if MANIFEST in await node.host.files.names(path):
        raise AlreadyExists(f"there is a pod checkpoint in {path} already")


def _manifest(pod: PodRecord, captured: list[capture.Captured]) -> bytes:
    m = pod.config.metadata
    document: dict[str, Any] = {
        "version": VERSION,
        "pod": {"id": pod.id, "name": m.name, "namespace": m.namespace, "uid": m.uid, "attempt": m.attempt},
        "containers": [
            {
                "id": one.container.id,
                "name": one.container.config.metadata.name,
                "archive": archive_name(one.container),
                "checkpointed": capture.timestamp(one.at),
            }
            for one in captured
        ],
    }
    return json.dumps(document, indent=1).encode("utf-8", "surrogateescape")
