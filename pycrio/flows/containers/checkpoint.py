"""Checkpoint a running container into an archive. It goes on running."""

from __future__ import annotations

import posixpath

from pycrio.errors import InvalidRequest, WrongState
from pycrio.flows.containers import capture
from pycrio.flows.node_state import Node
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerState
from pycrio.obs import log as obslog
from pycrio.obs import steps

log = obslog.get("checkpoint")


async def checkpoint(node: Node, ident: str, location: str, timeout: int) -> None:
    """NotFound when absent, WrongState unless running, Unsupported with the reason when CRIU cannot do it here.

    ``timeout`` is not heeded, as with CRI-O: a dump that is cut off would break the container.
    """
    container = capture.known(node, ident)
    await capture.need(node, node.handler_of(container))
    if container.state is not ContainerState.RUNNING:
        raise WrongState(f"container {container.id} is not running")
    if not posixpath.isabs(location) or location.endswith("/"):
        raise InvalidRequest(f"checkpoint location {location!r} must be the absolute path of a file")
    with steps.flow("CheckpointContainer", container.name):
        async with Undo("checkpoint container") as undo:
            with steps.step("capture"):
                (captured,) = await capture.take(node, [container.id], undo)
            with steps.step("archive"):
                await node.host.checkpoints.pack(captured.directory, location)
            undo.release()
    await capture.discard(node, captured)
    log.info("Checkpointed container", id=container.id, location=location)
