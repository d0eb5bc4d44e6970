"""Pull an image.

1. Join a pull of the same image with the same credentials that is already running.
2. Resolve: find the image for this platform in a registry, verify manifests, config and signature policy.
3. Fetch and unpack the layers that the store lacks, side by side, each extracted while it downloads.
4. Commit them in order, base first.
5. Record the image under its name.

What turns out to be an artifact has blobs instead of layers: they are received side by side and recorded as they are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pycrio.errors import Exhausted, InvalidRequest, Overtaken, PycrioError, Timeout
from pycrio.flows.node_state import Node
from pycrio.flows.undo import Undo
from pycrio.model.image import Credentials, ImageSpec, LayerDescriptor, RemoteImage, StoredImage
from pycrio.model.pod import PodConfig
from pycrio.obs import log as obslog
from pycrio.obs import steps, trace
from pycrio.obs.metrics import metrics

log = obslog.get("pull")
T = TypeVar("T")
TRIES = 5  # of a pull whose ready layers are removed while it fetches the others


async def pull(node: Node, spec: ImageSpec, credentials: Credentials | None, pod: PodConfig | None) -> str:
    """Pull ``spec.image`` and return the image's id, an artifact's manifest digest in hex. Cancelled when every caller
    has given up."""
    if not spec.image:
        raise InvalidRequest("PullImage needs an image name")
    namespace = pod.metadata.namespace if pod else ""
    group = node.host.options.separate_pull_cgroup
    if group == "pod":
        group = pod.cgroup_parent if pod else ""
    key = (spec.image, credentials, namespace, group)
    try:
        image_id = await node.pulling.run(key, lambda: _pull(node, spec.image, credentials, namespace, group))
    except PycrioError as e:
        metrics.pull_failed(e)
        raise
    metrics.pull_succeeded()
    return image_id


async def _pull(node: Node, name: str, credentials: Credentials | None, namespace: str, group: str) -> str:
    host = node.host
    with steps.flow("PullImage", name):
        artifact = await host.artifacts.find(host.registry.names(name), "")
        if artifact is not None and artifact.image.read_only:
            return artifact.image.id  # what the operator put into an additional store is not asked for elsewhere
        with steps.step("resolve"):
            image = await host.registry.resolve(name, credentials, namespace)
        if image.artifact_type:
            return await _pull_artifact(node, image)
        for tries_left in reversed(range(TRIES)):
            try:
                stored = await _store(node, image, group)
                break
            except Overtaken as e:
                if not tries_left:
                    raise
                log.info("A layer went with another image during a pull, fetching it", image=image.name, error=str(e))
    return stored.id


async def _store(node: Node, image: RemoteImage, group: str) -> StoredImage:
    """Layers that are missing, then the record. Overtaken when the removal of another image took a layer that was there
    at first."""
    host = node.host
    chain = host.layers.chain_ids([layer.diff_id for layer in image.layers])
    size = 0
    async with Undo("pull image") as undo:
        with steps.step("layers"):
            present = await host.layers.present(chain)
            # A layer is reusable only below a complete parent, so what is missing is a tail of the chain.
            have = next((i for i, ident in enumerate(chain) if ident not in present), len(chain))
            for layer in image.layers[:have]:
                metrics.layer_reused(layer.digest)
            staged = await _transfer_all(
                node, image, image.layers[have:], (partial(host.layers.unpack, group=group), host.layers.discard), undo
            )
        with steps.step("commit"):
            for index, unpacked in enumerate(staged, start=have):
                await host.layers.commit(unpacked, chain[index], chain[index - 1] if index else "")
                size += unpacked.diff_size
            stored = await host.images.record(image, chain[-1] if chain else "", size)
        undo.release()
    log.info("Pulled image", image=image.name, id=stored.id, digest=image.manifest_digest, layers=len(staged))
    return stored


async def _pull_artifact(node: Node, image: RemoteImage) -> str:
    artifacts = node.host.artifacts
    async with Undo("pull artifact") as undo:
        with steps.step("blobs"):
            present = await artifacts.present([layer.digest for layer in image.layers])
            # The same blob may be listed under several names; it is kept once.
            wanted = {layer.digest: layer for layer in image.layers if layer.digest not in present}
            ways = (artifacts.receive, artifacts.discard)
            staged = await _transfer_all(node, image, list(wanted.values()), ways, undo)
        with steps.step("commit"):
            stored = await artifacts.record(image, staged)
        undo.release()
    log.info("Pulled artifact", artifact=image.name, type=image.artifact_type, id=stored.image.id, blobs=len(staged))
    return stored.image.id


# Takes a blob from a pipe to a staging place, and drops what was staged.
Ways = tuple[Callable[[LayerDescriptor, int], Awaitable[T]], Callable[[T], Awaitable[None]]]


async def _transfer_all(
    node: Node, image: RemoteImage, layers: Sequence[LayerDescriptor], ways: Ways[T], undo: Undo
) -> list[T]:
    """Fetch and stage blobs side by side, as many as the node allows; the first failure cancels the others. Each staged
    one is registered for undo."""

    async def one(layer: LayerDescriptor) -> T:
        async with node.downloads:
            with trace.span("blob", {"oci.digest": layer.digest, "oci.size": layer.size}):
                staged = await _transfer(node, image, layer, ways)
        undo.push(f"discard blob {layer.digest}", ways[1], staged)
        return staged

    # The same blob may be listed twice; each occurrence is a layer of its own and is staged on its own.
    tasks = [asyncio.ensure_future(one(layer)) for layer in layers]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _transfer(node: Node, image: RemoteImage, layer: LayerDescriptor, ways: Ways[T]) -> T:
    """Stream one blob from the registry through a pipe into what takes it."""
    take, discard = ways
    try:
        source, sink = os.pipe2(os.O_CLOEXEC)
    except OSError as e:
        raise Exhausted(f"no pipe for layer {layer.digest} of {image.name}: {e.strerror}") from e
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        metrics.pulled_bytes(layer.media_type, max(layer.size, 0), count - done)
        done = count

    async def fetch() -> None:
        try:
            await node.host.registry.fetch(image, layer, sink, progress)
        finally:
            os.close(sink)

    fetching = asyncio.ensure_future(fetch())
    unpacking = asyncio.ensure_future(take(layer, source))
    handed_on = False
    try:
        await asyncio.wait({fetching, unpacking}, return_when=asyncio.FIRST_EXCEPTION)
        # A download that broke also ends the archive early: of the two failures it is the cause.
        if fetching.done() and not fetching.cancelled() and fetching.exception() is not None:
            unpacking.cancel()
            await asyncio.wait({unpacking})
            await fetching
        if unpacking.done() and not fetching.done():
            fetching.cancel()
            await asyncio.wait({fetching})
        result = await unpacking
        handed_on = True
    except TimeoutError as e:
        raise Timeout(f"pull of {image.name} made no progress on layer {layer.digest}") from e
    finally:
        await _end(fetching, unpacking)
        os.close(source)
        if not handed_on and not unpacking.cancelled() and unpacking.exception() is None:
            await discard(unpacking.result())  # complete, but its download or its caller failed
    metrics.pulled_blob(done)
    return result


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs and wait for its end; failures that others have overtaken count as seen."""
    running = {task for task in tasks if not task.done()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in tasks:
        if not task.cancelled():
            task.exception()
