"""Making signatures for tests: GPG keys, cosign payloads, a Fulcio-like CA and a Rekor-like log of our own."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pycrio.drivers.registry.signatures import COSIGN_TYPE, SIMPLE_TYPE, SigstoreSignature

NOW = datetime.datetime(2024, 5, 1, 12, 0, tzinfo=datetime.timezone.utc)
ISSUER_OLD = "1.3.6.1.4.1.57264.1.1"
ISSUER_NEW = "1.3.6.1.4.1.57264.1.8"


def payload(digest: str, reference: str, kind: str = SIMPLE_TYPE) -> bytes:
    critical = {
        "type": kind,
        "image": {"docker-manifest-digest": digest},
        "identity": {"docker-reference": reference},
    }
    return json.dumps({"critical": critical, "optional": {}}).encode()


class Gpg:
    """A GPG home with one key."""

    def __init__(self, home: pathlib.Path) -> None:
        home.mkdir(mode=0o700)
        self._environ = {**os.environ, "GNUPGHOME": str(home)}
        self._run("--passphrase", "", "--quick-generate-key", f"{home.name} <{home.name}@test.invalid>", "ed25519")

    def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--batch", "--quiet", "--yes", *arguments]
        return subprocess.run(command, env=self._environ, input=stdin, capture_output=True, check=True).stdout

    def public(self, *, armor: bool = False) -> bytes:
        return self._run(*(["--armor"] if armor else []), "--export")

    def sign(self, data: bytes, *options: str) -> bytes:
        return self._run(*(options or ("--sign",)), stdin=data)

    def close(self) -> None:
        subprocess.run(["gpgconf", "--kill", "all"], env=self._environ, check=True)


def pem(key: Any) -> bytes:
    """Public key of a private one."""
    public = key.public_key() if hasattr(key, "public_key") else key
    data: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def cert_pem(*certs: x509.Certificate) -> bytes:
    return b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in certs)


def cosign(key: Any, digest: str, reference: str, **annotations: str) -> SigstoreSignature:
    """What ``cosign sign --key`` attaches, for an elliptic curve key."""
    data = payload(digest, reference, COSIGN_TYPE)
    raw = key.sign(data, ec.ECDSA(hashes.SHA256()))
    return SigstoreSignature(
        data, {"dev.cosignproject.cosign/signature": base64.b64encode(raw).decode(), **annotations}
    )


@dataclass
class Authority:
    """A CA with an intermediate; ``change`` lets a test spoil a certificate."""

    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    between_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    intermediate_ca: bool = True
    intermediate_usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING

    def __post_init__(self) -> None:
        self.root = self._ca("root", self.key, "root", self.key, 1)
        self.intermediate = self._ca("between", self.between_key, "root", self.key, 0)

    def _ca(self, subject: str, key: Any, issuer: str, signer: Any, length: int) -> x509.Certificate:
        builder = self._base(subject, key.public_key(), issuer, datetime.timedelta(days=3650))
        between = subject != "root"
        is_ca = self.intermediate_ca or not between
        builder = builder.add_extension(x509.BasicConstraints(is_ca, length if is_ca else None), critical=True)
        if between:
            builder = builder.add_extension(x509.ExtendedKeyUsage([self.intermediate_usage]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    def _base(self, subject: str, key: Any, issuer: str, life: datetime.timedelta) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])

        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(minutes=5))
            .not_valid_after(NOW + life)
        )

    def leaf(
        self,
        key: Any,
        email: str = "dev@test.invalid",
        *,
        issuer: str = "https://idp.test.invalid",
        oid: str = ISSUER_NEW,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
        life: datetime.timedelta = datetime.timedelta(minutes=10),
        critical: str = "",
    ) -> x509.Certificate:
        """A signing certificate as Fulcio issues it."""
        builder = self._base("", key.public_key(), "between", life)
        names = [x509.RFC822Name(email), x509.DNSName("builder.test.invalid")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        text = issuer.encode()
        value = text if oid == ISSUER_OLD else b"\x0c" + bytes([len(text)]) + text
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
        if critical:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"\x05\x00")
            builder = builder.add_extension(unknown, critical=True)
        return builder.sign(self.between_key, hashes.SHA256())


@dataclass
class Log:
    """A transparency log that signs promises."""

    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def entry(self, made: SigstoreSignature, signer: bytes, *, when: int = 0, **change: Any) -> str:
        """The bundle annotation for a signature; ``signer`` is PEM, ``change`` replaces parts of the entry's spec."""
        spec: dict[str, Any] = {
            "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(made.payload).hexdigest()}},
            "signature": {
                "content": made.annotations["dev.cosignproject.cosign/signature"],
                "publicKey": {"content": base64.b64encode(signer).decode()},
            },
        }
        spec.update(change)
        body = {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec}
        entry = {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "integratedTime": when or int(NOW.timestamp()),
            "logIndex": 7,
            "logID": "c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d",
        }
        canonical = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        promise = base64.b64encode(self.key.sign(canonical, ec.ECDSA(hashes.SHA256()))).decode()
        return json.dumps({"SignedEntryTimestamp": promise, "Payload": entry})
