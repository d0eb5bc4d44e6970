"""Manifests, indexes and image configs, parsed without I/O (image-spec 1.1, Docker manifest schema 2).

Everything here comes from strangers: each function either returns checked values or raises BadImage (Unsupported for
what is well-formed and beyond us) with a reason that has to be completed by the image's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pycrio.drivers.registry.platforms import Platform
from pycrio.drivers.registry.reference import check_digest
from pycrio.errors import BadImage, Unsupported
from pycrio.model.image import LayerDescriptor

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_V1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_V1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA1 = frozenset({DOCKER_V1, DOCKER_V1_SIGNED})
# Schema 1 is listed so that the registry does not answer 404 and we can say what is wrong.
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, f"{DOCKER_V1_SIGNED};q=0.1"))
_IMAGE_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_FOREIGN = ("application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable.")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A checked content descriptor."""

    digest: str
    size: int
    media_type: str
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked image manifest. ``artifact_type`` is "" for container images."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str]
    artifact_type: str


def digest_of(data: bytes, like: str = "sha256") -> str:
    """The digest of some bytes with an algorithm, or with that of another digest."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object of UTF-8 bytes."""
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise BadImage(f"{what} is no JSON document ({str(error)[:100]})") from None
    if not isinstance(document, dict):
        raise BadImage(f"{what} is no JSON object")
    return document


def media_type_of(document: Mapping[str, Any], header: str) -> str:
    """What kind of document a registry sent: what it says inside, checked against the header and the fields.

    Two readings of the same bytes are the root of CVE-2021-41190; a document that allows them is refused.
    """
    inner = document.get("mediaType") or ""
    known = INDEXES | MANIFESTS | SCHEMA1
    if not isinstance(inner, str) or (inner and inner not in known):
        raise BadImage(f"its manifest is of the unknown type {str(inner)[:100]!r}")
    if inner and header in known and header != inner:
        raise BadImage(f"its manifest is sent as {header} and calls itself {inner}")
    kind = inner or (header if header in known else "")
    if document.get("schemaVersion") == 1 or kind in SCHEMA1:
        raise Unsupported("it has a Docker schema 1 manifest, which is obsolete: push it anew with a current tool")
    if document.get("schemaVersion") != 2:
        raise BadImage(f"its manifest has schemaVersion {str(document.get('schemaVersion'))[:20]!r} instead of 2")
    has_list = "manifests" in document
    has_image = "config" in document or "layers" in document
    if has_list == has_image:
        raise BadImage("its manifest is neither clearly an index nor clearly an image")
    if not kind:
        return OCI_INDEX if has_list else OCI_MANIFEST
    if (kind in INDEXES) != has_list:
        raise BadImage(f"its manifest calls itself {kind} and has the fields of something else")
    return kind


def parse_index(document: Mapping[str, Any], limit: int) -> list[Mapping[str, Any]]:
    """Entries of an index, unchecked but objects."""
    entries = document.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadImage("its index has a malformed list of manifests")
    if len(entries) > limit:
        raise BadImage(f"its index lists {len(entries)} manifests, more than the {limit} that are accepted")
    return entries


def descriptor(value: Any, what: str) -> Descriptor:
    """Check a descriptor."""
    if not isinstance(value, dict):
        raise BadImage(f"{what} has no descriptor")
    digest, size, kind = value.get("digest"), value.get("size"), value.get("mediaType") or ""
    if not isinstance(digest, str) or not check_digest(digest):
        raise BadImage(f"{what} has the malformed digest {str(digest)[:100]!r}")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise BadImage(f"{what} has the malformed size {str(size)[:30]!r}")
    if not isinstance(kind, str):
        raise BadImage(f"{what} has a malformed media type")
    urls = value.get("urls") or []
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise BadImage(f"{what} has malformed urls")
    return Descriptor(digest, size, kind, tuple(urls[:8]), texts(value.get("annotations"), what))


def texts(value: Any, what: str) -> dict[str, str]:
    """Annotations."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BadImage(f"{what} has malformed annotations")
    return value


def parse_manifest(document: Mapping[str, Any], media_type: str, limit: int) -> Manifest:
    """Check an image manifest of at most ``limit`` layers."""
    config = descriptor(document.get("config"), "its config")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise BadImage("its manifest has no list of layers")
    if len(layers) > limit:
        raise BadImage(f"it has {len(layers)} layers, more than the {limit} that are accepted")
    found = tuple(descriptor(layer, f"its layer {number}") for number, layer in enumerate(layers, 1))
    annotations = texts(document.get("annotations"), "its manifest")
    kind = _artifact_type(document, media_type, config)
    encrypted = [layer for layer in found if layer.media_type.endswith("+encrypted")]
    if encrypted and kind:
        raise Unsupported(f"its blob {encrypted[0].digest} is encrypted, which only layers of images may be")
    return Manifest(media_type, config, found, annotations, kind)


def _artifact_type(document: Mapping[str, Any], media_type: str, config: Descriptor) -> str:
    stated = document.get("artifactType") or ""
    if not isinstance(stated, str):
        raise BadImage("its manifest has a malformed artifactType")
    if stated:
        return stated
    if config.media_type in _IMAGE_CONFIGS:
        return ""
    # Old tools wrote Docker images with a config of no particular type.
    if media_type == DOCKER_MANIFEST and config.media_type in ("", "application/octet-stream"):
        return ""
    return config.media_type or "application/octet-stream"


def parse_config(data: bytes, manifest: Manifest, platform: Platform) -> tuple[str, ...]:
    """The diff IDs of a container image's config, one per layer of the manifest."""
    document = parse_json(data, "its config")
    system = document.get("os") or platform.os
    if system != platform.os:
        raise BadImage(f"it is an image for {str(system)[:40]!r}, this node needs {platform.os!r}")
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if diff_ids is None:
        diff_ids = []
    if not isinstance(diff_ids, list) or not all(isinstance(item, str) and check_digest(item) for item in diff_ids):
        raise BadImage("its config has malformed diff_ids")
    if len(diff_ids) != len(manifest.layers):
        raise BadImage(f"its manifest has {len(manifest.layers)} layers and its config {len(diff_ids)} diff_ids")
    return tuple(diff_ids)


def layers_of(manifest: Manifest, diff_ids: tuple[str, ...]) -> tuple[LayerDescriptor, ...]:
    """Layer descriptors for the flows; an artifact's have no diff IDs."""
    padded = diff_ids or ("",) * len(manifest.layers)
    return tuple(
        LayerDescriptor(
            digest=layer.digest,
            size=layer.size,
            media_type=layer.media_type,
            diff_id=diff_id,
            urls=layer.urls if layer.media_type.startswith(_FOREIGN) else (),
            annotations=layer.annotations,
        )
        for layer, diff_id in zip(manifest.layers, padded, strict=True)
    )
