"""Policies in force: during a pull, per namespace, and again for images of the store."""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pycrio.drivers.registry import lookaside
from pycrio.drivers.registry.client import Registry
from pycrio.drivers.registry.reference import parse_full
from pycrio.errors import BadImage, ConfigError, InvalidRequest, RegistryError, SignatureInvalid
from pycrio.model.image import ImageConfig, StoredImage
from tests.fakes.registry import FakeRegistry, Reply, refuse
from tests.fixtures_registry import OCI_INDEX, OCI_MANIFEST, build_image, build_index, digest_of
from tests.unit.drivers.registry.signing import Authority, Gpg, Log, cert_pem, cosign, payload, pem
from tests.unit.drivers.registry.support import driver

IMAGE = build_image([{"a": b"a"}])
REJECT = [{"type": "reject"}]


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    home = Gpg(tmp_path_factory.mktemp("gpg") / "ours")
    yield home
    home.close()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def demand(tmp_path: pathlib.Path, *requirements: dict[str, Any], name: str = "policy.json") -> None:
    """Write a policy with these requirements for everything."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"default": list(requirements)}))


def by_gpg(gpg: Gpg, **more: Any) -> dict[str, Any]:
    return {"type": "signedBy", "keyType": "GPGKeys", "keyData": b64(gpg.public()), **more}


def configure(tmp_path: pathlib.Path, text: str) -> None:
    """Write a file of registries.d."""
    place = tmp_path / "registries.d"
    place.mkdir(exist_ok=True)
    (place / "a.yaml").write_text(text)


def local_lookaside(tmp_path: pathlib.Path, digest: str, *signatures: bytes) -> None:
    """A lookaside store on disk for t/image."""
    configure(tmp_path, f"default-docker:\n  lookaside: file://{tmp_path}/sigs\n")
    place = tmp_path / "sigs" / "t" / f"image@{digest.replace(':', '=')}"
    place.mkdir(parents=True, exist_ok=True)
    for number, signature in enumerate(signatures, 1):
        (place / f"signature-{number}").write_bytes(signature)


def attach(fake: FakeRegistry, digest: str, *signatures: Any) -> None:
    """Attach sigstore signatures as cosign does."""
    layers = []
    for signature in signatures:
        fake.blobs[digest_of(signature.payload)] = signature.payload
        layers.append(
            {
                "mediaType": signature.media_type,
                "digest": digest_of(signature.payload),
                "size": len(signature.payload),
                "annotations": signature.annotations,
            }
        )
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2}
    manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()
    fake.put("t/image", digest.replace(":", "-") + ".sig", manifest, OCI_MANIFEST)


# --- during a pull ---


async def test_rejected_images_are_not_even_asked_for(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        demand(tmp_path, *REJECT)
        with pytest.raises(SignatureInvalid, match=f"^SignatureValidationFailed: image {name}: the policy rejects it"):
            await registry.resolve(name, None, "")
        assert fake.requests == []


@pytest.mark.parametrize("text", [None, "{}", "nonsense"])
async def test_no_pull_without_a_good_policy(tmp_path: pathlib.Path, text: str | None) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        (tmp_path / "policy.json").unlink()
        if text is not None:
            (tmp_path / "policy.json").write_text(text)
        with pytest.raises(ConfigError, match=r"policy\.json"):
            await registry.resolve(name, None, "")


async def test_policies_of_namespaces(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        demand(tmp_path, *REJECT, name="policies/strict.json")
        assert (await registry.resolve(name, None, "lax")).manifest_digest == IMAGE.digest
        assert (await registry.resolve(name, None, "../policies/strict")).manifest_digest == IMAGE.digest
        with pytest.raises(SignatureInvalid):
            await registry.resolve(name, None, "strict")
        demand(tmp_path, {"type": "insecureAcceptAnything"}, name="policies/strict.json")
        await registry.resolve(name, None, "strict")


async def test_simple_signature_from_a_local_lookaside(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        demand(tmp_path, by_gpg(gpg))
        with pytest.raises(SignatureInvalid, match="it has no signature"):
            await registry.resolve(name, None, "")
        good = gpg.sign(payload(IMAGE.digest, name))
        local_lookaside(tmp_path, IMAGE.digest, b"garbage", good)
        found = await registry.resolve(name, None, "")
        assert found.signatures == (b"garbage", good)
        by_digest = await registry.resolve(f"{fake.address}/t/image@{IMAGE.digest}", None, "")
        assert by_digest.manifest_digest == IMAGE.digest


async def test_signatures_for_something_else(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        demand(tmp_path, by_gpg(gpg))
        local_lookaside(tmp_path, IMAGE.digest, gpg.sign(payload(digest_of(b"other"), name)))
        with pytest.raises(SignatureInvalid, match="its signature is for the manifest"):
            await registry.resolve(name, None, "")
        local_lookaside(tmp_path, IMAGE.digest, gpg.sign(payload(IMAGE.digest, f"{fake.address}/t/image:2")))
        with pytest.raises(SignatureInvalid, match="its signature is for the name"):
            await registry.resolve(name, None, "")
        demand(tmp_path, by_gpg(gpg, signedIdentity={"type": "matchRepository"}))
        await registry.resolve(name, None, "")


async def test_every_requirement_must_be_met(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        local_lookaside(tmp_path, IMAGE.digest, gpg.sign(payload(IMAGE.digest, name)))
        other = by_gpg(gpg, signedIdentity={"type": "exactRepository", "dockerRepository": "vendor.example/x"})
        demand(tmp_path, {"type": "insecureAcceptAnything"}, by_gpg(gpg), other)
        with pytest.raises(SignatureInvalid):
            await registry.resolve(name, None, "")
        demand(tmp_path, {"type": "insecureAcceptAnything"}, by_gpg(gpg))
        await registry.resolve(name, None, "")


async def test_keys_that_cannot_be_read(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        local_lookaside(tmp_path, IMAGE.digest, gpg.sign(payload(IMAGE.digest, name)))
        demand(tmp_path, {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(tmp_path / "absent.gpg")})
        with pytest.raises(SignatureInvalid, match=r"absent\.gpg"):
            await registry.resolve(name, None, "")


async def test_signature_of_the_index_covers_its_images(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:leaf")
        index = build_index([(IMAGE, {"os": "linux", "architecture": "amd64"})])
        fake.put("t/image", "1", index, OCI_INDEX)
        name = f"{fake.address}/t/image:1"
        demand(tmp_path, by_gpg(gpg))
        local_lookaside(tmp_path, digest_of(index), gpg.sign(payload(digest_of(index), name)))
        found = await registry.resolve(name, None, "")
        assert found.manifest_digest == IMAGE.digest
        assert (found.signatures, len(found.index_signatures)) == ((), 1)


async def test_signatures_of_an_image_behind_an_index(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    """Its own are looked for first, at the lookaside store before the attachments; each is kept as what it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    async with FakeRegistry() as fake, FakeRegistry() as store, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:leaf")
        index = build_index([(IMAGE, {"os": "linux", "architecture": "amd64"})])
        fake.put("t/image", "1", index, OCI_INDEX)
        name, top = f"{fake.address}/t/image:1", digest_of(index)
        place = f"lookaside: http://{store.address}\n  use-sigstore-attachments: true\n"
        configure(tmp_path, f"default-docker:\n  {place}")
        own, whole = gpg.sign(payload(IMAGE.digest, name)), gpg.sign(payload(top, name))
        stems = [f"/t/image@{digest.replace(':', '=')}/signature-" for digest in (IMAGE.digest, top)]
        store.on(f"{stems[0]}1", lambda r: Reply(body=own))
        store.on(f"{stems[1]}1", lambda r: Reply(body=whole))
        attached = [cosign(key, digest, name) for digest in (IMAGE.digest, top)]
        for digest, signature in zip((IMAGE.digest, top), attached, strict=True):
            attach(fake, digest, signature)
        for requirement in (by_gpg(gpg), {"type": "sigstoreSigned", "keyData": b64(pem(key))}):
            demand(tmp_path, requirement)
            found = await registry.resolve(name, None, "")
            assert found.signatures == (own, attached[0].stored())
            assert found.index_signatures == (whole, attached[1].stored())
        half = len(store.requests) // 2
        assert [r.path for r in store.requests[:half]] == [f"{stem}{n}" for stem in stems for n in (1, 2)]
        tags = [r.path.rpartition("/")[2] for r in fake.asked(".sig")]
        assert tags[:2] == [f"{digest.replace(':', '-')}.sig" for digest in (IMAGE.digest, top)]


