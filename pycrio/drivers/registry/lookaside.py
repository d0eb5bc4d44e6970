"""Where signatures of images are kept: registries.d, lookaside stores and sigstore attachments.

Formats: man 5 containers-registries.d, the lookaside layout of containers-signature, cosign's tags for them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from pycrio._native.pools import offload
from pycrio.drivers.registry import manifest as manifests
from pycrio.drivers.registry.endpoint import Endpoint
from pycrio.drivers.registry.policy import scopes
from pycrio.drivers.registry.reference import Reference
from pycrio.drivers.registry.settings import Limits
from pycrio.drivers.registry.signatures import SIGSTORE_PAYLOAD, Signature, SigstoreSignature, SimpleSignature
from pycrio.drivers.registry.transport import Transport, read_bounded, refusal
from pycrio.drivers.registry.trouble import Trouble
from pycrio.errors import BadImage, ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """A section of registries.d: ``url`` of a lookaside store ("": none), and whether attachments are looked for."""

    url: str = ""
    attachments: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """All of registries.d."""

    default: Place = field(default_factory=Place)
    docker: Mapping[str, Place] = field(default_factory=dict)

    def place(self, references: Sequence[Reference]) -> tuple[Place, Reference]:
        """The section for an image that has several names, the first name that has one winning, and that name."""
        for reference in references:
            for scope in scopes(reference):
                if scope in self.docker:
                    return self.docker[scope], reference
        return self.default, references[0]


def load(directory: str) -> Places:
    """Read every ``*.yaml`` of a directory; ConfigError when one is malformed or two speak of the same scope."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".yaml"))
    except FileNotFoundError:
        return Places()
    except OSError as error:
        raise ConfigError([f"{directory}: {error.strerror}"]) from error
    found: dict[str, Place] = {}
    for name in names:
        path = os.path.join(directory, name)
        for scope, place in _read(path).items():
            if scope in found:
                raise ConfigError([f"{path}: {scope or 'default-docker'} is described in another file already"])
            found[scope] = place
    return Places(found.pop("", Place()), found)


def _read(path: str) -> dict[str, Place]:
    """Sections of one file by scope, "" for default-docker."""
    import yaml

    try:
        with open(path, "rb") as file:
            document = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    if document is None:
        return {}
    sections = document.get("docker", {}) if isinstance(document, dict) else None
    if sections is None and isinstance(document, dict):
        sections = {}  # ``docker:`` with nothing below it
    if not isinstance(sections, dict):
        raise ConfigError([f"{path}: not a mapping with default-docker and docker"])
    out = {str(scope).rstrip("/"): _place(section, path) for scope, section in sections.items()}
    if "" in out:
        raise ConfigError([f"{path}: docker has a section without a name"])
    if document.get("default-docker"):
        out[""] = _place(document["default-docker"], path)
    return out


def _place(section: Any, path: str) -> Place:
    table = section if section is not None else {}
    if not isinstance(table, dict):
        raise ConfigError([f"{path}: a section must be a mapping"])
    url = table.get("lookaside") or table.get("sigstore") or ""
    attachments = table.get("use-sigstore-attachments", False)
    if not isinstance(url, str) or not isinstance(attachments, bool):
        raise ConfigError([f"{path}: lookaside must be an address and use-sigstore-attachments true or false"])
    if url and urlsplit(url).scheme not in ("file", "http", "https"):
        raise ConfigError([f"{path}: lookaside {url!r} is neither a file nor an HTTP address"])
    return Place(url.rstrip("/"), attachments)


async def from_lookaside(
    place: Place, reference: Reference, digest: str, transport: Transport, limits: Limits
) -> list[Signature]:
    """The simple signatures that a lookaside store has for a manifest. Trouble when it does not work."""
    out: list[Signature] = []
    stem = f"{place.url}/{quote(reference.path)}@{digest.replace(':', '=')}"
    for number in range(1, limits.signatures + 1):
        blob = await _lookaside_file(f"{stem}/signature-{number}", transport, limits)
        if blob is None:
            return out
        out.append(SimpleSignature(blob))
    raise Trouble("bad", f"its lookaside store has more than {limits.signatures} signatures")


async def _lookaside_file(url: str, transport: Transport, limits: Limits) -> bytes | None:
    """One file, None when there is none."""
    if url.startswith("file:"):
        return await offload("store", _local_file, urlsplit(url).path, limits.signature)
    try:
        return await asyncio.wait_for(_remote_file(url, transport, limits), limits.small)
    except (asyncio.TimeoutError, TimeoutError):
        raise Trouble("stalled", f"its signature {url} did not arrive within {limits.small:g} s") from None


async def _remote_file(url: str, transport: Transport, limits: Limits) -> bytes | None:
    async with transport.exchange(url, {}, insecure=False) as response:
        if response.status == 404:
            return None
        if response.status != 200:
            raise await refusal(response, limits.error)
        return await read_bounded(response, limits.signature, "a signature")


def _local_file(path: str, limit: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Trouble("protocol", f"its signature {path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise Trouble("bad", f"its signature {path} is longer than {limit} bytes")
    return data


async def from_attachments(endpoint: Endpoint, digest: str, limits: Limits) -> list[Signature]:
    """The sigstore signatures attached to a manifest in its repository. Trouble when that does not work."""
    try:
        found = await endpoint.manifest(f"{digest.replace(':', '-')}.sig", manifests.ACCEPT)
    except Trouble as trouble:
        if trouble.status == 404:
            return []
        raise
    out: list[Signature] = []
    try:
        document = manifests.parse_json(found.body, "its signature attachment")
        manifest = manifests.parse_manifest(document, manifests.OCI_MANIFEST, limits.signatures)
        for layer in manifest.layers:
            if layer.media_type != SIGSTORE_PAYLOAD:
                continue
            if layer.size > limits.signature:
                raise BadImage(f"its signature {layer.digest} is longer than {limits.signature} bytes")
            payload = await endpoint.blob(layer.digest, layer.size, "its signature")
            if manifests.digest_of(payload, layer.digest) != layer.digest:
                raise BadImage(f"its signature {layer.digest} came with another digest")
            out.append(SigstoreSignature(payload, layer.annotations))
    except BadImage as error:
        raise Trouble("bad", str(error)) from error
    return out


async def gather(
    directory: str, endpoint: Endpoint, wanted: Reference, digests: Sequence[str], transport: Transport, limits: Limits
) -> list[list[Signature]]:
    """Every signature for some manifest digests of an image, a list for each, from wherever registries.d says: the
    lookaside store first, then attachments. Trouble, ConfigError."""
    places = await offload("store", load, directory)
    # The physical name first, as other tools do; an operator who configured the name that users see is understood too.
    place, name = places.place((endpoint.source.reference, wanted))
    out: list[list[Signature]] = []
    for digest in digests:
        found: list[Signature] = []
        if place.url:
            found += await from_lookaside(place, name, digest, transport, limits)
        if place.attachments:
            found += await from_attachments(endpoint, digest, limits)
        out.append(found)
    return out
