"""Make a pod from a checkpoint of one. Its containers are created; StartContainer lets their processes go on.

1. Check the request against the manifest.
2. Run the new pod.
3. Create each container from its archive (``containers/restore.py``).

Whatever fails removes everything that was made.
"""

from __future__ import annotations

import asyncio
import json
import posixpath

from pycrio.errors import AlreadyExists, BadImage, Busy, InvalidRequest
from pycrio.flows.containers import capture, create
from pycrio.flows.node_state import Node
from pycrio.flows.pods import remove as remove_pod
from pycrio.flows.pods import run as run_pod
from pycrio.flows.pods.checkpoint import MANIFEST, VERSION, no_options
from pycrio.flows.undo import Undo
from pycrio.flows.views import RestoredPod
from pycrio.model.container import ContainerConfig
from pycrio.model.ids import is_id, pod_name
from pycrio.model.pod import PodConfig
from pycrio.obs import log as obslog
from pycrio.obs import steps

log = obslog.get("restore")
MANIFEST_LIMIT = 1 << 20


async def restore(
    node: Node,
    checkpoint_path: str,
    config: PodConfig,
    handler_name: str,
    containers: tuple[ContainerConfig, ...],
    options: dict[str, str],
    remaining: float,
) -> RestoredPod:
    """InvalidRequest when the request does not fit the checkpoint, BadImage when there is none, Unsupported with the
    reason when it cannot be done here, Timeout when ``remaining`` (seconds) is not enough."""
    due = asyncio.get_running_loop().time() + remaining
    no_options(options)
    handler = node.host.handlers.get(handler_name)
    await capture.need(node, handler)
    archives = await _archives(node, checkpoint_path)
    _check_names(containers, archives)
    for one in containers:
        create.check(one)
    run_pod.check(config)
    m = config.metadata
    name = pod_name(m.name, m.namespace, m.uid, m.attempt)
    if node.pods.by_name(name) is not None:
        raise AlreadyExists(f"there is a pod sandbox {name} already")
    if node.creating.running(("pod", name)):
        raise Busy(f"a pod sandbox {name} is being made")
    made: list[tuple[str, str]] = []
    with steps.flow("RestorePod", name):
        async with Undo("restore pod") as undo:
            pod_id = await run_pod.run(node, config, handler_name)
            undo.push("remove pod", remove_pod.remove, node, pod_id, None)
            for one in containers:
                capture.in_time(due)
                ident = await create.create(node, pod_id, one, config, archives[one.metadata.name])
                made.append((one.metadata.name, ident))
            capture.in_time(due)
            undo.release()
    log.info("Restored pod sandbox", id=pod_id, containers=len(made), source=checkpoint_path)
    return RestoredPod(pod_id, tuple(made))


async def _archives(node: Node, path: str) -> dict[str, str]:
    """The manifest's containers: name → archive."""
    if not posixpath.isabs(path):
        raise InvalidRequest(f"checkpoint path {path!r} must be absolute")
    text = await node.host.files.read(f"{path}/{MANIFEST}", MANIFEST_LIMIT)
    if text is None:
        raise BadImage(f"there is no complete pod checkpoint in {path}: it has no {MANIFEST}")
    try:
        document = json.loads(text.decode("utf-8", "surrogateescape"))
        if document["version"] != VERSION:
            raise BadImage(f"the pod checkpoint in {path} has version {document['version']}, known is {VERSION}")
        found = {str(c["name"]): str(c["archive"]) for c in document["containers"]}
    except (ValueError, KeyError, TypeError) as e:
        raise BadImage(f"{path}/{MANIFEST} is malformed: {type(e).__name__}: {e}") from e
    for archive in found.values():
        if not is_id(archive.removesuffix(".tar")):
            raise BadImage(f"{path}/{MANIFEST} names an archive that no checkpoint has: {archive!r}")
    return {name: f"{path}/{archive}" for name, archive in found.items()}


def _check_names(containers: tuple[ContainerConfig, ...], archives: dict[str, str]) -> None:
    """The request must name exactly the containers of the checkpoint, each once."""
    names = [c.metadata.name for c in containers]
    if sorted(names) != sorted(archives):
        raise InvalidRequest(
            f"the containers of the request ({', '.join(sorted(names)) or 'none'}) must be exactly those of the "
            f"checkpoint ({', '.join(sorted(archives)) or 'none'})"
        )
