"""Keys of encrypted layers: JSON Web Encryption opened with private keys of a directory (RFC 7516, 7518).

Only what layers are encrypted with is understood: the JSON serialisation, RSA-OAEP and ECDH-ES with AES key wrap, and
AES-GCM for the content. What comes in is a stranger's, so every failure is a ValueError with a reason.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pycrio.obs import log as obslog

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey

log = obslog.get("decrypt")
MOST = 1 << 20
CONTENT = {"A128GCM": 16, "A192GCM": 24, "A256GCM": 32}
WRAPS = {"ECDH-ES+A128KW": 16, "ECDH-ES+A192KW": 24, "ECDH-ES+A256KW": 32}


def private_keys(directory: str) -> list[PrivateKey]:
    """RSA and EC keys of the files in a directory: PEM, DER or JWK. Others, and links, are passed over with a warning.
    A directory that is not there has none."""
    found = []
    for name, content in _files(directory):
        key = _private_key(content)
        if key is None:
            log.warning("File holds no private key that can be used", directory=directory, name=name)
        else:
            found.append(key)
    return found


def _files(directory: str) -> Iterator[tuple[str, bytes]]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(directory, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            log.warning("Key passed over: it is no regular file", path=path)
            continue
        with open(path, "rb") as f:
            yield name, f.read(MOST)


def _private_key(content: bytes) -> PrivateKey | None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if content.lstrip().startswith(b"{"):
        return _jwk(content)
    for load in (serialization.load_pem_private_key, serialization.load_der_private_key):
        try:
            key = load(content, None)
        except (ValueError, TypeError):  # TypeError: it is protected by a password
            continue
        if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            return key
    return None


def _jwk(content: bytes) -> PrivateKey | None:
    """A private JSON Web Key (RFC 7517)."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        document = json.loads(content)
        if document["kty"] == "EC":
            public = ec.EllipticCurvePublicNumbers(
                _number(document["x"]), _number(document["y"]), _curve(document["crv"])
            )
            return ec.EllipticCurvePrivateNumbers(_number(document["d"]), public).private_key()
        if document["kty"] == "RSA":
            p, q, d, dp, dq, qi = (_number(document[name]) for name in ("p", "q", "d", "dp", "dq", "qi"))
            numbers = rsa.RSAPublicNumbers(_number(document["e"]), _number(document["n"]))
            return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, numbers).private_key()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return None


def open_with(text: bytes, keys: Sequence[PrivateKey]) -> bytes | None:
    """The content of a JWE; None when none of the keys opens it. ValueError when it is malformed or uses what is not
    understood."""
    document = _mapping(_json(text), "the JWE")
    protected = _field(document, "protected")
    shared = {**_mapping(_json(_decode(protected)), "its header"), **_optional(document, "unprotected")}
    if "zip" in shared or "crit" in shared:
        raise ValueError("the JWE uses extensions")
    aad = protected + (f".{_field(document, 'aad')}" if "aad" in document else "")
    recipients = document.get("recipients")
    if recipients is None:
        recipients = [{name: document[name] for name in ("header", "encrypted_key") if name in document}]
    if not isinstance(recipients, list):
        raise ValueError("the recipients of the JWE are no list")
    for recipient in recipients:
        one = _mapping(recipient, "a recipient")
        header = {**shared, **_optional(one, "header")}
        size = CONTENT.get(str(header.get("enc")))
        if size is None:
            raise ValueError(f"the JWE has content encryption {header.get('enc')!r}")
        for key in keys:
            content = _content(document, _unwrap(header, _decode(_field(one, "encrypted_key")), key), size, aad)
            if content is not None:
                return content
    return None


def _content(document: Mapping[str, Any], key: bytes | None, size: int, aad: str) -> bytes | None:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if key is None or len(key) != size:
        return None
    sealed = _decode(_field(document, "ciphertext")) + _decode(_field(document, "tag"))
    try:
        return AESGCM(key).decrypt(_decode(_field(document, "iv")), sealed, aad.encode("ascii"))
    except InvalidTag:
        return None


def _unwrap(header: Mapping[str, Any], wrapped: bytes, key: PrivateKey) -> bytes | None:
    """The content key, None when this is not the key that it was wrapped for."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    algorithm = str(header.get("alg"))
    if algorithm in ("RSA-OAEP", "RSA-OAEP-256"):
        if not isinstance(key, rsa.RSAPrivateKey):
            return None
        digest = hashes.SHA1() if algorithm == "RSA-OAEP" else hashes.SHA256()
        try:
            return key.decrypt(wrapped, padding.OAEP(padding.MGF1(digest), digest, None))
        except ValueError:
            return None
    if algorithm not in WRAPS:
        raise ValueError(f"the JWE has key encryption {algorithm!r}")
    return _agree(header, algorithm, wrapped, key) if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _agree(header: Mapping[str, Any], algorithm: str, wrapped: bytes, key: EllipticCurvePrivateKey) -> bytes | None:
    """ECDH-ES with the sender's ephemeral key, then AES key wrap (RFC 7518, 4.6)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
    from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

    sender = _mapping(header.get("epk"), "its ephemeral key")
    curve = _curve(str(sender.get("crv")))
    if curve.name != key.curve.name:
        return None
    point = ec.EllipticCurvePublicNumbers(_number(_field(sender, "x")), _number(_field(sender, "y")), curve)
    secret = key.exchange(ec.ECDH(), point.public_key())
    size = WRAPS[algorithm]
    parties = [_decode(str(header.get(name, ""))) for name in ("apu", "apv")]
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (algorithm.encode(), *parties))
    wrap = ConcatKDFHash(hashes.SHA256(), size, info + (size * 8).to_bytes(4, "big")).derive(secret)
    try:
        return aes_key_unwrap(wrap, wrapped)
    except (InvalidUnwrap, ValueError):
        return None


def _curve(name: str) -> EllipticCurve:
    from cryptography.hazmat.primitives.asymmetric import ec

    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    if name not in curves:
        raise ValueError(f"there is no curve {name!r}")
    return curves[name]


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the JWE is no JSON document") from None


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no JSON object")
    return value


def _optional(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _mapping(document.get(name, {}), f"the JWE's {name}")


def _field(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise ValueError(f"the JWE has no {name}")
    return value


def _decode(text: str) -> bytes:
    """Base64url without padding."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the JWE holds malformed base64") from None


def _number(text: str) -> int:
    return int.from_bytes(_decode(text), "big")
