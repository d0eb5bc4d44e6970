"""Sigstore signatures: by fixed keys, by Fulcio certificates with a Rekor log entry, or by certificates of a CA.

Formats: cosign's signature specification, Rekor's hashedrekord entries, Fulcio's certificate extensions. Everything
works offline from what is attached to the image. Imported with the first policy that needs it (cryptography is heavy).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from pycrio.drivers.registry import certchain
from pycrio.drivers.registry.signatures import BadSignature, SigstoreSignature

SIGNATURE = "dev.cosignproject.cosign/signature"
CERTIFICATE = "dev.sigstore.cosign/certificate"
CHAIN = "dev.sigstore.cosign/chain"
BUNDLE = "dev.sigstore.cosign/bundle"
_ISSUER_OLD = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a certificate must have been issued to; "" where it does not matter."""

    email: str = ""
    issuer: str = ""
    hostname: str = ""


def load_keys(blobs: Sequence[bytes], what: str) -> list[PublicKey]:
    """Public keys of PEM texts (any number in each); BadSignature for kinds that cannot be used."""
    out: list[PublicKey] = []
    for blob in blobs:
        blocks = [match.group(0).encode() for match in _PEM.finditer(blob.decode("ascii", "replace"))]
        if not blocks:
            raise BadSignature(f"{what} is no PEM public key")
        for block in blocks:
            out.append(_usable(_parse_key(block, what), what))
    return out


def _parse_key(block: bytes, what: str) -> object:
    try:
        return serialization.load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm):
        raise BadSignature(f"{what} is no PEM public key") from None


def _usable(key: object, what: str) -> PublicKey:
    if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey)):
        raise BadSignature(f"{what} is a key of an unsupported kind")
    return key


