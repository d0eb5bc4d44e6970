"""ImageService: each call decodes, runs one flow and encodes (names as in the proto, in snake case)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pycrio.api import fragments
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import images, node, pods
from pycrio.api.wire.common import given
from pycrio.errors import InvalidRequest
from pycrio.flows.images import pull as image_pull
from pycrio.flows.images import query as image_query
from pycrio.flows.images import remove as image_remove
from pycrio.flows.node_state import Node
from pycrio.model.image import ImageSpec


class ImageService:
    """Images of one daemon."""

    service = "ImageService"

    def __init__(self, node: Node) -> None:
        self._node = node

    async def list_images(self, request: pb.ListImagesRequest, remaining: float | None) -> bytes:
        views = await image_query.list_images(self._node, images.decode_filter(request.filter))
        return fragments.join([images.encode(v) for v in views])

    async def stream_images(self, request: pb.StreamImagesRequest, remaining: float | None) -> AsyncIterator[bytes]:
        views = await image_query.list_images(self._node, images.decode_filter(request.filter))
        for piece in fragments.pieces([images.encode(v) for v in views]):
            yield piece

    async def image_status(self, request: pb.ImageStatusRequest, remaining: float | None) -> pb.ImageStatusResponse:
        spec = _named(request.image, "ImageStatus")
        found = await image_query.status(self._node, spec, request.verbose)
        if found is None:
            return pb.ImageStatusResponse()
        return pb.ImageStatusResponse(image=images.encode(found.view, spec), info=node.encode_info(found.info))

    async def pull_image(self, request: pb.PullImageRequest, remaining: float | None) -> pb.PullImageResponse:
        spec = _named(request.image, "PullImage")
        credentials = images.decode_credentials(request.auth)
        # A client that pulls without a pod sends no config, or one without metadata.
        pod = pods.decode(request.sandbox_config) if request.sandbox_config.HasField("metadata") else None
        return pb.PullImageResponse(image_ref=await image_pull.pull(self._node, spec, credentials, pod))

    async def remove_image(self, request: pb.RemoveImageRequest, remaining: float | None) -> pb.RemoveImageResponse:
        await image_remove.remove(self._node, _named(request.image, "RemoveImage"))
        return pb.RemoveImageResponse()

    async def image_fs_info(self, request: pb.ImageFsInfoRequest, remaining: float | None) -> pb.ImageFsInfoResponse:
        kept, written = await image_query.disk_use(self._node)
        return pb.ImageFsInfoResponse(
            image_filesystems=[images.encode_disk_use(kept)], container_filesystems=[images.encode_disk_use(written)]
        )


def _named(message: pb.ImageSpec, call: str) -> ImageSpec:
    """The image that a request is about."""
    if "\0" in given(message.image, f"the image name of {call}"):
        raise InvalidRequest(f"the image name of {call} contains a NUL character")
    return images.decode_spec(message)
