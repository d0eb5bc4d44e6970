"""policy.json: strict parsing, scopes, identities."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from pycrio.drivers.registry import policy as policies
from pycrio.drivers.registry.identity import (
    ExactReference,
    ExactRepository,
    Identity,
    MatchExact,
    MatchRepoDigestOrExact,
    MatchRepository,
    RemapIdentity,
)
from pycrio.drivers.registry.policy import Accept, Policy, Reject, SignedBy, SigstoreSigned, scopes
from pycrio.drivers.registry.reference import parse_full
from pycrio.drivers.registry.signatures import (
    COSIGN_TYPE,
    SIMPLE_TYPE,
    BadSignature,
    Claim,
    SigstoreSignature,
    SimpleSignature,
    parse_claim,
    parse_stored,
)
from pycrio.errors import ConfigError

D = "sha256:" + "a1" * 32
ANY: list[dict[str, Any]] = [{"type": "insecureAcceptAnything"}]
NONE: list[dict[str, Any]] = [{"type": "reject"}]
DATA = base64.b64encode(b"key").decode()


def parsed(document: object) -> Policy:
    return policies.parse_policy(json.dumps(document).encode(), "/p.json")


def test_most_specific_scope_counts() -> None:
    names = [
        "r.example:5000/a/b:1",
        "r.example:5000/a/b",
        "r.example:5000/a",
        "r.example:5000",
        "*.example",
        "",
    ]
    docker = {name: [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"/{name}"}] for name in names}
    for name in names:
        policy = parsed({"default": NONE, "transports": {"docker": docker, "dir": {"": ANY}}})
        (found,) = policy.requirements(parse_full("r.example:5000/a/b:1"))
        assert isinstance(found, SignedBy)
        assert found.keys.paths == (f"/{name}",)
        del docker[name]
    policy = parsed({"default": NONE, "transports": {"docker": docker}})
    assert policy.requirements(parse_full("r.example:5000/a/b:1")) == (Reject(),)


def test_scopes() -> None:
    assert scopes(parse_full(f"a.b.example:5000/x/y@{D}")) == [
        f"a.b.example:5000/x/y@{D}",
        "a.b.example:5000/x/y",
        "a.b.example:5000/x",
        "a.b.example:5000",
        "*.b.example",
        "*.example",
    ]


def test_trivial_policies() -> None:
    assert parsed({"default": ANY}).trivial
    assert parsed({"default": ANY, "transports": {"docker": {"a": ANY}}}).trivial
    assert not parsed({"default": ANY, "transports": {"docker": {"a": NONE}}}).trivial
    assert parsed({"default": ANY, "transports": {"dir": {"/a": NONE}}}).requirements(parse_full("a.io/a")) == (
        Accept(),
    )


def test_signed_base_layers_are_rejected() -> None:
    (found,) = parsed({"default": [{"type": "signedBaseLayer", "baseLayerIdentity": {}}]}).default
    assert isinstance(found, Reject)


def test_sigstore_requirement() -> None:
    (found,) = parsed(
        {
            "default": [
                {
                    "type": "sigstoreSigned",
                    "fulcio": {"caPath": "/ca", "oidcIssuer": "https://i", "subjectEmail": "a@b"},
                    "rekorPublicKeyDatas": [DATA, DATA],
                    "signedIdentity": {"type": "matchRepository"},
                }
            ]
        }
    ).default
    assert isinstance(found, SigstoreSigned)
    assert found.fulcio is not None
    assert found.fulcio.roots.paths == ("/ca",)
    assert found.rekor.data == (b"key", b"key")
    assert found.identity == MatchRepository()


def signed(**more: Any) -> dict[str, Any]:
    return {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": DATA, **more}]}


def cosigned(**more: Any) -> dict[str, Any]:
    return {"default": [{"type": "sigstoreSigned", **more}]}


FULCIO = {"caData": DATA, "oidcIssuer": "i", "subjectEmail": "e"}
FAULTS: dict[str, object] = {
    "no object": [],
    "no default": {},
    "empty default": {"default": []},
    "unknown field": {"default": ANY, "defaults": ANY},
    "unknown type": {"default": [{"type": "acceptAnything"}]},
    "no type": {"default": [{}]},
    "extra field": {"default": [{"type": "reject", "x": 1}]},
    "empty scope": {"default": ANY, "transports": {"docker": {"a": []}}},
    "faulty other transport": {"default": ANY, "transports": {"dir": {"/": [{"type": "x"}]}}},
    "transports no object": {"default": ANY, "transports": []},
    "no keys": {"default": [{"type": "signedBy", "keyType": "GPGKeys"}]},
    "two keys": signed(keyPath="/x"),
    "key type": signed(keyType="X509"),
    "key data": signed(keyData="*"),
    "key path": {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": 1}]},
    "key paths": {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": []}]},
    "unknown identity": signed(signedIdentity={"type": "x"}),
    "identity with extra": signed(signedIdentity={"type": "matchExact", "x": 1}),
    "reference without tag": signed(signedIdentity={"type": "exactReference", "dockerReference": "a.io/b"}),
    "malformed reference": signed(signedIdentity={"type": "exactReference", "dockerReference": "A B"}),
    "repository missing": signed(signedIdentity={"type": "exactRepository"}),
    "remap incomplete": signed(signedIdentity={"type": "remapIdentity", "prefix": "a.io"}),
    "sigstore without keys": cosigned(),
    "sigstore with two": cosigned(keyData=DATA, fulcio=FULCIO, rekorPublicKeyData=DATA),
    "fulcio without rekor": cosigned(fulcio=FULCIO),
    "fulcio incomplete": cosigned(fulcio={"caData": DATA, "oidcIssuer": "i"}, rekorPublicKeyData=DATA),
    "pki with rekor": cosigned(pki={"caRootsData": DATA, "subjectEmail": "e"}, rekorPublicKeyData=DATA),
    "pki without subject": cosigned(pki={"caRootsData": DATA}),
    "pki without roots": cosigned(pki={"subjectEmail": "e"}),
}


@pytest.mark.parametrize("document", FAULTS.values(), ids=FAULTS)
def test_faulty_policies(document: object) -> None:
    with pytest.raises(ConfigError, match=r"^/p\.json: "):
        parsed(document)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}', "[" * 99_999],
)
def test_policies_that_are_no_good_json(text: str) -> None:
    with pytest.raises(ConfigError):
        policies.parse_policy(text.encode(), "/p.json")


TAG, OTHER, DIGEST = "a.io/x/y:1", "a.io/x/y:2", f"a.io/x/y@{D}"


@pytest.mark.parametrize(
    ("identity", "wanted", "claimed", "accepted"),
    [
        (MatchExact(), TAG, TAG, True),
        (MatchExact(), TAG, OTHER, False),
        (MatchExact(), DIGEST, TAG, False),
        (MatchExact(), TAG, "a.io/x/y", False),
        (MatchRepoDigestOrExact(), TAG, TAG, True),
        (MatchRepoDigestOrExact(), TAG, OTHER, False),
        (MatchRepoDigestOrExact(), TAG, DIGEST, False),
        (MatchRepoDigestOrExact(), DIGEST, TAG, True),
        (MatchRepoDigestOrExact(), DIGEST, "a.io/x/z:1", False),
        (MatchRepoDigestOrExact(), TAG, "a.io/x/y", False),
        (MatchRepository(), TAG, OTHER, True),
        (MatchRepository(), TAG, "a.io/x/y", True),
        (MatchRepository(), TAG, "b.io/x/y:1", False),
        (MatchRepository(), TAG, "not a reference", False),
        (ExactReference(parse_full("b.io/z:9")), TAG, "b.io/z:9", True),
        (ExactReference(parse_full("b.io/z:9")), TAG, TAG, False),
        (ExactRepository("b.io/z"), TAG, "b.io/z:3", True),
        (ExactRepository("b.io/z"), TAG, "b.io/zz:3", False),
        (RemapIdentity("a.io/x", "vendor.io"), TAG, "vendor.io/y:1", True),
        (RemapIdentity("a.io/x", "vendor.io"), TAG, "vendor.io/y:2", False),
        (RemapIdentity("a.io/x", "vendor.io"), DIGEST, "vendor.io/y:2", True),
        (RemapIdentity("a.io/x/y", "vendor.io/q"), TAG, "vendor.io/q:1", True),
        (RemapIdentity("a.io", "vendor.io"), TAG, "vendor.io/x/y:1", True),
        (RemapIdentity("a.i", "vendor.io"), TAG, TAG, True),
        (RemapIdentity("b.io", "vendor.io"), TAG, "vendor.io/x/y:1", False),
    ],
)
def test_identities(identity: Identity, wanted: str, claimed: str, accepted: bool) -> None:
    assert identity.accepts(parse_full(wanted), claimed) is accepted


# --- payloads and stored forms ---


def payload(**change: Any) -> bytes:
    critical = {
        "type": SIMPLE_TYPE,
        "image": {"docker-manifest-digest": D},
        "identity": {"docker-reference": TAG},
        **change,
    }
    return json.dumps({"critical": critical, "optional": {"creator": "x", "timestamp": 1}}).encode()


def test_claim() -> None:
    assert parse_claim(payload(), SIMPLE_TYPE) == Claim(D, TAG)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        payload(extra=1),
        payload(image={}),
        payload(identity={"docker-reference": 1}),
        payload(type=COSIGN_TYPE),
        payload().replace(b'{"critical"', b'{"critical": {}, "critical"'),
    ],
)
def test_payloads_with_surprises(data: bytes) -> None:
    with pytest.raises(BadSignature):
        parse_claim(data, SIMPLE_TYPE)


def test_stored_forms() -> None:
    simple = SimpleSignature(b"\x90\x0d")
    cosign = SigstoreSignature(b"payload", {"a": "b"})
    assert parse_stored(simple.stored()) == simple
    assert cosign.stored().startswith(b'\0sigstore-json\n{"mimeType":')
    assert parse_stored(cosign.stored()) == cosign
    for broken in (b"\0other\n{}", b"\0sigstore-json\n{}", b"\0sigstore-json\nx"):
        with pytest.raises(BadSignature):
            parse_stored(broken)
