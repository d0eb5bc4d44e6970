"""Fakes of the ports that images need: a registry, an image store, layers and root file systems, all in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence

from pycrio.errors import InvalidRequest, NotFound, Overtaken, RegistryError
from pycrio.flows.ports import ContainerDirs, Files, StoreEntry
from pycrio.model.image import (
    Artifact,
    ArtifactFile,
    Credentials,
    ImageConfig,
    LayerDescriptor,
    RemoteImage,
    StoredImage,
    UnpackedLayer,
)
from pycrio.model.security import IdMaps
from pycrio.model.stats import FsUsage
from tests.fakes.script import Script

BUSYBOX = "docker.io/library/busybox:latest"


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class FakeRegistry:
    """Offers the images that ``offer`` names."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._offered: dict[str, RemoteImage] = {}

    def offer(self, name: str, layers: Sequence[str] = ("base",), artifact_type: str = "") -> None:
        """Make an image pullable under its full name; a layer's text stands for its blob. With a type it is an
        artifact, whose files are named by their text."""
        self._offered[name] = RemoteImage(
            name=name,
            manifest=b"{}",
            manifest_digest=digest(f"manifest {name}"),
            manifest_type="application/vnd.oci.image.manifest.v1+json",
            config=b"{}",
            config_digest=digest(f"config {name}"),
            layers=tuple(
                LayerDescriptor(digest(t), len(t), "tar", digest(f"diff {t}"), annotations={"title": t}) for t in layers
            ),
            artifact_type=artifact_type,
            source={digest(t): t for t in layers},
        )

    async def resolve(self, reference: str, credentials: Credentials | None, namespace: str) -> RemoteImage:
        await self._script.at("registry.resolve")
        for name in self.names(reference):
            if name in self._offered:
                return self._offered[name]
        raise RegistryError(f"{reference}: manifest unknown", code="MANIFEST_UNKNOWN", status=404)

    async def fetch(
        self, image: RemoteImage, layer: LayerDescriptor, sink_fd: int, progress: Callable[[int], None]
    ) -> None:
        await self._script.at("registry.fetch")
        assert isinstance(image.source, dict)
        progress(os.write(sink_fd, image.source[layer.digest].encode()))

    def names(self, reference: str) -> tuple[str, ...]:
        if not reference or reference != reference.strip() or not reference.isascii() or not reference.isprintable():
            raise InvalidRequest(f"{reference!r} is not an image reference")
        name = reference if "/" in reference else f"docker.io/library/{reference}"
        return (name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest",)

    async def verify_stored(self, image: StoredImage, user_image: str, namespace: str) -> None:
        await self._script.at("registry.verify_stored")

    async def reload(self) -> None:
        await self._script.at("registry.reload")


class FakeImages:
    """An image store."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.stored: dict[str, StoredImage] = {}
        self.used_by: dict[str, list[str]] = {}

    def add(self, name: str = BUSYBOX, config: ImageConfig | None = None) -> StoredImage:
        """Put an image in."""
        ident = digest(f"config {name}").removeprefix("sha256:")
        image = StoredImage(
            id=ident,
            names=(name,),
            digests=(digest(f"manifest {name}"),),
            layer=ident,
            size=4096,
            created=1,
            config=config or ImageConfig(cmd=("sh",), env=("PATH=/bin",)),
        )
        self.stored[ident] = image
        return image

    async def all(self) -> Sequence[StoredImage]:
        await self._script.at("images.all")
        return list(self.stored.values())

    async def find(self, names: Sequence[str], ident: str) -> StoredImage | None:
        await self._script.at("images.find")
        fitting = [i for i in self.stored.values() if ident and i.id.startswith(ident)]
        if len(fitting) == 1:
            return fitting[0]
        return next((i for n in names for i in self.stored.values() if n in i.names), None)

    async def record(self, image: RemoteImage, top_layer: str, diff_size: int) -> StoredImage:
        await self._script.at("images.record")
        return self.add(image.name)

    async def untag(self, image_id: str, name: str) -> None:
        await self._script.at("images.untag")
        image = self.stored[image_id]
        self.stored[image_id] = dataclasses.replace(image, names=tuple(n for n in image.names if n != name))

    async def remove(self, image_id: str) -> None:
        await self._script.at("images.remove")
        self.stored.pop(image_id, None)

    async def users(self, image_id: str) -> Sequence[str]:
        return self.used_by.get(image_id, [])

    async def disk_use(self) -> tuple[FsUsage, FsUsage]:
        await self._script.at("images.disk_use")
        usage = FsUsage(1, "/var/lib/containers/storage/overlay-images", 4096 * len(self.stored), len(self.stored))
        return usage, usage


class FakeArtifacts:
    """An artifact store; files are told to be below /artifacts."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.stored: dict[str, Artifact] = {}
        self.staged: set[str] = set()

    def add(self, name: str, files: Sequence[str] = ("profile.json",), *, read_only: bool = False) -> Artifact:
        """Put an artifact in; the name of a file is its content as well."""
        ident = digest(f"manifest {name}").removeprefix("sha256:")
        image = StoredImage(
            ident, (name,), (f"sha256:{ident}",), "", 1, 0, ImageConfig(), read_only=read_only, artifact=True
        )
        found = tuple(ArtifactFile(f, f"/artifacts/{f}", digest(f), len(f)) for f in files)
        self.stored[ident] = Artifact(image, "application/x-test", found)
        return self.stored[ident]

    async def all(self) -> Sequence[Artifact]:
        return list(self.stored.values())

    async def find(self, names: Sequence[str], ident: str) -> Artifact | None:
        await self._script.at("artifacts.find")
        fitting = [a for a in self.stored.values() if ident and a.image.id.startswith(ident)]
        if len(fitting) == 1:
            return fitting[0]
        return next((a for n in names for a in self.stored.values() if n in a.image.names), None)

    async def present(self, digests: Sequence[str]) -> frozenset[str]:
        return frozenset(digests) & {f.digest for a in self.stored.values() for f in a.files}

    async def receive(self, layer: LayerDescriptor, source_fd: int) -> str:
        await self._script.at("artifacts.receive")
        self.staged.add(f"staged-{layer.digest}")
        return f"staged-{layer.digest}"

    async def discard(self, staged: str) -> None:
        await self._script.at("artifacts.discard")
        self.staged.discard(staged)

    async def record(self, image: RemoteImage, staged: Sequence[str]) -> Artifact:
        await self._script.at("artifacts.record")
        self.staged -= set(staged)
        return self.add(image.name, [layer.annotations["title"] for layer in image.layers])

    async def remove(self, ident: str, name: str = "") -> None:
        await self._script.at("artifacts.remove")
        found = self.stored.get(ident)
        if found is not None and name and len(found.image.names) > 1:
            names = tuple(n for n in found.image.names if n != name)
            self.stored[ident] = dataclasses.replace(found, image=dataclasses.replace(found.image, names=names))
        else:
            self.stored.pop(ident, None)

    async def garbage(self) -> int:
        count = len(self.staged)
        self.staged.clear()
        return count


class FakeLayers:
    """Layers by chain id; unpacking reads the pipe to its end and checks the digest."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.kept: set[str] = set()
        self.staged: set[str] = set()
        self.abandoned: set[str] = set()
        self.groups: set[str] = set()

    def chain_ids(self, diff_ids: Sequence[str]) -> tuple[str, ...]:
        return tuple(digest(" ".join(diff_ids[: i + 1])) for i in range(len(diff_ids)))

    async def present(self, layer_ids: Sequence[str]) -> frozenset[str]:
        return frozenset(self.kept & set(layer_ids))

    async def unpack(self, layer: LayerDescriptor, source_fd: int, group: str = "") -> UnpackedLayer:
        await self._script.at("layers.unpack")
        self.groups.add(group)
        staging = f"staged-{layer.digest}"
        self.staged.add(staging)
        return UnpackedLayer(staging, layer.digest, layer.size, layer.diff_id, layer.size, "none")

    async def commit(self, layer: UnpackedLayer, layer_id: str, parent: str) -> None:
        await self._script.at("layers.commit")
        if parent and parent not in self.kept:
            raise Overtaken(f"layer {parent} was removed while the layer above it was pulled")
        self.staged.discard(layer.staging)
        self.kept.add(layer_id)

    async def discard(self, layer: UnpackedLayer) -> None:
        await self._script.at("layers.discard")
        self.staged.discard(layer.staging)

    async def garbage(self) -> int:
        return self._forget(self.staged)

    async def sweep(self) -> int:
        await self._script.at("layers.sweep")
        return self._forget(self.abandoned)

    def _forget(self, which: set[str]) -> int:
        gone = set(which)
        self.staged -= gone
        self.abandoned -= gone
        return len(gone)


class FakeRootfs:
    """Root file systems of containers. ``files`` is where other ports put files into their directories."""

    def __init__(self, script: Script, files: Files | None = None) -> None:
        self._script = script
        self._files = files
        self.kept: dict[str, StoreEntry] = {}
        self.mounted: set[str] = set()
        self.image_mounts: set[str] = set()

    async def create(self, entry: StoreEntry) -> ContainerDirs:
        await self._script.at("rootfs.create")
        self.kept[entry.id] = entry
        return ContainerDirs(f"/run/store/overlay-containers/{entry.id}/userdata", f"/var/store/{entry.id}/userdata")

    async def mount(self, container_id: str) -> str:
        await self._script.at("rootfs.mount")
        self.mounted.add(container_id)
        return f"/var/store/{container_id}/merged"

    async def unmount(self, container_id: str) -> None:
        await self._script.at("rootfs.unmount")
        self.mounted.discard(container_id)

    async def remove(self, container_id: str) -> None:
        await self._script.at("rootfs.remove")
        self.mounted.discard(container_id)
        if self._files is not None and container_id in self.kept:
            await self._files.remove(f"/run/store/overlay-containers/{container_id}")
            await self._files.remove(f"/var/store/{container_id}")
        self.kept.pop(container_id, None)

    async def usage(self, container_id: str) -> FsUsage | None:
        return FsUsage(1, "/var/store", 42, 3) if container_id in self.kept else None

    async def mount_image(self, image_id: str, target: str, label: str, maps: IdMaps = ((), ())) -> None:
        await self._script.at("rootfs.mount_image")
        if not image_id:
            raise NotFound("image", image_id)
        self.image_mounts.add(target)

    async def unmount_image(self, target: str) -> None:
        self.image_mounts.discard(target)

    async def entries(self) -> Sequence[StoreEntry]:
        return list(self.kept.values())

    async def known(self, container_id: str) -> bool:
        return container_id in self.kept
