"""List images, look one up, tell the use of the image file system."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence

from pycrio.errors import InvalidRequest
from pycrio.flows.images.find import find_any, repo_digests, repo_tags
from pycrio.flows.node_state import Node
from pycrio.flows.views import ImageStatusView, ImageView
from pycrio.model.image import ImageSpec, StoredImage
from pycrio.model.stats import FsUsage


def view(node: Node, image: StoredImage) -> ImageView:
    """The CRI's view of a stored image."""
    options = node.host.options
    return ImageView(
        image=image,
        tags=repo_tags(image),
        digests=repo_digests(image),
        pinned=(image.artifact and image.read_only) or is_pinned(image, (*options.pinned_images, options.pause_image)),
    )


def is_pinned(image: StoredImage, patterns: Sequence[str]) -> bool:
    """True when a name of the image fits a pattern: exact, ``name*``, or ``*part*`` (which ignores case)."""
    known = (*repo_tags(image), *repo_digests(image), image.id)
    for pattern in patterns:
        if not pattern:
            continue
        if pattern.startswith("*") and pattern.endswith("*"):
            if any(pattern.strip("*").lower() in n.lower() for n in known):
                return True
        elif pattern.endswith("*"):
            if any(fnmatch.fnmatchcase(n, fnmatch_literal(pattern[:-1]) + "*") for n in known):
                return True
        elif pattern in known:
            return True
    return False


def fnmatch_literal(text: str) -> str:
    """Text with the characters that fnmatch gives a meaning made literal."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


async def list_images(node: Node, spec: ImageSpec | None) -> list[ImageView]:
    """Every image and artifact, or the one that the filter names."""
    if spec is not None and spec.image:
        try:
            one = await find_any(node, spec.image)
        except InvalidRequest:
            return []
        return [view(node, one)] if one else []
    artifacts = [artifact.image for artifact in await node.host.artifacts.all()]
    return [view(node, image) for image in (*await node.host.images.all(), *artifacts)]


async def status(node: Node, spec: ImageSpec, verbose: bool) -> ImageStatusView | None:
    """One image or artifact; None when absent. The verbose answer's ``info`` holds its labels and its config."""
    if not spec.image:
        raise InvalidRequest("ImageStatus needs an image name")
    found = await find_any(node, spec.image)
    if found is None:
        return None
    info = {}
    if verbose:
        config = json.loads(found.config.raw or b"{}")
        info["info"] = json.dumps({"labels": found.config.labels, "imageSpec": config})
    return ImageStatusView(view(node, found), info)


async def disk_use(node: Node) -> tuple[FsUsage, FsUsage]:
    """Use of the image and of the container file system."""
    return await node.host.images.disk_use()
