"""Documents of an image layout, parsed and written without I/O (image-spec: image-layout.md, manifest.md).

Layouts of additional stores were written by others, and manifests come from registries: what does not have the form
that it should have raises BadImage, and the caller says of which artifact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pycrio.errors import BadImage

VERSION_FILE = "oci-layout"
VERSION = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
# What gives a blob its file name: the image-spec's annotation, then that of the model-spec.
FILE_NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_DIGEST = re.compile(r"sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})\Z")


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest in the index of a layout; ``name`` is "" for one that lost its name. ``other`` are fields and
    annotations that we do not use and keep."""

    digest: str
    size: int
    media_type: str
    name: str = ""
    other: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The digest without its algorithm."""
        return self.digest.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Content:
    """What a manifest says. ``blobs`` are (digest, size, file name) of its layers, ``kept`` every digest it needs."""

    type: str
    blobs: tuple[tuple[str, int, str], ...]
    annotations: dict[str, str]
    kept: frozenset[str]


def blob_path(digest: str) -> str:
    """Where a blob is, from the top of the layout; BadImage for what is no digest (and might lead anywhere)."""
    if not _DIGEST.match(digest):
        raise BadImage(f"{digest[:100]!r} is not a digest")
    return f"blobs/{digest.replace(':', '/')}"


def parse_index(data: bytes) -> tuple[Entry, ...]:
    """The manifests of ``index.json``."""
    entries = _document(data, "its index.json").get("manifests")
    if not isinstance(entries, list):
        raise BadImage("its index.json lists no manifests")
    return tuple(_entry(entry) for entry in entries)


def _entry(value: Any) -> Entry:
    digest, size, kind = _descriptor(value, "an entry of its index.json")
    annotations = _texts(value.get("annotations"))
    other = {k: v for k, v in value.items() if k not in ("digest", "size", "mediaType", "annotations")}
    rest = {k: v for k, v in annotations.items() if k != REF_NAME}
    return Entry(
        digest, size, kind, annotations.get(REF_NAME, ""), {**other, **({"annotations": rest} if rest else {})}
    )


def render_index(entries: Iterable[Entry]) -> bytes:
    """``index.json`` of these manifests."""
    manifests = []
    for entry in entries:
        annotations = {**entry.other.get("annotations", {}), **({REF_NAME: entry.name} if entry.name else {})}
        manifests.append(
            {
                **entry.other,
                "mediaType": entry.media_type,
                "digest": entry.digest,
                "size": entry.size,
                **({"annotations": annotations} if annotations else {}),
            }
        )
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}).encode()


def with_entry(entries: Sequence[Entry], new: Entry) -> tuple[Entry, ...]:
    """The index with a manifest known by one name more. A name that another manifest had is taken from it; a manifest
    stays in the index without a name when that was its last one."""
    kept = [e for e in entries if e.name != new.name or not new.name]
    out = [e for e in kept if e.digest != new.digest or e.name]
    for entry in entries:
        if entry.digest != new.digest and not any(e.digest == entry.digest for e in out):
            out.append(replace(entry, name=""))
    return (*out, new)


def without(entries: Sequence[Entry], ident: str, name: str = "") -> tuple[Entry, ...]:
    """The index without a manifest, or without one of its names."""
    return tuple(e for e in entries if e.id != ident or (name and e.name != name))


def parse_manifest(data: bytes) -> Content:
    """What an artifact consists of."""
    document = _document(data, "its manifest")
    config, _, kind = _descriptor(document.get("config"), "its config")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise BadImage("its manifest has no list of layers")
    blobs = []
    for number, layer in enumerate(layers, 1):
        digest, size, _ = _descriptor(layer, f"its layer {number}")
        annotations = _texts(layer.get("annotations"))
        title = next((annotations[key] for key in FILE_NAMES if annotations.get(key)), "")
        blobs.append((digest, size, title or digest))
    stated = document.get("artifactType")
    return Content(
        type=stated if isinstance(stated, str) and stated else kind,
        blobs=tuple(blobs),
        annotations=_texts(document.get("annotations")),
        kept=frozenset({config, *(digest for digest, _, _ in blobs)}),
    )


def _document(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as e:
        raise BadImage(f"{what} is no JSON document ({str(e)[:100]})") from None
    if not isinstance(document, dict):
        raise BadImage(f"{what} is no JSON object")
    return document


def _descriptor(value: Any, what: str) -> tuple[str, int, str]:
    if not isinstance(value, dict):
        raise BadImage(f"{what} has no descriptor")
    digest, size, kind = value.get("digest"), value.get("size"), value.get("mediaType") or ""
    if not isinstance(digest, str) or not _DIGEST.match(digest):
        raise BadImage(f"{what} has the malformed digest {str(digest)[:100]!r}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0 or not isinstance(kind, str):
        raise BadImage(f"{what} has a malformed size or media type")
    return digest, size, kind


def _texts(value: Any) -> dict[str, str]:
    return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}
