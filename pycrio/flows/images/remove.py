"""Remove an image or artifact: by id with all its names; by name only that name, and the image with its last one."""

from __future__ import annotations

from pycrio.errors import InUse, InvalidRequest
from pycrio.flows.images.find import find_any
from pycrio.flows.node_state import Node
from pycrio.model.image import ImageSpec
from pycrio.obs import log as obslog

log = obslog.get("image")


async def remove(node: Node, spec: ImageSpec) -> None:
    """Idempotent; InUse names the containers that use the image."""
    if not spec.image:
        raise InvalidRequest("RemoveImage needs an image name")
    image = await find_any(node, spec.image)
    if image is None:
        return
    images = node.host.images
    async with node.turns.of(("image", image.id)):
        name = next((n for n in _candidates(node, spec.image) if n in image.names), None)
        if name is not None and len(image.names) > 1:
            await (node.host.artifacts.remove(image.id, name) if image.artifact else images.untag(image.id, name))
            log.info("Removed image name", image=name, id=image.id)
            return
        mounted = [c.id for c in node.containers if any(m.image and _same(m.image, image.id) for m in c.mounts)]
        users = sorted({*(() if image.artifact else await images.users(image.id)), *mounted})
        if users:
            raise InUse(f"image {spec.image!r} cannot be removed: the image is in use by {', '.join(users)}")
        await (node.host.artifacts.remove(image.id) if image.artifact else images.remove(image.id))
        log.info("Removed image", image=spec.image, id=image.id)


def _candidates(node: Node, name: str) -> tuple[str, ...]:
    try:
        return node.host.registry.names(name)
    except InvalidRequest:
        return ()  # an id


def _same(spec: ImageSpec, image_id: str) -> bool:
    return image_id in (spec.image, spec.image_ref, spec.image.removeprefix("sha256:"))
