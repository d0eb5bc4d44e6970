"""Signatures: by GPG, by keys, by certificates with a log; what must not be accepted."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from pycrio.drivers.registry import sigstore, simplesigning
from pycrio.drivers.registry.signatures import BadSignature, SigstoreSignature
from pycrio.drivers.registry.sigstore import BUNDLE, CERTIFICATE, CHAIN, SIGNATURE, Person
from tests.unit.drivers.registry.signing import ISSUER_OLD, NOW, Authority, Gpg, Log, cert_pem, cosign, payload, pem

D = "sha256:" + "a1" * 32
NAME = "r.example/team/app:1"
ENVIRON = dict(os.environ)


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gpg, Gpg]]:
    place = tmp_path_factory.mktemp("gpg")
    homes = Gpg(place / "ours"), Gpg(place / "theirs")
    yield homes
    for home in homes:
        home.close()


@pytest.mark.parametrize("armor", [False, True])
async def test_simple_signature(gpg: tuple[Gpg, Gpg], armor: bool) -> None:
    ours, theirs = gpg
    data = payload(D, NAME)
    keys = [theirs.public(armor=armor), ours.public(armor=armor)]
    assert await simplesigning.verify(ours.sign(data), keys, ENVIRON) == data
    keyring = [theirs.public(armor=armor) + ours.public(armor=armor)]
    assert await simplesigning.verify(ours.sign(data), keyring, ENVIRON) == data


async def test_simple_signature_by_another_key(gpg: tuple[Gpg, Gpg]) -> None:
    ours, theirs = gpg
    with pytest.raises(BadSignature, match="not made by a key of the policy"):
        await simplesigning.verify(theirs.sign(b"x"), [ours.public()], ENVIRON)


async def test_simple_signatures_that_are_none(gpg: tuple[Gpg, Gpg]) -> None:
    ours, _ = gpg
    good = ours.sign(b"x" * 100, "--compress-algo", "none", "--sign")
    spoilt = good.replace(b"x" * 10, b"y" * 10, 1)
    assert spoilt != good
    for broken in (spoilt, good[:-20], b"", b"nonsense", ours.sign(b"x", "--detach-sign"), ours.sign(b"x", "--store")):
        with pytest.raises(BadSignature):
            await simplesigning.verify(broken, [ours.public()], ENVIRON)


async def outcome(message: bytes, signer: Gpg) -> bytes | None:
    """The payload, None for a message that is refused."""
    try:
        return await simplesigning.verify(message, [signer.public()], ENVIRON)
    except BadSignature:
        return None


async def test_several_messages_in_one(gpg: tuple[Gpg, Gpg]) -> None:
    """Whatever is put beside a good message: only what our key signed comes out."""
    ours, theirs = gpg
    for plain in ((), ("--compress-algo", "none")):
        first, second = (ours.sign(text, *plain, "--sign") for text in (b"first", b"second"))
        unsigned = ours.sign(b"unsigned", *plain, "--store")
        for forged in (theirs.sign(b"theirs", *plain, "--sign") + first, unsigned + first):
            with pytest.raises(BadSignature):
                await simplesigning.verify(forged, [ours.public()], ENVIRON)
        for doubled in (first + second, first + unsigned):
            assert await outcome(doubled, ours) in (b"first", None)


async def test_simple_signature_of_a_bomb(gpg: tuple[Gpg, Gpg]) -> None:
    ours, _ = gpg
    with pytest.raises(BadSignature, match="too large"):
        await simplesigning.verify(ours.sign(bytes(8 << 20)), [ours.public()], ENVIRON)


async def test_without_gpgv(gpg: tuple[Gpg, Gpg], tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadSignature, match="install gpgv"):
        await simplesigning.verify(gpg[0].sign(b"x"), [gpg[0].public()], {"PATH": str(tmp_path)})


@pytest.mark.parametrize(
    "status",
    [
        ["NEWSIG", "GOODSIG", "VALIDSIG"],
        ["PLAINTEXT", "NEWSIG", "GOODSIG"],
        ["PLAINTEXT", "NEWSIG", "GOODSIG", "VALIDSIG", "NEWSIG", "ERRSIG"],
        ["PLAINTEXT", "NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT"],
        ["PLAINTEXT", "NEWSIG", "EXPKEYSIG", "VALIDSIG"],
        ["PLAINTEXT", "NEWSIG", "REVKEYSIG", "VALIDSIG"],
        [],
    ],
)
def test_status_lines_that_do_not_do(status: list[str]) -> None:
    lines = "".join(f"[GNUPG:] {word} x y\n" for word in status).encode()
    with pytest.raises(BadSignature):
        simplesigning.judge(0, lines)
    good = b"[GNUPG:] PLAINTEXT 62 0 \n[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1 n\n[GNUPG:] VALIDSIG 1\n"
    simplesigning.judge(0, good)
    with pytest.raises(BadSignature):
        simplesigning.judge(2, good)


# --- sigstore: keys ---


def signers() -> dict[str, tuple[Any, Callable[[bytes], bytes]]]:
    small, large = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    edwards, rivest = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)
    return {
        "p256": (small, lambda data: small.sign(data, ec.ECDSA(hashes.SHA256()))),
        "p384": (large, lambda data: large.sign(data, ec.ECDSA(hashes.SHA256()))),
        "ed25519": (edwards, edwards.sign),
        "rsa": (rivest, lambda data: rivest.sign(data, padding.PKCS1v15(), hashes.SHA256())),
    }


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa"])
def test_kinds_of_keys(kind: str) -> None:
    key, sign = signers()[kind]
    data = payload(D, NAME)
    signature = SigstoreSignature(data, {SIGNATURE: base64.b64encode(sign(data)).decode()})
    other = pem(ec.generate_private_key(ec.SECP256R1()))
    keys = sigstore.load_keys([other + pem(key)], "key")
    assert len(keys) == 2
    sigstore.verify_with_keys(signature, keys, [])
    with pytest.raises(BadSignature, match="not made by a key"):
        sigstore.verify_with_keys(signature, sigstore.load_keys([other], "key"), [])
    with pytest.raises(BadSignature, match="not made by a key"):
        sigstore.verify_with_keys(dataclasses.replace(signature, payload=data + b" "), keys, [])
    with pytest.raises(BadSignature, match="missing or malformed"):
        sigstore.verify_with_keys(dataclasses.replace(signature, annotations={}), keys, [])


@pytest.mark.parametrize("blob", [b"", b"nonsense", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_keys_that_are_none(blob: bytes) -> None:
    with pytest.raises(BadSignature, match="the key"):
        sigstore.load_keys([blob], "the key")


def test_key_with_log() -> None:
    key, log = ec.generate_private_key(ec.SECP256R1()), Log()
    signature = cosign(key, D, NAME)
    keys, rekor = sigstore.load_keys([pem(key)], "key"), sigstore.load_keys([pem(log.key)], "log")
    with pytest.raises(BadSignature, match="log entry"):
        sigstore.verify_with_keys(signature, keys, rekor)
    signature.annotations[BUNDLE] = log.entry(signature, pem(key))
    sigstore.verify_with_keys(signature, keys, rekor)
    signature.annotations[BUNDLE] = log.entry(signature, pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(BadSignature, match="another signer"):
        sigstore.verify_with_keys(signature, keys, rekor)


# --- sigstore: Fulcio and Rekor ---


class Case:
    """A keyless signature in which everything is right, to be spoilt in one point."""

    def __init__(self, authority: Authority | None = None, **leaf: Any) -> None:
        self.authority, self.log = authority or Authority(), Log()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.leaf = cert_pem(self.authority.leaf(self.key, **leaf))
        self.signature = cosign(self.key, D, NAME)
        self.signature.annotations[CERTIFICATE] = self.leaf.decode()
        self.signature.annotations[CHAIN] = cert_pem(self.authority.intermediate).decode()
        self.log_it()
        self.person = Person(email="dev@test.invalid", issuer="https://idp.test.invalid")
        self.roots = [cert_pem(self.authority.root)]

    def log_it(self, **change: Any) -> None:
        self.signature.annotations[BUNDLE] = self.log.entry(self.signature, self.leaf, **change)

    def verify(self) -> None:
        rekor = sigstore.load_keys([pem(self.log.key)], "log")
        sigstore.verify_with_fulcio(self.signature, self.roots, rekor, self.person)

    def refused(self, words: str) -> None:
        with pytest.raises(BadSignature, match=words):
            self.verify()


@pytest.mark.parametrize("oid", [ISSUER_OLD, "1.3.6.1.4.1.57264.1.8"])
def test_keyless(oid: str) -> None:
    Case(oid=oid).verify()


def test_keyless_with_the_intermediate_as_root() -> None:
    case = Case()
    del case.signature.annotations[CHAIN]
    case.refused("does not lead to a CA")
    case.roots = [cert_pem(case.authority.intermediate)]
    case.verify()


def test_keyless_by_somebody_else() -> None:
    Case(email="mallory@test.invalid").refused("for mallory@test.invalid, not for dev")
    Case(issuer="https://evil.invalid").refused("relies on the OIDC issuer")
    Case(oid="1.2.3.4").refused("does not name one OIDC issuer")


def test_keyless_by_another_ca() -> None:
    case = Case()
    case.roots = [cert_pem(Authority().root)]
    case.refused("does not lead to a CA")


def test_keyless_logged_too_late() -> None:
    case = Case()
    late = NOW + datetime.timedelta(minutes=11)
    case.log_it(when=int(late.timestamp()))
    case.refused("not valid when it was used")


def test_certificates_for_other_purposes() -> None:
    Case(usage=ExtendedKeyUsageOID.SERVER_AUTH).refused("not one for code signing")
    Case(critical="1.2.3.4.5").refused(r"unknown critical extension 1\.2\.3\.4\.5")
    Case(Authority(intermediate_ca=False)).refused("does not lead to a CA")
    Case(Authority(intermediate_usage=ExtendedKeyUsageOID.SERVER_AUTH)).refused("does not lead to a CA")


def test_leaf_cannot_issue() -> None:
    """A certificate of the CA is no CA: what its owner issues leads nowhere."""
    case = Case()
    mallory = Authority(between_key=case.key)
    forged = ec.generate_private_key(ec.SECP256R1())
    case.leaf = cert_pem(mallory.leaf(forged))
    case.signature = cosign(forged, D, NAME)
    case.signature.annotations[CERTIFICATE] = case.leaf.decode()
    chain = [mallory.intermediate, case.authority.leaf(case.key), case.authority.intermediate]
    case.signature.annotations[CHAIN] = cert_pem(*chain).decode()
    case.log_it()
    case.refused("does not lead to a CA")


def test_log_entries_about_something_else() -> None:
    case = Case()
    case.log_it(data={"hash": {"algorithm": "sha256", "value": "00" * 32}})
    case.refused("another payload")
    case.log_it(data={"hash": {"algorithm": "md5", "value": "00"}})
    case.refused("another payload")
    other = base64.b64encode(case.key.sign(b"other", ec.ECDSA(hashes.SHA256()))).decode()
    case.log_it(signature={"content": other, "publicKey": {"content": base64.b64encode(case.leaf).decode()}})
    case.refused("another signature")
    case.log_it(signature={})
    case.refused("malformed")
    case.log_it(when=-5)
    case.refused("malformed time")


def test_log_entry_by_another_log() -> None:
    case = Case()
    case.signature.annotations[BUNDLE] = Log().entry(case.signature, case.leaf)
    case.refused("not made by the log of the policy")


def test_log_entry_that_was_changed() -> None:
    case = Case()
    bundle = json.loads(case.signature.annotations[BUNDLE])
    bundle["Payload"]["integratedTime"] += 1
    case.signature.annotations[BUNDLE] = json.dumps(bundle)
    case.refused("not made by the log of the policy")
    for broken in ("", "[]", "{}", '{"SignedEntryTimestamp": "AAAA"}', "[" * 99_999):
        case.signature.annotations[BUNDLE] = broken
        case.refused("log entry")


def test_payload_that_the_certificate_did_not_sign() -> None:
    case = Case()
    stranger = cosign(ec.generate_private_key(ec.SECP256R1()), D, NAME)
    case.signature.annotations[SIGNATURE] = stranger.annotations[SIGNATURE]
    case.log_it()
    case.refused("not made by its certificate's key")


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_certificates_that_are_none(text: str) -> None:
    case = Case()
    case.signature.annotations[CERTIFICATE] = text
    case.refused("certificate")


def test_two_leaves() -> None:
    case = Case()
    case.signature.annotations[CERTIFICATE] *= 2
    case.refused("more than one certificate")


# --- sigstore: a CA of one's own ---


def test_pki() -> None:
    authority = Authority()
    key = ec.generate_private_key(ec.SECP256R1())
    signature = cosign(key, D, NAME)
    signature.annotations[CERTIFICATE] = cert_pem(authority.leaf(key, life=datetime.timedelta(days=3650))).decode()
    roots, between = [cert_pem(authority.root)], [cert_pem(authority.intermediate)]
    sigstore.verify_with_pki(signature, roots, between, Person(email="dev@test.invalid"))
    sigstore.verify_with_pki(signature, roots, between, Person(hostname="Builder.test.invalid"))
    with pytest.raises(BadSignature, match="not for other"):
        sigstore.verify_with_pki(signature, roots, between, Person(hostname="other.test.invalid"))
    with pytest.raises(BadSignature, match="does not lead"):
        sigstore.verify_with_pki(signature, roots, [], Person(email="dev@test.invalid"))
    expired = cert_pem(authority.leaf(key)).decode()
    signature.annotations[CERTIFICATE] = expired
    with pytest.raises(BadSignature, match="not valid when it was used"):
        sigstore.verify_with_pki(signature, roots, between, Person(email="dev@test.invalid"))
