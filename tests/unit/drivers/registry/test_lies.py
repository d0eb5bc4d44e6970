"""A registry that lies: each lie is one clear error that names image, registry and cause."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pathlib
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme

from pycrio.drivers.registry.client import Registry
from pycrio.errors import BadImage, PycrioError, RegistryError, RegistryUnavailable, Timeout, Unsupported
from tests.fakes.registry import FakeRegistry, Reply, Request, refuse
from tests.fixtures_registry import OCI_INDEX, OCI_MANIFEST, Built, build_image, build_index, digest_of, free_port
from tests.pipes import collect
from tests.unit.drivers.registry.support import QUICK, driver, insecure, settings

IMAGE = build_image([{"a": bytes(range(256)) * 2000}])


async def pulled(registry: Registry, name: str) -> None:
    """Resolve an image and fetch its layers, one after the other."""
    found = await registry.resolve(name, None, "")
    for layer in found.layers:
        await collect(registry, found, layer)


async def refused(
    tmp_path: pathlib.Path, fake: FakeRegistry, kind: type[PycrioError], *words: str, **more: Any
) -> PycrioError:
    """Resolve and fetch ``t/image:1``; the error, which must be of the kind and name image, registry and cause."""
    async with driver(tmp_path, fake.address, **more) as registry:
        with pytest.raises(kind) as caught:
            await pulled(registry, f"{fake.address}/t/image:1")
    text = str(caught.value)
    assert f"image {fake.address}/t/image:1: registry {fake.address}: " in text
    for word in words:
        assert word in text
    return caught.value


def edited(change: Callable[[dict[str, Any]], None], image: Built = IMAGE) -> Built:
    """The image with its manifest changed."""
    document = image.document
    change(document)
    return dataclasses.replace(image, manifest=json.dumps(document).encode())


async def test_manifest_with_another_digest_than_asked_for(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        wanted = build_image([{"b": b"b"}]).digest
        fake.manifests["t/image", wanted] = (IMAGE.manifest, OCI_MANIFEST)
        async with driver(tmp_path, fake.address) as registry:
            with pytest.raises(BadImage, match=f"asked for manifest {wanted}, got content with digest {IMAGE.digest}"):
                await registry.resolve(f"{fake.address}/t/image@{wanted}", None, "")


async def test_manifest_with_another_digest_than_announced(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        wrong = digest_of(b"else")
        fake.on(
            "/manifests/",
            lambda r: Reply(200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": wrong}, IMAGE.manifest),
        )
        await refused(tmp_path, fake, BadImage, f"announced as {wrong}")


async def test_config_with_the_wrong_digest(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        config = fake.blobs[IMAGE.config_digest]
        fake.blobs[IMAGE.config_digest] = config.replace(b"linux", b"Linux")
        await refused(tmp_path, fake, BadImage, "config", "came with digest")


async def test_config_of_the_wrong_size(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        fake.blobs[IMAGE.config_digest] = fake.blobs[IMAGE.config_digest][:-1]
        await refused(tmp_path, fake, BadImage, "its config has", "its manifest says")


@pytest.mark.parametrize("change", [b"more", -5], ids=["longer", "shorter"])
async def test_layer_of_the_wrong_size(tmp_path: pathlib.Path, change: bytes | int) -> None:
    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        digest = IMAGE.document["layers"][0]["digest"]
        fake.blobs[digest] = (fake.blobs[digest] + change) if isinstance(change, bytes) else fake.blobs[digest][:change]
        await refused(tmp_path, fake, BadImage, digest, "bytes")


async def forever(part: bytes) -> AsyncIterator[bytes]:
    while True:
        yield part


async def test_endless_layer(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        digest = IMAGE.document["layers"][0]["digest"]
        fake.on(digest, lambda r: Reply(length="", stream=forever(bytes(65536))))
        await refused(tmp_path, fake, BadImage, "is longer than")


async def test_endless_manifest_costs_bounded_memory(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: Reply(length="", stream=forever(bytes(65536))))
        async with driver(tmp_path, fake.address) as warm:
            with pytest.raises(BadImage):
                await warm.resolve(f"{fake.address}/t/image:1", None, "")
        tracemalloc.start()
        try:
            await refused(tmp_path, fake, BadImage, "the manifest is longer than")
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()


async def test_manifest_that_announces_too_much(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: Reply(length=str(1 << 40), body=b"{"))
        await refused(tmp_path, fake, BadImage, "the manifest is longer than")


async def test_redirect_loop(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: Reply(307, {"Location": r.target}))
        await refused(tmp_path, fake, RegistryError, "more than 8 redirects")
        assert len(fake.asked("/manifests/")) == 9


@pytest.mark.parametrize("location", ["", "ftp://127.0.0.1/x", "http://:80/"])
async def test_redirect_to_nowhere(tmp_path: pathlib.Path, location: str) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: Reply(302, {"Location": location} if location else {}))
        await refused(tmp_path, fake, RegistryError, "redirected")


async def test_layer_that_drips(tmp_path: pathlib.Path) -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        layer = IMAGE.document["layers"][0]
        fake.on(layer["digest"], lambda r: Reply(length=str(layer["size"]), stream=drip()))
        await refused(tmp_path, fake, Timeout, "pull_progress_timeout", pull_progress_timeout=0.3)


@pytest.mark.effect("crio.image.pull_progress_timeout")
async def test_layer_that_stops(tmp_path: pathlib.Path) -> None:
    async def hang() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        layer = IMAGE.document["layers"][0]
        fake.on(layer["digest"], lambda r: Reply(length=str(layer["size"]), stream=hang()))
        await refused(tmp_path, fake, Timeout, "stopped sending", pull_progress_timeout=0.2)
        assert len(fake.asked(layer["digest"])) == 1


async def test_manifest_that_never_comes(tmp_path: pathlib.Path) -> None:
    async def never(request: Request) -> Reply:
        await asyncio.Event().wait()
        return Reply()

    async with FakeRegistry() as fake:
        fake.on("/manifests/", never)
        limits = dataclasses.replace(QUICK, small=1.0, attempts=2)
        await refused(tmp_path, fake, Timeout, "did not arrive within 1 s", limits=limits)
        assert len(fake.asked("/manifests/")) == 2


BOMBS = {
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000,
    "not JSON": b"<html>login</html>",
    "a list": b"[]",
    "huge number": b'{"schemaVersion": 2' + b"0" * 6000 + b"}",
    "not UTF-8": b'{"a": "\xff"}',
    "empty": b"",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
async def test_manifest_bombs(tmp_path: pathlib.Path, body: bytes) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: Reply(200, {"Content-Type": OCI_MANIFEST}, body))
        await refused(tmp_path, fake, BadImage, "its manifest")


async def test_index_of_ten_thousand(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        entry = {
            "mediaType": OCI_MANIFEST,
            "digest": IMAGE.digest,
            "size": 3,
            "platform": {"os": "x", "architecture": "y"},
        }
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * 10_000}).encode()
        fake.put("t/image", "1", body, OCI_INDEX)
        await refused(tmp_path, fake, BadImage, "its index lists 10000 manifests")


async def test_indexes_nested_without_end(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        inner = IMAGE.manifest
        kind = OCI_MANIFEST
        fake.add(IMAGE, "t/image:leaf")
        for level in range(5):
            entry = {"mediaType": kind, "digest": digest_of(inner), "size": len(inner)}
            entry["platform"] = {"os": "linux", "architecture": "amd64"}
            inner, kind = json.dumps({"schemaVersion": 2, "manifests": [entry], "level": level}).encode(), OCI_INDEX
            fake.put("t/image", "1", inner, kind)
        await refused(tmp_path, fake, BadImage, "nested more than 3 deep")


async def test_index_without_this_platform(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        index = build_index([(IMAGE, {"os": "linux", "architecture": "s390x"})])
        fake.put("t/image", "1", index, OCI_INDEX)
        await refused(tmp_path, fake, BadImage, "no image for linux/amd64")


async def test_index_entry_of_another_size(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:leaf")
        document = json.loads(build_index([(IMAGE, {"os": "linux", "architecture": "amd64"})]))
        document["manifests"][0]["size"] += 1
        fake.put("t/image", "1", json.dumps(document).encode(), OCI_INDEX)
        await refused(tmp_path, fake, BadImage, "its index says")


async def test_two_hundred_layers_are_fine_and_too_many_are_not(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        image = build_image([{f"f{number}": b"x"} for number in range(200)])
        name = fake.add(image, "t/image:1")
        async with driver(tmp_path, fake.address) as registry:
            assert len((await registry.resolve(name, None, "")).layers) == 200
        await refused(tmp_path, fake, BadImage, "it has 200 layers", limits=dataclasses.replace(QUICK, layers=199))


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], Any], type[PycrioError], str]] = {
    "digest that climbs": (
        lambda d: d["config"].update(digest="sha256:../../etc/passwd"),
        BadImage,
        "malformed digest",
    ),
    "negative size": (lambda d: d["layers"][0].update(size=-1), BadImage, "malformed size"),
    "no size": (lambda d: d["layers"][0].pop("size"), BadImage, "malformed size"),
    "size as text": (lambda d: d["layers"][0].update(size="9"), BadImage, "malformed size"),
    "layers are no list": (lambda d: d.update(layers={}), BadImage, "no list of layers"),
    "no config": (lambda d: d.update(config=None), BadImage, "no descriptor"),
    "more layers than diff_ids": (lambda d: d["layers"].append(d["layers"][0]), BadImage, "diff_ids"),
    "index and image at once": (lambda d: d.update(manifests=[]), BadImage, "neither clearly"),
    "other media type inside": (lambda d: d.update(mediaType=OCI_INDEX), BadImage, "calls itself"),
    "unknown media type": (lambda d: d.update(mediaType="text/html"), BadImage, "unknown type"),
    "schema version 3": (lambda d: d.update(schemaVersion=3), BadImage, "schemaVersion"),
    "schema 1": (lambda d: d.update(schemaVersion=1, mediaType=""), Unsupported, "schema 1"),
    "annotations of numbers": (lambda d: d.update(annotations={"a": 1}), BadImage, "malformed annotations"),
    "huge config": (lambda d: d["config"].update(size=1 << 40), BadImage, "its config has"),
    "encrypted artifact": (
        lambda d: (
            d["layers"][0].update(mediaType=d["layers"][0]["mediaType"] + "+encrypted"),
            d.update(artifactType="application/x-test"),
        ),
        Unsupported,
        "is encrypted",
    ),
}


@pytest.mark.parametrize(("change", "kind", "word"), MALFORMED.values(), ids=MALFORMED)
async def test_malformed_manifests(
    tmp_path: pathlib.Path, change: Callable[[dict[str, Any]], Any], kind: type[PycrioError], word: str
) -> None:
    async with FakeRegistry() as fake:
        fake.add(edited(change), "t/image:1")
        await refused(tmp_path, fake, kind, word)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (b'"os": "linux"', b'"os": "plan9"', "image for 'plan9'"),
        (b'"diff_ids": ["sha256:', b'"diff_ids": ["md5:', "malformed diff_ids"),
        (b'"rootfs": {', b'"rootsf": {', "1 layers and its config 0 diff_ids"),
    ],
)
async def test_malformed_configs(tmp_path: pathlib.Path, old: bytes, new: bytes, word: str) -> None:
    async with FakeRegistry() as fake:
        config = IMAGE.blobs[IMAGE.config_digest].replace(old, new)
        fake.blobs[digest_of(config)] = config
        fake.add(edited(lambda d: d["config"].update(digest=digest_of(config), size=len(config))), "t/image:1")
        await refused(tmp_path, fake, BadImage, word)


async def test_refusals_that_are_no_json(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: Reply(403, body=b"<html>" * 100_000))
        error = await refused(tmp_path, fake, RegistryError, "HTTP status 403")
        assert isinstance(error, RegistryError)
        assert (error.code, error.status) == ("DENIED", 403)


async def test_server_errors_end(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: refuse(503, "UNAVAILABLE", "maintenance"))
        error = await refused(tmp_path, fake, RegistryError, "maintenance")
        assert isinstance(error, RegistryError)
        assert (error.code, len(fake.asked("/manifests/"))) == ("UNAVAILABLE", QUICK.attempts)


async def test_rate_limit_beyond_our_patience(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.on("/manifests/", lambda r: refuse(429, "TOOMANYREQUESTS", "slow down", Retry_After="3000"))
        error = await refused(tmp_path, fake, RegistryError, "slow down")
        assert isinstance(error, RegistryError)
        assert (error.code, len(fake.asked("/manifests/"))) == ("TOOMANYREQUESTS", 1)


async def test_connections_cut_for_ever(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        digest = IMAGE.document["layers"][0]["digest"]
        fake.on(digest, lambda r: Reply(body=IMAGE.blobs[digest], cut=0))
        await refused(tmp_path, fake, RegistryError, "ended early")
        assert len(fake.asked(digest)) == QUICK.attempts


async def test_something_else_than_http(tmp_path: pathlib.Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, driver(tmp_path, address) as registry:
        with pytest.raises(RegistryError, match=address):
            await registry.resolve(f"{address}/t/image:1", None, "")


async def test_tls_with_the_wrong_name(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("registry.example").configure_cert(context)
    async with FakeRegistry(tls=context, host="localhost") as fake:
        fake.add(IMAGE, "t/image:1")
        place = tmp_path / "certs.d" / fake.address
        place.mkdir(parents=True)
        authority.cert_pem.write_to_path(place / "ca.crt")
        registry = Registry(settings(tmp_path))
        with pytest.raises(RegistryError, match=r"not trusted: Hostname mismatch.*localhost"):
            await registry.resolve(f"{fake.address}/t/image:1", None, "")
        await registry.close()
        assert fake.requests == []


async def test_tls_by_an_unknown_ca(tmp_path: pathlib.Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with FakeRegistry(tls=context, host="localhost") as fake:
        registry = Registry(settings(tmp_path))
        with pytest.raises(RegistryError, match="not trusted"):
            await registry.resolve(f"{fake.address}/t/image:1", None, "")
        await registry.close()


async def test_nobody_there(tmp_path: pathlib.Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    for conf in ("", insecure(address)):
        registry = Registry(settings(tmp_path, conf))
        with pytest.raises(RegistryUnavailable, match=rf"^RegistryUnavailable: image {address}/t/image:1: .*refuses"):
            await registry.resolve(f"{address}/t/image:1", None, "")
        await registry.close()


async def test_host_that_does_not_exist(tmp_path: pathlib.Path) -> None:
    registry = Registry(settings(tmp_path))
    with pytest.raises(RegistryUnavailable, match="cannot be resolved"):
        await registry.resolve("registry.invalid/t/image:1", None, "")
    await registry.close()


async def test_cancelled_pull_leaves_no_connection(tmp_path: pathlib.Path) -> None:
    reached = asyncio.Event()

    async def hang() -> AsyncIterator[bytes]:
        yield b"x"
        reached.set()
        await asyncio.Event().wait()

    async with FakeRegistry() as fake:
        fake.add(IMAGE, "t/image:1")
        layer = IMAGE.document["layers"][0]
        fake.on(layer["digest"], lambda r: Reply(length=str(layer["size"]), stream=hang()))
        async with driver(tmp_path, fake.address) as registry:
            found = await registry.resolve(f"{fake.address}/t/image:1", None, "")
            task = asyncio.ensure_future(collect(registry, found, found.layers[0]))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
