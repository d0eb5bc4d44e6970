"""From what a request calls an image to the image of the store."""

from __future__ import annotations

from pycrio.errors import InvalidRequest, NotFound
from pycrio.flows.node_state import Node
from pycrio.model.ids import is_id_prefix
from pycrio.model.image import Artifact, ImageSpec, StoredImage


async def find(node: Node, name: str) -> StoredImage | None:
    """By id, id prefix of at least three characters, or reference (short names tried in order); None when absent."""
    return await node.host.images.find(*_meant(node, name))


async def find_artifact(node: Node, name: str) -> Artifact | None:
    """Likewise for an OCI artifact, whose id is the digest of its manifest."""
    return await node.host.artifacts.find(*_meant(node, name))


async def find_any(node: Node, name: str) -> StoredImage | None:
    """An image, or else an artifact as lists show it."""
    names, ident = _meant(node, name)
    found = await node.host.images.find(names, ident)
    if found is None:
        artifact = await node.host.artifacts.find(names, ident)
        found = artifact.image if artifact is not None else None
    return found


def _meant(node: Node, name: str) -> tuple[tuple[str, ...], str]:
    """Full names and the id (or a prefix of one) that a request may mean."""
    ident = name.removeprefix("sha256:")
    ident = ident if is_id_prefix(ident, 3) else ""
    try:
        return node.host.registry.names(name), ident
    except InvalidRequest:
        if not ident:
            raise
        return (), ident


async def need(node: Node, spec: ImageSpec) -> StoredImage:
    """The image of a request; InvalidRequest when it names none, NotFound when the store lacks it."""
    if not spec.image:
        raise InvalidRequest("the request names no image")
    found = await find(node, spec.image)
    if found is None:
        raise NotFound("image", spec.image, "pull it first")
    return found


def repo_tags(image: StoredImage) -> tuple[str, ...]:
    """Names that carry a tag."""
    return tuple(n for n in image.names if "@" not in n)


def repo_digests(image: StoredImage) -> tuple[str, ...]:
    """Each repository that the image is or was known by, with each of its digests."""
    names = image.names or image.names_history[:1]
    repositories = dict.fromkeys(_repository(n) for n in names)
    return tuple(f"{r}@{d}" for r in repositories for d in image.digests)


def image_ref(image: StoredImage) -> str:
    """The first repo digest, or the id."""
    digests = repo_digests(image)
    return digests[0] if digests else image.id


def _repository(name: str) -> str:
    name, _, _ = name.partition("@")
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]
