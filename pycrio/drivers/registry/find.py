"""One image at one place: from tag or digest to a verified manifest and config for a platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pycrio.drivers.registry import manifest as manifests
from pycrio.drivers.registry.endpoint import Document, Endpoint
from pycrio.drivers.registry.platforms import Platform, choose
from pycrio.drivers.registry.settings import Limits
from pycrio.drivers.registry.trouble import Trouble
from pycrio.errors import BadImage, Unsupported
from pycrio.model.image import LayerDescriptor


@dataclass(frozen=True, slots=True)
class Found:
    """What a registry has for a reference, all of it verified against digests. ``index`` b"" without one."""

    body: bytes
    digest: str
    manifest: manifests.Manifest
    config: bytes
    layers: tuple[LayerDescriptor, ...]
    index: bytes = b""
    index_digest: str = ""

    @property
    def digests(self) -> tuple[str, ...]:
        """Every manifest digest that leads here, the most specific first."""
        return (self.digest, self.index_digest) if self.index_digest else (self.digest,)


@dataclass(frozen=True, slots=True)
class Kept:
    """Documents that the node has already, by digest. ``top``: whoever asks may have the manifest that the reference
    itself names from there; otherwise the registry decides about that one."""

    document: Callable[[str], Awaitable[bytes | None]] | None = None
    top: bool = False

    async def get(self, digest: str) -> bytes | None:
        """The document; None when absent or not what its digest says."""
        data = await self.document(digest) if self.document is not None else None
        return data if data is not None and manifests.digest_of(data, digest) == digest else None

    async def manifest(self, digest: str) -> Document | None:
        """A manifest or index that says itself what it is: without, what counts is the registry's header."""
        data = await self.get(digest)
        if data is None or not isinstance(manifests.parse_json(data, "its manifest").get("mediaType"), str):
            return None
        return Document(data, "", digest)


async def find(endpoint: Endpoint, platform: Platform, limits: Limits, kept: Kept) -> Found:
    """Look an image up; raises Trouble, whatever is wrong."""
    try:
        return await _find(endpoint, platform, limits, kept)
    except BadImage as error:
        raise Trouble("bad", str(error)) from error
    except Unsupported as error:
        raise Trouble("unsupported", str(error)) from error


async def _find(endpoint: Endpoint, platform: Platform, limits: Limits, kept: Kept) -> Found:
    reference = endpoint.source.reference
    wanted = reference.digest or reference.tag
    known = await kept.manifest(reference.digest) if reference.digest and kept.top else None
    top = known or await endpoint.manifest(wanted, manifests.ACCEPT)
    digest = _verified(top, reference.digest)
    body, kind, document = _read(top)
    index, index_digest = (body, digest) if kind in manifests.INDEXES else (b"", "")
    depth = 0
    while kind in manifests.INDEXES:
        depth += 1
        if depth > limits.index_depth:
            raise BadImage(f"its indexes are nested more than {limits.index_depth} deep")
        entry = _chosen(document, platform, limits)
        if entry.size > limits.manifest:
            raise BadImage(f"its manifest {entry.digest} has {entry.size} bytes, more than {limits.manifest}")
        below = await kept.manifest(entry.digest) or await endpoint.manifest(entry.digest, manifests.ACCEPT)
        digest = _verified(below, entry.digest)
        if len(below.body) != entry.size:
            raise BadImage(f"its manifest {digest} has {len(below.body)} bytes, its index says {entry.size}")
        body, kind, document = _read(below)
    found = manifests.parse_manifest(document, kind, limits.layers)
    config = await kept.get(found.config.digest)
    if config is None or len(config) != found.config.size:
        config = await _config(endpoint, found, limits)
    diff_ids = () if found.artifact_type else manifests.parse_config(config, found, platform)
    return Found(body, digest, found, config, manifests.layers_of(found, diff_ids), index, index_digest)


def _verified(document: Document, wanted: str) -> str:
    """The digest of a manifest; Trouble unless it is the one asked for and the one claimed."""
    digest = manifests.digest_of(document.body, wanted or "sha256")
    if wanted and digest != wanted:
        raise BadImage(f"asked for manifest {wanted}, got content with digest {digest}")
    claimed = document.claimed
    if not wanted and claimed.startswith("sha256:") and claimed != digest:
        raise BadImage(f"its manifest is announced as {claimed} and has digest {digest}")
    return digest


def _read(document: Document) -> tuple[bytes, str, Mapping[str, Any]]:
    parsed = manifests.parse_json(document.body, "its manifest")
    return document.body, manifests.media_type_of(parsed, document.media_type), parsed


def _chosen(document: Mapping[str, Any], platform: Platform, limits: Limits) -> manifests.Descriptor:
    entries = manifests.parse_index(document, limits.index_entries)
    entry = choose(entries, platform)
    if entry is None and len(entries) == 1 and "platform" not in entries[0]:
        entry = entries[0]  # an index around a single artifact or image says no platform
    if entry is None:
        raise BadImage(f"its index has no image for {platform}")
    return manifests.descriptor(entry, f"the entry for {platform} of its index")


async def _config(endpoint: Endpoint, found: manifests.Manifest, limits: Limits) -> bytes:
    wanted = found.config
    if wanted.size > limits.config:
        raise BadImage(f"its config has {wanted.size} bytes, more than the {limits.config} that are accepted")
    data = await endpoint.blob(wanted.digest, wanted.size, "its config")
    if len(data) != wanted.size:
        raise BadImage(f"its config has {len(data)} bytes, its manifest says {wanted.size}")
    digest = manifests.digest_of(data, wanted.digest)
    if digest != wanted.digest:
        raise BadImage(f"its config {wanted.digest} came with digest {digest}")
    return data