def signed_by(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """True when the key made the signature, as cosign does it for each kind of key."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def raw_signature(signature: SigstoreSignature) -> bytes:
    """The signature proper; BadSignature when it is not there."""
    return _base64(signature.annotations.get(SIGNATURE, ""), "its signature annotation")


def _base64(text: object, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise BadSignature(f"{what} is missing or malformed")
    return data


def verify_with_keys(signature: SigstoreSignature, keys: Sequence[PublicKey], rekor: Sequence[PublicKey]) -> None:
    """Accept a signature by one of the keys, with ``rekor`` keys only if the log has recorded it."""
    raw = raw_signature(signature)
    for key in keys:
        if signed_by(key, raw, signature.payload):
            if rekor:
                pem = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
                logged_time(signature, rekor, pem)
            return
    raise BadSignature("it was not made by a key of the policy")


def verify_with_fulcio(
    signature: SigstoreSignature, roots: Sequence[bytes], rekor: Sequence[PublicKey], person: Person
) -> None:
    """Accept a signature by a certificate that was valid when the log recorded it."""
    leaf = _leaf(signature)
    when = logged_time(signature, rekor, leaf.public_bytes(serialization.Encoding.DER))
    trusted = [cert for pem in roots for cert in certchain.load(pem, "the policy's Fulcio CA")]
    certchain.verify(leaf, _chain(signature), trusted, when)
    _check_person(leaf, person)
    _check_by_leaf(signature, leaf)


def verify_with_pki(
    signature: SigstoreSignature, roots: Sequence[bytes], intermediates: Sequence[bytes], person: Person
) -> None:
    """Accept a signature by a certificate that is valid now."""
    leaf = _leaf(signature)
    trusted = [cert for pem in roots for cert in certchain.load(pem, "the policy's root CA")]
    between = [cert for pem in intermediates for cert in certchain.load(pem, "the policy's intermediate CA")]
    certchain.verify(leaf, [*between, *_chain(signature)], trusted, datetime.now(timezone.utc))
    _check_person(leaf, person)
    _check_by_leaf(signature, leaf)


def _check_by_leaf(signature: SigstoreSignature, leaf: x509.Certificate) -> None:
    key = _usable(leaf.public_key(), "its certificate's key")
    if not signed_by(key, raw_signature(signature), signature.payload):
        raise BadSignature("it was not made by its certificate's key")


def _leaf(signature: SigstoreSignature) -> x509.Certificate:
    pem = signature.annotations.get(CERTIFICATE, "")
    if not pem:
        raise BadSignature("it has no certificate")
    found = certchain.load(pem.encode(), "its certificate")
    if len(found) != 1:
        raise BadSignature("it has more than one certificate")
    return found[0]


def _chain(signature: SigstoreSignature) -> list[x509.Certificate]:
    pem = signature.annotations.get(CHAIN, "")
    return certchain.load(pem.encode(), "its certificate chain") if pem else []


def _check_person(leaf: x509.Certificate, person: Person) -> None:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise BadSignature("its certificate names nobody") from None
    emails = names.get_values_for_type(x509.RFC822Name)
    hosts = names.get_values_for_type(x509.DNSName)
    if person.email and person.email not in emails:
        raise BadSignature(f"its certificate is for {', '.join(emails)[:200] or 'nobody'}, not for {person.email}")
    if person.hostname and person.hostname.lower() not in (host.lower() for host in hosts):
        raise BadSignature(f"its certificate is for {', '.join(hosts)[:200] or 'no host'}, not for {person.hostname}")
    if person.issuer and (found := _oidc_issuer(leaf)) != person.issuer:
        raise BadSignature(f"its certificate relies on the OIDC issuer {found[:200]!r}, not on {person.issuer!r}")


def _oidc_issuer(leaf: x509.Certificate) -> str:
    """Who vouched for the person, by Fulcio's extensions: raw text in the old one, a DER UTF8String in the new."""
    found: set[str] = set()
    for extension in leaf.extensions:
        if not isinstance(extension.value, x509.UnrecognizedExtension):
            continue
        data = extension.value.value
        if extension.oid == _ISSUER_OLD:
            found.add(data.decode("utf-8", "replace"))
        elif extension.oid == _ISSUER:
            if len(data) < 2 or data[0] != 0x0C or data[1] > 127 or len(data) != data[1] + 2:
                raise BadSignature("its certificate has a malformed OIDC issuer")
            found.add(data[2:].decode("utf-8", "replace"))
    if len(found) != 1:
        raise BadSignature("its certificate does not name one OIDC issuer")
    return found.pop()


def logged_time(signature: SigstoreSignature, rekor: Sequence[PublicKey], signer: bytes) -> datetime:
    """When the log recorded this signature by this signer (DER of key or certificate), proven by the log's promise."""
    bundle = _json(signature.annotations.get(BUNDLE, ""), "its log entry")
    promise = _base64(bundle.get("SignedEntryTimestamp"), "the timestamp of its log entry")
    entry = bundle.get("Payload")
    if not isinstance(entry, dict) or set(entry) != {"body", "integratedTime", "logIndex", "logID"}:
        raise BadSignature("its log entry is malformed")
    # What the log signed is the canonical form (RFC 8785); for these ASCII strings and integers that is this.
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    if not any(signed_by(key, promise, canonical) for key in rekor):
        raise BadSignature("its log entry was not made by the log of the policy")
    when = entry["integratedTime"]
    if isinstance(when, bool) or not isinstance(when, int) or not 0 < when < 1 << 33:
        raise BadSignature("its log entry has a malformed time")
    _check_entry(
        _json(_base64(entry["body"], "its log entry").decode("utf-8", "replace"), "its log entry"), signature, signer
    )
    return datetime.fromtimestamp(when, timezone.utc)


def _check_entry(body: dict[str, Any], signature: SigstoreSignature, signer: bytes) -> None:
    """The entry must be about this very payload, signature and signer."""
    if (body.get("kind"), body.get("apiVersion")) != ("hashedrekord", "0.0.1"):
        raise BadSignature(f"its log entry is of the unknown kind {str(body.get('kind'))[:50]!r}")
    try:
        spec = body["spec"]
        hashed = spec["data"]["hash"]
        recorded = _base64(spec["signature"]["content"], "its log entry")
        public = _base64(spec["signature"]["publicKey"]["content"], "its log entry").decode("ascii")
        algorithm, value = hashed["algorithm"], hashed["value"]
    except (KeyError, TypeError, UnicodeDecodeError):
        raise BadSignature("its log entry is malformed") from None
    blocks = list(_PEM.finditer(public))
    if len(blocks) != 1 or _base64("".join(blocks[0].group(2).split()), "its log entry") != signer:
        raise BadSignature("its log entry is about another signer")
    if recorded != raw_signature(signature):
        raise BadSignature("its log entry is about another signature")
    if algorithm != "sha256" or value != hashlib.sha256(signature.payload).hexdigest():
        raise BadSignature("its log entry is about another payload")


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BadSignature(f"{what} is missing or malformed")
    return document
