"""Mounts and devices of containers."""

from __future__ import annotations

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import images
from pycrio.api.wire.common import enum_of
from pycrio.api.wire.security import decode_mappings, encode_mappings
from pycrio.model.mount import Device, Mount, Propagation

_PROPAGATION = {
    Propagation.PRIVATE: pb.PROPAGATION_PRIVATE,
    Propagation.HOST_TO_CONTAINER: pb.PROPAGATION_HOST_TO_CONTAINER,
    Propagation.BIDIRECTIONAL: pb.PROPAGATION_BIDIRECTIONAL,
}


def decode(message: pb.Mount) -> Mount:
    """A mount as asked for; an image message without a name means that there is no image."""
    return Mount(
        container_path=message.container_path,
        host_path=message.host_path,
        readonly=message.readonly,
        selinux_relabel=message.selinux_relabel,
        propagation=enum_of(Propagation, message.propagation, f"propagation of mount {message.container_path!r}"),
        uid_mappings=decode_mappings(message.uidMappings),
        gid_mappings=decode_mappings(message.gidMappings),
        recursive_read_only=message.recursive_read_only,
        image=images.decode_spec(message.image) if message.image.image else None,
        image_sub_path=message.image_sub_path,
        mount_options=tuple(message.mount_options),
    )


def encode(mount: Mount) -> pb.Mount:
    """A mount as the status tells it."""
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        selinux_relabel=mount.selinux_relabel,
        propagation=_PROPAGATION[mount.propagation],
        uidMappings=encode_mappings(mount.uid_mappings),
        gidMappings=encode_mappings(mount.gid_mappings),
        recursive_read_only=mount.recursive_read_only,
        image=images.encode_spec(mount.image) if mount.image else None,
        image_sub_path=mount.image_sub_path,
        mount_options=mount.mount_options,
    )


def decode_device(message: pb.Device) -> Device:
    """A device as asked for; no permissions means all of them."""
    return Device(message.host_path, message.container_path, message.permissions or "rwm")
