"""OCI artifacts in containers: their blobs as files of a mount, and seccomp profiles that come as artifacts."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pycrio.errors import ImageMountFailed, InvalidRequest, NotFound
from pycrio.flows.images import pull
from pycrio.flows.images.find import find_artifact
from pycrio.flows.node_state import Node
from pycrio.model.image import Artifact, ArtifactFile, ImageSpec
from pycrio.model.mount import Mount, OciMount
from pycrio.model.security import ProfileType
from pycrio.spec.mounts import attributes

if TYPE_CHECKING:
    from pycrio.flows.containers.create import Making

# The annotation, and its older name.
SECCOMP = ("seccomp-profile.crio.io", "seccomp-profile.kubernetes.cri-o.io")
MAX_PROFILE = 4 << 20


def mounts_of(artifact: Artifact, mount: Mount) -> tuple[tuple[OciMount, ...], Mount]:
    """One read-only bind mount for each file of the artifact, or for each below the sub path; and the mount as the
    status tells it, with the digest."""
    assert mount.image is not None
    name = mount.image.image
    files = _selected(_checked(artifact, name), mount.image_sub_path, name)
    top = posixpath.normpath(mount.container_path)
    options = ("bind", "ro", "rprivate", *attributes(mount), "nosuid", "nodev")
    binds = tuple(OciMount(posixpath.join(top, path) if path else top, "bind", f.path, options) for path, f in files)
    return binds, replace(mount, image=replace(mount.image, image_ref=artifact.image.id))


def _checked(artifact: Artifact, name: str) -> list[tuple[str, ArtifactFile]]:
    """Files by their relative path. What an artifact says is not to be trusted: no path leads out of the mount, none
    is there twice, none below another that is a file."""
    found: dict[str, ArtifactFile] = {}
    for file in artifact.files:
        path = posixpath.normpath(file.name)
        if "\0" in path or posixpath.isabs(path) or path in (".", "..") or path.startswith("../"):
            raise ImageMountFailed(
                f"artifact {name!r} names a file {file.name[:200]!r}, which is no path below a directory"
            )
        if path in found and found[path].digest != file.digest:
            raise ImageMountFailed(f"artifact {name!r} has two files of the name {path!r}")
        found[path] = file
    for path in found:
        above = posixpath.dirname(path)
        while above:
            if above in found:
                raise ImageMountFailed(f"artifact {name!r} has a file {above!r} and another below it")
            above = posixpath.dirname(above)
    return list(found.items())


def _selected(files: Sequence[tuple[str, ArtifactFile]], sub_path: str, name: str) -> list[tuple[str, ArtifactFile]]:
    """Files below the sub path, relative to it; "" for the one that it names."""
    if not sub_path or posixpath.normpath(sub_path) == ".":
        return list(files)
    wanted = posixpath.normpath(sub_path)
    found = [
        (path.removeprefix(wanted).lstrip("/"), file)
        for path, file in files
        if path == wanted or path.startswith(f"{wanted}/")
    ]
    if not found:
        raise ImageMountFailed(f'sub path "{sub_path}" does not exist in image volume "{name}"')
    return found


async def seccomp(node: Node, making: Making, capabilities: Sequence[str]) -> Mapping[str, Any] | None:
    """The profile of a container, from an artifact where the request asks for none and an annotation names one."""
    host, security = node.host, making.config.security
    asked = security.seccomp
    if not security.privileged and (asked is None or asked.type is ProfileType.UNCONFINED):
        reference = artifact_reference(making)
        if reference:
            return await _from_artifact(node, reference, making, capabilities)
    return host.security.seccomp(asked, security.privileged, making.handler, capabilities)


def artifact_reference(making: Making) -> str:
    """What the annotations name: the pod's for this container, the pod's for all, the image's plain one, the image's
    for this container, the image's for all; "" when none does."""
    name = making.config.metadata.name
    pod, image = making.annotations, making.image.annotations
    for found, suffix in ((pod, f"/{name}"), (pod, "/POD"), (image, ""), (image, f"/{name}"), (image, "/POD")):
        for base in SECCOMP:
            if found.get(f"{base}{suffix}"):
                return found[f"{base}{suffix}"]
    return ""


async def _from_artifact(
    node: Node, reference: str, making: Making, capabilities: Sequence[str]
) -> Mapping[str, Any] | None:
    artifact = await find_artifact(node, reference)
    if artifact is None:
        await pull.pull(node, ImageSpec(reference), None, making.pod.config)
        artifact = await find_artifact(node, reference)
    if artifact is None or not artifact.files:
        raise NotFound("seccomp profile", reference, "it is no OCI artifact with a layer")
    file = artifact.files[0]
    if file.size > MAX_PROFILE:
        raise InvalidRequest(f"seccomp profile {reference} has {file.size} bytes, more than {MAX_PROFILE}")
    content = await node.host.files.read(file.path, MAX_PROFILE)
    if content is None:
        raise NotFound("seccomp profile", reference, "its blob is missing from the artifact store")
    return node.host.security.seccomp_document(reference, content, capabilities)
