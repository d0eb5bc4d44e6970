"""Images: how requests name them, what answers tell of them, registry credentials."""

from __future__ import annotations

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire.common import MAX_ID, maybe_uint
from pycrio.flows.views import ImageView
from pycrio.model.image import Credentials, ImageSpec
from pycrio.model.stats import FsUsage


def decode_spec(message: pb.ImageSpec) -> ImageSpec:
    """How a request names an image; empty names are for the flows to judge."""
    return ImageSpec(
        image=message.image,
        annotations=dict(message.annotations),
        user_specified_image=message.user_specified_image,
        runtime_handler=message.runtime_handler,
        image_ref=message.image_ref,
    )


def encode_spec(spec: ImageSpec) -> pb.ImageSpec:
    """An image as a request named it."""
    return pb.ImageSpec(
        image=spec.image,
        annotations=spec.annotations,
        user_specified_image=spec.user_specified_image,
        runtime_handler=spec.runtime_handler,
        image_ref=spec.image_ref,
    )


def decode_filter(message: pb.ImageFilter) -> ImageSpec | None:
    """The image that a list is narrowed to; None for all."""
    return decode_spec(message.image) if message.image.image else None


def decode_credentials(message: pb.AuthConfig) -> Credentials | None:
    """Credentials of a pull; None when the request carries nothing."""
    found = Credentials(
        username=message.username,
        password=message.password,
        auth=message.auth,
        server_address=message.server_address,
        identity_token=message.identity_token,
        registry_token=message.registry_token,
    )
    return None if found == Credentials() else found


def encode(view: ImageView, asked: ImageSpec | None = None) -> pb.Image:
    """An image of the node. ``asked`` is the spec of a request about this one image; what the user wrote is told back.

    The config's user is a uid when it is a number, else a name; its group does not count here.
    """
    image = view.image
    user = image.config.user.partition(":")[0]
    numeric = user.isascii() and user.isdigit() and int(user) <= MAX_ID
    return pb.Image(
        id=image.id,
        repo_tags=view.tags,
        repo_digests=view.digests,
        size=max(image.size, 0),
        uid=pb.Int64Value(value=int(user)) if numeric else None,
        username="" if numeric else user,
        spec=pb.ImageSpec(
            image=image.id,  # one image, one answer, whatever reference asked for it
            annotations=image.annotations,
            user_specified_image=asked.user_specified_image if asked else "",
            runtime_handler=asked.runtime_handler if asked else "",
        ),
        pinned=view.pinned,
    )


def encode_disk_use(usage: FsUsage) -> pb.FilesystemUsage:
    """Use of a file system."""
    return pb.FilesystemUsage(
        timestamp=usage.timestamp,
        fs_id=pb.FilesystemIdentifier(mountpoint=usage.mountpoint),
        used_bytes=maybe_uint(usage.used_bytes),
        inodes_used=maybe_uint(usage.inodes_used),
    )
