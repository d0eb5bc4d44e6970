"""Layers encrypted as by the tools that push them, written here once more to test how they are opened."""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from tests.unit.drivers.layers.support import Blob, digest

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int) -> str:
    return b64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def pem(key: Private, password: bytes = b"", form: Any = serialization.PrivateFormat.PKCS8) -> bytes:
    shut = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, shut)


def jwk(key: Private) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        n = key.private_numbers()
        parts = {"p": n.p, "q": n.q, "d": n.d, "dp": n.dmp1, "dq": n.dmq1, "qi": n.iqmp}
        parts |= {"n": n.public_numbers.n, "e": n.public_numbers.e}
        return json.dumps({"kty": "RSA", **{k: number(v) for k, v in parts.items()}}).encode()
    m = key.private_numbers()
    point = m.public_numbers
    curve = CURVES[key.curve.name]
    return json.dumps(
        {"kty": "EC", "crv": curve, "x": number(point.x), "y": number(point.y), "d": number(m.private_value)}
    ).encode()


def recipient(key: Private, content_key: bytes, oaep: str = "RSA-OAEP") -> dict[str, Any]:
    """A content key wrapped for the owner of a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        h = hashes.SHA1() if oaep == "RSA-OAEP" else hashes.SHA256()
        wrapped = key.public_key().encrypt(content_key, padding.OAEP(padding.MGF1(h), h, None))
        return {"header": {"alg": oaep}, "encrypted_key": b64url(wrapped)}
    own = ec.generate_private_key(key.curve)
    point = own.public_key().public_numbers()
    info = b"\0\0\0\x0eECDH-ES+A256KW" + bytes(8) + (256).to_bytes(4, "big")
    wrap = ConcatKDFHash(hashes.SHA256(), 32, info).derive(own.exchange(ec.ECDH(), key.public_key()))
    epk = {"kty": "EC", "crv": CURVES[key.curve.name], "x": number(point.x), "y": number(point.y)}
    return {
        "header": {"alg": "ECDH-ES+A256KW", "epk": epk},
        "encrypted_key": b64url(aes_key_wrap(wrap, content_key)),
    }


def encrypt(content: bytes, keys: Sequence[Private], oaep: str = "RSA-OAEP") -> dict[str, Any]:
    """A JWE for the owners of the keys; flattened for one of them."""
    content_key, iv = os.urandom(32), os.urandom(12)
    recipients = [recipient(key, content_key, oaep) for key in keys]
    header: dict[str, Any] = {"enc": "A256GCM"}
    if len(recipients) == 1:
        header |= recipients[0].pop("header")
    protected = b64url(json.dumps(header).encode())
    sealed = AESGCM(content_key).encrypt(iv, content, protected.encode())
    out = {"protected": protected, "iv": b64url(iv), "ciphertext": b64url(sealed[:-16]), "tag": b64url(sealed[-16:])}
    return out | (recipients[0] if len(recipients) == 1 else {"recipients": recipients})


def seal(
    blob: Blob,
    *keys: Private,
    change: Callable[[dict[str, Any], dict[str, Any]], Any] = lambda private, public: None,
    damage: Callable[[bytes], bytes] = lambda data: data,
) -> Blob:
    """An encrypted layer. ``change`` may alter its private and public options, ``damage`` the ciphertext (the manifest
    is made for what comes out)."""
    key, nonce = os.urandom(32), os.urandom(16)
    stream = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
    data = stream.update(blob.data) + stream.finalize()
    mac = hmac.digest(key, data, "sha256")
    private: dict[str, Any] = {
        "symkey": base64.b64encode(key).decode(),
        "digest": blob.descriptor.digest,
        "cipheroptions": {"nonce": base64.b64encode(nonce).decode()},
    }
    public = {"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": base64.b64encode(mac).decode(), "cipheroptions": {}}
    change(private, public)
    jwe = json.dumps(encrypt(json.dumps(private).encode(), keys)).encode()
    data = damage(data)
    annotations = {
        "org.opencontainers.image.enc.keys.jwe": base64.b64encode(jwe).decode(),
        "org.opencontainers.image.enc.pubopts": base64.b64encode(json.dumps(public).encode()).decode(),
    }
    descriptor = replace(
        blob.descriptor,
        digest=digest(data),
        size=len(data),
        media_type=blob.descriptor.media_type + "+encrypted",
        annotations=annotations,
    )
    return Blob(data, descriptor)
