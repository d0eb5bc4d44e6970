"""Images made on the spot, a store on a scratch directory, and a kernel that only remembers its mounts."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pycrio._native.pools import offload
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from pycrio.model.image import LayerDescriptor, RemoteImage, StoredImage, UnpackedLayer


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_tar(files: Mapping[str, bytes | None]) -> bytes:
    """An archive: path → content; None makes a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.mtime = 1_600_000_000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size, info.mode = len(content), 0o644
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@dataclass(frozen=True)
class Blob:
    """A layer: its bytes as a registry has them, and what the manifest and config say of it."""

    data: bytes
    descriptor: LayerDescriptor

    @classmethod
    def of(cls, tar: bytes) -> Blob:
        data = gzip.compress(tar, mtime=0)
        media = "application/vnd.oci.image.layer.v1.tar+gzip"
        return cls(data, LayerDescriptor(digest(data), len(data), media, digest(tar)))


def make_image(name: str, tars: Sequence[bytes], **config: object) -> tuple[RemoteImage, list[Blob]]:
    """An OCI image of these layers."""
    blobs = [Blob.of(tar) for tar in tars]
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-05-06T07:08:09.123456789Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [b.descriptor.diff_id for b in blobs]},
        "history": [{"created_by": "test"} for _ in blobs],
    }
    raw = json.dumps(document).encode()
    layers = [
        {"mediaType": b.descriptor.media_type, "digest": b.descriptor.digest, "size": b.descriptor.size} for b in blobs
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(raw), "size": len(raw)},
        "layers": layers,
        "annotations": {"org.example.kind": "test"},
    }
    data = json.dumps(manifest).encode()
    image = RemoteImage(
        name=name,
        manifest=data,
        manifest_digest=digest(data),
        manifest_type="application/vnd.oci.image.manifest.v1+json",
        config=raw,
        config_digest=digest(raw),
        layers=tuple(b.descriptor for b in blobs),
        annotations={"org.example.kind": "test"},
    )
    return image, blobs


def oci_layout(directory: Path, image: RemoteImage, blobs: Sequence[Blob]) -> str:
    """The image as an OCI layout, for skopeo to read; its transport name."""
    where = directory / "blobs/sha256"
    where.mkdir(parents=True)
    for data in (image.manifest, image.config, *(b.data for b in blobs)):
        (where / digest(data)[7:]).write_bytes(data)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {"mediaType": image.manifest_type, "digest": image.manifest_digest, "size": len(image.manifest)}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return f"oci:{directory}"


def _feed(fd: int, data: bytes) -> None:
    try:
        with open(fd, "wb") as f:
            f.write(data)
    except BrokenPipeError:
        pass  # the reader gave up, as it does with damaged blobs


async def unpack(store: Store, descriptor: LayerDescriptor, data: bytes) -> UnpackedLayer:
    """Send a blob through a pipe, as a pull does."""
    source, sink = os.pipe()
    feeding = asyncio.ensure_future(offload("proc", _feed, sink, data))
    try:
        return await store.layers.unpack(descriptor, source)
    finally:
        os.close(source)
        await feeding


async def pull(store: Store, image: RemoteImage, blobs: Sequence[Blob]) -> StoredImage:
    """What the pull flow does with the store."""
    ids = store.layers.chain_ids([b.descriptor.diff_id for b in blobs])
    present = await store.layers.present(ids)
    parent, size = "", 0
    for layer_id, blob in zip(ids, blobs, strict=True):
        if layer_id not in present:
            layer = await unpack(store, blob.descriptor, blob.data)
            await store.layers.commit(layer, layer_id, parent)
            size += layer.diff_size
        parent = layer_id
    return await store.images.record(image, parent, size)


@dataclass(frozen=True)
class Entry:
    """A StoreEntry by shape."""

    id: str
    names: tuple[str, ...] = ()
    image_id: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    mount_label: str = ""
    process_label: str = ""
    uid_map: tuple[object, ...] = ()
    gid_map: tuple[object, ...] = ()


class _Userns:
    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        pass


class FakeKernel:
    """Remembers what is mounted where; nothing is mounted."""

    def __init__(self) -> None:
        self.mounted: dict[str, list[tuple[object, ...]]] = {}
        self.calls: list[tuple[object, ...]] = []
        self.fail: OSError | None = None

    def _mount(self, target: str, *what: object) -> None:
        if self.fail:
            raise self.fail
        assert os.path.isdir(target)
        self.calls.append((target, *what))
        self.mounted.setdefault(target, []).append(what)

    def overlay(self, lowers, upper, work, target, options=(), *, classic=False) -> None:
        assert classic is not self.probe().get("lowerdir_plus", False)
        assert all(os.path.isdir(lower) or "/mapped/" in lower for lower in lowers)
        self._mount(target, "overlay", tuple(lowers), upper, work, tuple(options))

    def bind(self, source, target, *, recursive=False, readonly=False, propagation=None, attrs=()) -> None:
        self._mount(target, "bind", source, propagation)

    def idmapped_bind(self, source, target, userns_fd, *, recursive=False, readonly=False) -> None:
        self._mount(target, "idmapped", source, userns_fd)

    def umount(self, target: str, *, detach: bool = True) -> bool:
        stack = self.mounted.get(target)
        if not stack:
            return False
        stack.pop()
        return True

    def is_mountpoint(self, path: str) -> bool:
        return bool(self.mounted.get(path))

    def probe(self, dir: str = "/", userns_fd: int = -1) -> dict[str, bool]:
        return {"volatile": True, "idmap": True, "overlay_idmap": True, "lowerdir_plus": True}

    def hold_userns(self, uid_map, gid_map) -> _Userns:
        self.calls.append(("userns", tuple(uid_map), tuple(gid_map)))
        return _Userns()


def settings(tmp: Path, **more: object) -> Settings:
    return Settings(root=str(tmp / "root"), run_root=str(tmp / "run"), **more)  # type: ignore[arg-type]


BUSY = {"bin": None, "bin/busybox": b"#!", "etc": None, "etc/passwd": b"root:x:0:0::/:/bin/sh\n"}
EXTRA = {"app": None, "app/data": b"x" * 5000, "etc": None, "etc/.wh.passwd": b""}
