"""Image signatures as values: how they are kept in the store and what their payload claims. No cryptography here.

Payloads are the JSON documents of simple signing (man 5 containers-signature), which cosign uses as well.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

SIGSTORE_MAGIC = b"\0sigstore-json\n"
SIGSTORE_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIMPLE_TYPE = "atomic container signature"
COSIGN_TYPE = "cosign container image signature"


class BadSignature(Exception):
    """A signature that must not be trusted; the text says why."""


@dataclass(frozen=True, slots=True)
class SimpleSignature:
    """An OpenPGP message."""

    blob: bytes

    def stored(self) -> bytes:
        """The form in which the store keeps it."""
        return self.blob


@dataclass(frozen=True, slots=True)
class SigstoreSignature:
    """A payload with its signature, certificates and log entry as annotations."""

    payload: bytes
    annotations: dict[str, str] = field(default_factory=dict)
    media_type: str = SIGSTORE_PAYLOAD

    def stored(self) -> bytes:
        """The form in which the store keeps it."""
        document = {
            "mimeType": self.media_type,
            "payload": base64.b64encode(self.payload).decode(),
            "annotations": self.annotations,
        }
        return SIGSTORE_MAGIC + json.dumps(document, separators=(",", ":")).encode()


Signature = SimpleSignature | SigstoreSignature


def parse_stored(blob: bytes) -> Signature:
    """Read a blob of the store. BadSignature when it has an unknown form."""
    if not blob.startswith(b"\0"):
        return SimpleSignature(blob)
    if not blob.startswith(SIGSTORE_MAGIC):
        raise BadSignature("a signature in an unknown format is kept with the image")
    try:
        document = json.loads(blob[len(SIGSTORE_MAGIC) :])
        payload = base64.b64decode(document["payload"], validate=True)
        annotations = {str(key): str(value) for key, value in (document.get("annotations") or {}).items()}
        return SigstoreSignature(payload, annotations, str(document["mimeType"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise BadSignature("a malformed sigstore signature is kept with the image") from None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a payload says: this manifest is (was, when it was signed) the image of this name."""

    digest: str
    reference: str


def parse_claim(payload: bytes, kind: str) -> Claim:
    """Read a verified payload. BadSignature for anything unexpected in its critical part."""
    try:
        document = json.loads(payload, object_pairs_hook=_unique)
        critical = _exactly(document["critical"], {"type", "image", "identity"})
        image = _exactly(critical["image"], {"docker-manifest-digest"})
        identity = _exactly(critical["identity"], {"docker-reference"})
        digest, reference = image["docker-manifest-digest"], identity["docker-reference"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSignature(f"its payload is malformed ({str(error)[:100]})") from None
    if critical["type"] != kind:
        raise BadSignature(f"its payload is of type {str(critical['type'])[:100]!r}, not {kind!r}")
    if not isinstance(digest, str) or not isinstance(reference, str):
        raise BadSignature("its payload is malformed")
    return Claim(digest, reference)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is given twice")
    return out


def _exactly(value: Any, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != keys:
        raise ValueError("unexpected fields")
    return value
