"""Pulling again what the node has: only what freshness and permission demand is asked of the registry."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from pycrio.drivers.registry.client import Registry
from pycrio.errors import RegistryError
from pycrio.model.image import Credentials, RemoteImage
from tests.fakes.registry import FakeRegistry, Reply, Request, refuse
from tests.fixtures_registry import build_image, build_index
from tests.unit.drivers.registry.support import insecure, settings

INDEX = "application/vnd.oci.image.index.v1+json"


class Shelf:
    """Documents of a store."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    async def get(self, digest: str) -> bytes | None:
        return self.documents.get(digest)

    def put(self, image: RemoteImage) -> None:
        self.documents[image.manifest_digest] = image.manifest
        self.documents[image.config_digest] = image.config
        if image.index:
            self.documents[image.index_digest] = image.index


def paths(registry: FakeRegistry) -> list[str]:
    found = [request.path for request in registry.requests if request.path != "/v2/"]
    registry.requests.clear()
    return found


@pytest.mark.parametrize("indexed", [False, True])
async def test_known_documents_are_not_fetched_again(tmp_path: pathlib.Path, indexed: bool) -> None:
    shelf, image = Shelf(), build_image([{"a": b"1"}])
    async with FakeRegistry() as registry:
        name = registry.add(image, "lab/app:1")
        top = image.digest
        if indexed:
            body = build_index([(image, {"os": "linux", "architecture": "amd64"})])
            registry.put("lab/app", "1", body, INDEX)
            top = next(d for r, d in registry.manifests if d.startswith("sha256:") and d != image.digest)
        driver = Registry(settings(tmp_path, insecure(registry.address), stored_document=shelf.get))
        first = await driver.resolve(name, None, "")
        assert len(paths(registry)) == 2 + indexed
        shelf.put(first)
        again = await driver.resolve(name, None, "")
        assert dataclasses.replace(again, source=None) == dataclasses.replace(first, source=None)
        assert set(paths(registry)) == {"/v2/lab/app/manifests/1"}
        by_digest = await driver.resolve(f"{registry.address}/lab/app@{top}", None, "")
        assert by_digest.manifest == first.manifest
        assert by_digest.index == first.index
        assert by_digest.layers == first.layers
        assert paths(registry) == []
        await driver.close()


async def test_a_new_tag_is_noticed(tmp_path: pathlib.Path) -> None:
    shelf, old, new = Shelf(), build_image([{"a": b"1"}]), build_image([{"a": b"2"}])
    async with FakeRegistry() as registry:
        name = registry.add(old, "lab/app:1")
        driver = Registry(settings(tmp_path, insecure(registry.address), stored_document=shelf.get))
        shelf.put(await driver.resolve(name, None, ""))
        registry.add(new, "lab/app:1")
        assert (await driver.resolve(name, None, "")).manifest == new.manifest
        await driver.close()


async def test_what_one_was_given_another_has_to_ask_for(tmp_path: pathlib.Path) -> None:
    """An image of the store is no way around a registry that wants to know who asks."""
    shelf, image = Shelf(), build_image([{"a": b"1"}])

    def guarded(request: Request) -> Reply | None:
        if request.headers.get("authorization") == "Basic bWU6cHc=":  # me:pw
            return None
        return refuse(401, "UNAUTHORIZED", "who are you", WWW_Authenticate='Basic realm="lab"')

    async with FakeRegistry() as registry:
        registry.add(image, "lab/app:1")
        registry.on("/lab/", guarded)
        name = f"{registry.address}/lab/app@{image.digest}"
        driver = Registry(settings(tmp_path, insecure(registry.address), stored_document=shelf.get))
        me = Credentials(username="me", password="pw")
        shelf.put(await driver.resolve(name, me, ""))
        paths(registry)
        await driver.resolve(name, me, "")
        assert paths(registry) == []
        for who in (None, Credentials(username="me", password="guess")):
            with pytest.raises(RegistryError, match="UNAUTHORIZED"):
                await driver.resolve(name, who, "")
            assert paths(registry)
        await driver.reload()
        await driver.resolve(name, me, "")
        assert "/v2/lab/app/manifests/" + image.digest in paths(registry)
        await driver.close()


async def test_damaged_documents_of_the_store_do_not_count(tmp_path: pathlib.Path) -> None:
    shelf, image = Shelf(), build_image([{"a": b"1"}])
    async with FakeRegistry() as registry:
        registry.add(image, "lab/app:1")
        name = f"{registry.address}/lab/app@{image.digest}"
        driver = Registry(settings(tmp_path, insecure(registry.address), stored_document=shelf.get))
        first = await driver.resolve(name, None, "")
        shelf.put(first)
        paths(registry)
        shelf.documents = {digest: data + b" " for digest, data in shelf.documents.items()}
        again = await driver.resolve(name, None, "")
        assert (again.manifest, again.config) == (first.manifest, first.config)
        assert len(paths(registry)) == 2
        await driver.close()
