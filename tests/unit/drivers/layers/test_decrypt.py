"""Encrypted layers: opened with the right key, refused with a clear sentence otherwise, and nothing is left behind."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pathlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pycrio.drivers.layers import decrypt, jwe
from pycrio.drivers.layers.decrypt import WRAPPED, Opening, unlock
from pycrio.drivers.layers.store import Store
from pycrio.errors import BadImage, Denied, PycrioError, Unsupported
from tests.unit.drivers.layers.sealing import Private, encrypt, jwk, pem, seal
from tests.unit.drivers.layers.support import Blob, make_tar, unpack

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
PLAIN = Blob.of(make_tar({"secret": b"s" * 300_000, "d": None, "d/x": os.urandom(300_000)}))


@pytest.fixture
def keys(store: Store, tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    store.layers.keys = str(directory)
    return directory


def staging(store: Store) -> list[str]:
    s = store.settings
    return [n for d in (f"{s.image_home}/tempdirs", f"{s.layers_dir}/tmp") if os.path.isdir(d) for n in os.listdir(d)]


@pytest.mark.parametrize("key", [RSA, EC, ec.generate_private_key(ec.SECP521R1())], ids=["rsa", "p256", "p521"])
@pytest.mark.parametrize("form", ["pem", "der", "jwk", "traditional"])
async def test_an_encrypted_layer(key: Private, form: str, store: Store, keys: pathlib.Path) -> None:
    content = {
        "pem": lambda: pem(key),
        "jwk": lambda: jwk(key),
        "traditional": lambda: pem(key, form=serialization.PrivateFormat.TraditionalOpenSSL),
        "der": lambda: key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }[form]()
    (keys / "b").write_bytes(content)
    (keys / "a").write_bytes(pem(OTHER))
    sealed = seal(PLAIN, key)
    layer = await unpack(store, sealed.descriptor, sealed.data)
    assert (layer.digest, layer.size, layer.diff_id) == (
        PLAIN.descriptor.digest,
        len(PLAIN.data),
        PLAIN.descriptor.diff_id,
    )
    await store.layers.discard(layer)
    assert staging(store) == []


async def test_one_of_several_recipients(store: Store, keys: pathlib.Path) -> None:
    (keys / "mine").write_bytes(pem(EC))
    sealed = seal(PLAIN, RSA, OTHER, EC)
    layer = await unpack(store, sealed.descriptor, sealed.data)
    assert layer.diff_id == PLAIN.descriptor.diff_id
    await store.layers.discard(layer)


async def refused(store: Store, blob: Blob, kind: type[PycrioError], words: str) -> None:
    with pytest.raises(kind, match=words) as failure:
        await unpack(store, blob.descriptor, blob.data)
    assert blob.descriptor.digest in str(failure.value)
    assert staging(store) == []


async def test_without_a_key(store: Store, keys: pathlib.Path) -> None:
    await refused(store, seal(PLAIN, RSA), Denied, f"there is no private key in {keys}: put one there")
    store.layers.keys = str(keys / "none")
    await refused(store, seal(PLAIN, RSA), Denied, "there is no private key in")


async def test_with_the_wrong_keys(store: Store, keys: pathlib.Path) -> None:
    (keys / "a").write_bytes(pem(OTHER))
    (keys / "b").write_bytes(pem(rsa.generate_private_key(65537, 2048)))
    for sealed in (seal(PLAIN, EC), seal(PLAIN, RSA), seal(PLAIN, RSA, EC)):
        await refused(store, sealed, Denied, f"none of the 2 private keys in {keys} opens it")


async def test_files_that_are_no_keys(store: Store, keys: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    (keys / "locked").write_bytes(pem(EC, b"password"))
    (keys / "text").write_text("hello")
    (keys / "jwk").write_text('{"kty": "EC", "crv": "P-256"}')
    (keys / "real").write_bytes(pem(OTHER))
    (keys / "link").symlink_to("real")
    (keys / "directory").mkdir()
    await refused(store, seal(PLAIN, EC), Denied, "none of the 1 private keys")
    told = capfd.readouterr().err
    for name in ("locked", "text", "jwk", "link"):
        assert name in told
    assert "directory" not in told.replace("directory=", "")


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({}, "is encrypted for nobody"),
        ({"org.opencontainers.image.enc.keys.pgp": "x", "org.opencontainers.image.enc.keys.pkcs7": "y"}, "pgp, pkcs7"),
    ],
)
async def test_other_ways_to_wrap_keys(
    annotations: dict[str, str], words: str, store: Store, keys: pathlib.Path
) -> None:
    sealed = seal(PLAIN, EC)
    await refused(store, Blob(sealed.data, replace(sealed.descriptor, annotations=annotations)), Unsupported, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda private, public: public.update(cipher="ROT13"), "its cipher is 'ROT13'"),
        (lambda private, public: public.update(hmac=base64.b64encode(b"x" * 32).decode()), "does not have the HMAC"),
        (lambda private, public: public.update(hmac="eA=="), "wrong length"),
        (lambda private, public: private.update(symkey="eA=="), "wrong length"),
        (lambda private, public: private.pop("symkey"), "malformed"),
        (lambda private, public: private.update(cipheroptions={}), "malformed"),
        (lambda private, public: private.update(digest="sha256:" + "0" * 64), "digest"),
    ],
)
async def test_options_that_do_not_fit(change: Any, words: str, store: Store, keys: pathlib.Path) -> None:
    (keys / "a").write_bytes(pem(EC))
    sealed = seal(PLAIN, EC, change=change)
    with pytest.raises(BadImage, match=words):
        await unpack(store, sealed.descriptor, sealed.data)
    assert staging(store) == []


async def test_a_changed_ciphertext(store: Store, keys: pathlib.Path) -> None:
    """Counter mode lets whoever holds the registry flip bits of the content; the HMAC tells."""
    (keys / "a").write_bytes(pem(EC))
    blob = Blob.of(make_tar({"a": b"0" * 1000}))
    plain = Blob(make_tar({"a": b"0" * 1000}), replace(blob.descriptor, digest="", diff_id=""))

    def flip(data: bytes) -> bytes:
        return data[:600] + bytes([data[600] ^ 1]) + data[601:]

    sealed = seal(plain, EC, damage=flip)
    await refused(store, sealed, BadImage, "does not have the HMAC")


async def test_a_blob_that_is_not_the_manifests(store: Store, keys: pathlib.Path) -> None:
    (keys / "a").write_bytes(pem(EC))
    sealed = seal(PLAIN, EC)
    other = Blob(sealed.data, replace(sealed.descriptor, digest="sha256:" + "1" * 64))
    await refused(store, other, BadImage, "the registry sent a blob with digest")
    short = Blob(sealed.data, replace(sealed.descriptor, size=5))
    await refused(store, short, BadImage, "bytes, not 5")


async def test_a_cancelled_pull(store: Store, keys: pathlib.Path) -> None:
    (keys / "a").write_bytes(pem(EC))
    sealed = seal(PLAIN, EC)
    source, sink = os.pipe()
    os.write(sink, sealed.data[:1000])
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = Opening.__enter__

    def enter(self: Opening) -> Opening:
        loop.call_soon_threadsafe(started.set)
        return real(self)

    Opening.__enter__ = enter  # type: ignore[method-assign]
    try:
        task = asyncio.ensure_future(store.layers.unpack(sealed.descriptor, source))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        Opening.__enter__ = real  # type: ignore[method-assign]
        os.close(source)
        os.close(sink)
    assert staging(store) == []


# --- keys -----------------------------------------------------------------------------------------------------------


def test_rsa_with_sha256() -> None:
    sealed = json.dumps(encrypt(b"content", [RSA], "RSA-OAEP-256")).encode()
    assert jwe.open_with(sealed, [OTHER, RSA]) == b"content"
    assert jwe.open_with(sealed, [OTHER]) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("protected"), "has no protected"),
        (lambda d: d.update(protected="!!"), "malformed base64"),
        (lambda d: d.update(protected="e30"), "content encryption None"),
        (lambda d: d.update(protected=base64.urlsafe_b64encode(b"[]").decode()), "its header is no JSON object"),
        (lambda d: d.update(unprotected={"zip": "DEF"}), "uses extensions"),
        (lambda d: d.update(recipients=7), "are no list"),
        (lambda d: d.update(recipients=[7]), "a recipient is no JSON object"),
        (lambda d: d.update(header={"alg": "dir"}), "key encryption 'dir'"),
        (lambda d: d.update(header={"epk": {"crv": "P-1", "x": "", "y": ""}}), "there is no curve 'P-1'"),
        (lambda d: d.update(header={"epk": {"crv": "P-256", "x": "AA", "y": "AA"}}), "(?i)curve"),
        (lambda d: d.pop("iv"), "has no iv"),
        (lambda d: d.pop("encrypted_key"), "has no encrypted_key"),
    ],
)
def test_malformed_documents(change: Any, words: str) -> None:
    document = encrypt(b"content", [EC])
    change(document)
    with pytest.raises(ValueError, match=words):
        jwe.open_with(json.dumps(document).encode(), [EC])


@pytest.mark.parametrize("text", [b"", b"[]", b"x", b"\xff", b"[" * 5000])
def test_what_is_no_document(text: bytes) -> None:
    with pytest.raises(ValueError, match="is no JSON"):
        jwe.open_with(text, [EC])


def test_a_changed_document_is_not_opened() -> None:
    document = encrypt(b"content", [EC])
    document["tag"] = "A" * len(document["tag"])
    assert jwe.open_with(json.dumps(document).encode(), [EC]) is None


def test_the_first_wrapped_key_that_fits_counts(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(pem(EC))
    mine, other = seal(PLAIN, EC).descriptor, seal(PLAIN, OTHER).descriptor
    both = replace(
        mine, annotations={**mine.annotations, WRAPPED: f"{other.annotations[WRAPPED]},{mine.annotations[WRAPPED]}"}
    )
    assert unlock(both, str(tmp_path)).digest == PLAIN.descriptor.digest
    broken = replace(mine, annotations={**mine.annotations, WRAPPED: "####"})
    with pytest.raises(BadImage, match="and how is malformed"):
        unlock(broken, str(tmp_path))
    assert decrypt.encrypted(mine)
    assert not decrypt.encrypted(PLAIN.descriptor)