async def test_lookaside_over_http(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, FakeRegistry() as store, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        demand(tmp_path, by_gpg(gpg))
        configure(tmp_path, f'docker:\n  "{fake.address}/t":\n    sigstore: http://{store.address}/base/\n')
        stem = f"/base/t/image@{IMAGE.digest.replace(':', '=')}"
        good = gpg.sign(payload(IMAGE.digest, name))
        store.on(f"{stem}/signature-1", lambda r: Reply(body=good))
        assert (await registry.resolve(name, None, "")).signatures == (good,)
        assert [request.path for request in store.requests] == [f"{stem}/signature-1", f"{stem}/signature-2"]


async def test_lookaside_that_is_broken(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, FakeRegistry() as store, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        configure(tmp_path, f"default-docker:\n  lookaside: http://{store.address}\n")
        store.on("/t/image", lambda r: refuse(500, "", ""))
        assert (await registry.resolve(name, None, "")).signatures == ()  # nobody asks for signatures: pulled anyway
        demand(tmp_path, by_gpg(gpg))
        with pytest.raises(RegistryError, match="its signatures at"):
            await registry.resolve(name, None, "")
        store.rules.clear()
        store.on("/t/image", lambda r: Reply(body=bytes(2 << 20)))
        with pytest.raises(BadImage, match="a signature is longer than"):
            await registry.resolve(name, None, "")
        store.rules.clear()
        store.on("/t/image", lambda r: Reply(body=b"x"))
        with pytest.raises(BadImage, match="more than 128 signatures"):
            await registry.resolve(name, None, "")


async def test_attached_signature_by_a_key(tmp_path: pathlib.Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pub").write_bytes(pem(key))
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        repository = {"type": "matchRepository"}
        demand(tmp_path, {"type": "sigstoreSigned", "keyPath": str(tmp_path / "key.pub"), "signedIdentity": repository})
        signature = cosign(key, IMAGE.digest, f"{fake.address}/t/image")
        attach(fake, IMAGE.digest, signature)
        with pytest.raises(SignatureInvalid, match="it has no signature"):
            await registry.resolve(name, None, "")
        configure(tmp_path, "default-docker:\n  use-sigstore-attachments: true\n")
        assert (await registry.resolve(name, None, "")).signatures == (signature.stored(),)
        fake.blobs[digest_of(signature.payload)] = signature.payload.replace(b"optional", b"0ptional")
        with pytest.raises(BadImage, match="came with another digest"):
            await registry.resolve(name, None, "")
        attach(fake, IMAGE.digest, cosign(ec.generate_private_key(ec.SECP256R1()), IMAGE.digest, name))
        with pytest.raises(SignatureInvalid, match="not made by a key"):
            await registry.resolve(name, None, "")


async def test_attached_keyless_signature(tmp_path: pathlib.Path) -> None:
    key, authority, log = ec.generate_private_key(ec.SECP256R1()), Authority(), Log()
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        configure(tmp_path, "default-docker:\n  use-sigstore-attachments: true\n")
        signature = cosign(key, IMAGE.digest, name)
        leaf = cert_pem(authority.leaf(key))
        signature.annotations["dev.sigstore.cosign/certificate"] = leaf.decode()
        signature.annotations["dev.sigstore.cosign/chain"] = cert_pem(authority.intermediate).decode()
        signature.annotations["dev.sigstore.cosign/bundle"] = log.entry(signature, leaf)
        attach(fake, IMAGE.digest, signature)
        fulcio = {"caData": b64(cert_pem(authority.root)), "oidcIssuer": "https://idp.test.invalid"}
        for email, accepted in (("dev@test.invalid", True), ("boss@test.invalid", False)):
            requirement = {"type": "sigstoreSigned", "fulcio": {**fulcio, "subjectEmail": email}}
            demand(tmp_path, {**requirement, "rekorPublicKeyData": b64(pem(log.key))})
            if accepted:
                await registry.resolve(name, None, "")
            else:
                with pytest.raises(SignatureInvalid, match="not for boss@test"):
                    await registry.resolve(name, None, "")


async def test_kinds_of_signatures_are_not_confused(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = fake.add(IMAGE, "t/image:1")
        local_lookaside(tmp_path, IMAGE.digest, gpg.sign(payload(IMAGE.digest, name)))
        demand(tmp_path, {"type": "sigstoreSigned", "keyData": b64(pem(key))})
        with pytest.raises(SignatureInvalid, match="a simple signature where a sigstore signature is demanded"):
            await registry.resolve(name, None, "")
        configure(tmp_path, "default-docker:\n  use-sigstore-attachments: true\n")
        attach(fake, IMAGE.digest, cosign(key, IMAGE.digest, name))
        await registry.resolve(name, None, "")
        demand(tmp_path, by_gpg(gpg))
        with pytest.raises(SignatureInvalid, match="a sigstore signature where a simple signature is demanded"):
            await registry.resolve(name, None, "")


# --- registries.d ---


def test_sections(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "d"
    assert lookaside.load(str(place)) == lookaside.Places()
    place.mkdir()
    (place / "a.yaml").write_text("docker:\n  r.example/team:\n    lookaside: https://s.example/team\n")
    (place / "b.yaml").write_text("default-docker:\n  sigstore-staging: file:///x\n  use-sigstore-attachments: true\n")
    (place / "ignored.yml").write_text("{")
    places = lookaside.load(str(place))
    team, other = parse_full("r.example/team/x:1"), parse_full("mirror.example/x:1")
    assert places.place((team,)) == (lookaside.Place("https://s.example/team"), team)
    assert places.place((other, team)) == (lookaside.Place("https://s.example/team"), team)
    assert places.place((other,)) == (lookaside.Place("", True), other)
    (place / "c.yaml").write_text("docker:\n  r.example/team: {}\n")
    with pytest.raises(ConfigError, match="described in another file"):
        lookaside.load(str(place))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "docker: []",
        "a: [",
        "docker:\n  x: 5\n",
        "default-docker:\n  lookaside: ftp://x\n",
        "default-docker:\n  use-sigstore-attachments: maybe\n",
        'docker:\n  "": {}\n',
    ],
)
def test_faulty_sections(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        lookaside.load(str(tmp_path))


# --- images of the store ---


def stored(name: str, *digests: str) -> StoredImage:
    return StoredImage("f" * 64, (name,), digests or (IMAGE.digest,), "", 0, 0, ImageConfig())


async def test_recheck_needs_no_network_where_nothing_is_demanded(tmp_path: pathlib.Path) -> None:
    async with driver(tmp_path) as registry:
        await registry.verify_stored(stored("a.example/x:1"), "", "any")
        demand(tmp_path, {"type": "insecureAcceptAnything"}, name="policies/ns.json")
        await registry.verify_stored(stored("a.example/x:1"), "", "ns")


async def test_recheck_only_with_a_policy_of_ones_own(tmp_path: pathlib.Path) -> None:
    async with driver(tmp_path, policy="") as registry:
        await registry.verify_stored(stored("a.example/x:1"), "", "other")
        demand(tmp_path, *REJECT, name="policies/ns.json")
        with pytest.raises(SignatureInvalid):
            await registry.verify_stored(stored("a.example/x:1"), "a.example/x:1", "ns")


async def test_recheck_needs_the_users_name(tmp_path: pathlib.Path) -> None:
    demand(tmp_path, *REJECT)
    async with driver(tmp_path) as registry:
        with pytest.raises(InvalidRequest, match="user specified image not specified, cannot verify image signature"):
            await registry.verify_stored(stored("a.example/x:1"), "", "")
        with pytest.raises(InvalidRequest, match="names no registry"):
            await registry.verify_stored(stored("a.example/x:1"), "short", "")


async def test_recheck_with_kept_signatures(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    kept: list[bytes] = []

    async def read(image_id: str) -> tuple[bytes, ...]:
        assert image_id == "f" * 64
        return tuple(kept)

    name = "registry.invalid/t/image:1"
    demand(tmp_path, by_gpg(gpg))
    async with driver(tmp_path, stored_signatures=read) as registry:
        with pytest.raises(SignatureInvalid, match="it has no signature"):
            await registry.verify_stored(stored(name), name, "")
        kept.append(gpg.sign(payload(IMAGE.digest, name)))
        await registry.verify_stored(stored(name), name, "")
        await registry.verify_stored(stored(name), f"registry.invalid/t/image@{IMAGE.digest}", "")
        with pytest.raises(SignatureInvalid, match="does not have this digest"):
            await registry.verify_stored(stored(name), f"registry.invalid/t/image@{digest_of(b'else')}", "")
        with pytest.raises(SignatureInvalid, match="no signature"):
            await registry.verify_stored(stored(name), "registry.invalid/t/image:2", "")
        with pytest.raises(SignatureInvalid):
            await registry.verify_stored(stored(name, digest_of(b"else")), name, "")


async def test_recheck_asks_the_registry_when_nothing_is_kept(tmp_path: pathlib.Path, gpg: Gpg) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        name = f"{fake.address}/t/image:1"
        demand(tmp_path, by_gpg(gpg))
        with pytest.raises(SignatureInvalid):
            await registry.verify_stored(stored(name), name, "")
        local_lookaside(tmp_path, IMAGE.digest, gpg.sign(payload(IMAGE.digest, name)))
        await registry.verify_stored(stored(name), name, "")


async def test_short_names_are_checked_as_what_they_were_pulled(tmp_path: pathlib.Path) -> None:
    conf = 'unqualified-search-registries = ["a.example", "b.example"]\n'
    async with driver(tmp_path) as registry:
        (tmp_path / "registries.conf").write_text(conf)
        await registry.reload()
        policy = {"default": REJECT, "transports": {"docker": {"b.example": [{"type": "insecureAcceptAnything"}]}}}
        (tmp_path / "policy.json").write_text(json.dumps(policy))
        await registry.verify_stored(stored("b.example/x:1"), "x:1", "")
        with pytest.raises(SignatureInvalid):
            await registry.verify_stored(stored("a.example/x:1"), "x:1", "")


def test_registry_has_the_whole_port() -> None:
    from pycrio.flows import ports

    wanted = {name for name in vars(ports.Registry) if not name.startswith("_")}
    assert wanted <= set(dir(Registry))
