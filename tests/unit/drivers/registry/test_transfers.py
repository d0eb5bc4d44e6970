"""Blobs on their way: resumed, re-authorized, redirected, from mirrors, under back-pressure."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
import pathlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme

from pycrio.drivers.registry.client import Registry
from pycrio.errors import ConfigError, InvalidRequest, PycrioError, RegistryError, RegistryUnavailable, StoreFailure
from pycrio.model.image import Credentials, RemoteImage
from tests.fakes.registry import FakeRegistry, Reply, Request, once, refuse
from tests.fixtures_registry import Built, build_image, digest_of, free_port
from tests.pipes import collect
from tests.unit.drivers.registry.support import QUICK, driver, insecure, settings

IMAGE = build_image([{"a": os.urandom(3_000_000)}])
LAYER = IMAGE.document["layers"][0]["digest"]
BLOB = IMAGE.blobs[LAYER]


async def readable(fd: int) -> None:
    """Wait until a pipe has something to read."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def resolved(registry: Registry, fake: FakeRegistry, name: str = "t/image:1") -> RemoteImage:
    return await registry.resolve(f"{fake.address}/{name}", None, "")


async def test_cut_connection_is_resumed_by_range(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        found = await resolved(registry, fake)
        fake.on(LAYER, once(Reply(body=BLOB, cut=2_500_000)))
        seen: list[int] = []
        assert await collect(registry, found, found.layers[0], seen.append) == BLOB
        first, second = fake.asked(LAYER)
        assert "range" not in first.headers
        # What had arrived and was not yet passed on when the connection broke is lost: at most the buffer.
        assert 1_000_000 < int(second.headers["range"][6:-1]) <= 2_500_000
        assert seen == sorted(seen)
        assert seen[-1] == len(BLOB)


async def test_cut_connection_where_ranges_are_ignored(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        fake.ranges = False
        found = await resolved(registry, fake)
        fake.on(LAYER, once(Reply(body=BLOB, cut=1_000_000)))
        assert await collect(registry, found, found.layers[0]) == BLOB


async def test_many_cuts_with_progress_in_between(tmp_path: pathlib.Path) -> None:
    image = build_image([{"a": os.urandom(24_000_000)}])
    digest = image.document["layers"][0]["digest"]

    def cut(request: Request) -> Reply:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        data = image.blobs[digest]
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return Reply(206, headers, data[start:], cut=2_500_000) if start else Reply(body=data, cut=2_500_000)

    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(image, "t/image:1")
        fake.on(digest, cut)
        found = await resolved(registry, fake)
        assert await collect(registry, found, found.layers[0]) == image.blobs[digest]
        assert len(fake.asked(digest)) > QUICK.attempts


@pytest.mark.parametrize("answer", ["bytes 0-9/10", "bytes 7-9/10", "nonsense", ""])
async def test_wrong_ranges_are_refused(tmp_path: pathlib.Path, answer: str) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        found = await resolved(registry, fake)
        fake.on(LAYER, once(Reply(body=BLOB, cut=2_500_000)))
        fake.on(LAYER, lambda r: Reply(206, {"Content-Range": answer} if answer else {}, BLOB[1000:]))
        with pytest.raises(RegistryError, match=r"from byte \d+ on"):
            await collect(registry, found, found.layers[0])


async def test_rate_limits_and_outages_pass(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        fake.on("/manifests/", once(refuse(429, "TOOMANYREQUESTS", "", Retry_After="0")))
        fake.on("/manifests/", once(refuse(502, "", "")))
        fake.on(LAYER, once(refuse(503, "UNAVAILABLE", "")))
        found = await resolved(registry, fake)
        assert await collect(registry, found, found.layers[0]) == BLOB


async def test_connections_are_used_again(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        for _ in range(5):
            found = await resolved(registry, fake)
            assert await collect(registry, found, found.layers[0]) == BLOB
        # One for the attempt to speak TLS, one for everything else.
        assert fake.connections == 2
        assert len(fake.asked("/v2/t/")) == 15


async def test_reader_that_is_slow_holds_the_transfer(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address, pull_progress_timeout=0.2) as registry:
        fake.add(IMAGE, "t/image:1")
        found = await resolved(registry, fake)
        source, sink = os.pipe()
        task = asyncio.ensure_future(registry.fetch(found, found.layers[0], sink, lambda done: None))
        await readable(source)
        # Nobody reads for longer than the progress timeout: that is not the registry's fault.
        await asyncio.sleep(0.4)
        assert not task.done()
        data = b""
        while len(data) < len(BLOB):
            await readable(source)
            data += os.read(source, 1 << 20)
        await task
        assert os.get_blocking(sink)
        os.close(sink)
        os.close(source)
        assert digest_of(data) == LAYER


async def test_reader_that_gives_up(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        found = await resolved(registry, fake)
        source, sink = os.pipe()
        os.close(source)
        with pytest.raises(StoreFailure, match=LAYER):
            await registry.fetch(found, found.layers[0], sink, lambda done: None)
        os.close(sink)


async def test_images_of_others_are_refused(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        found = dataclasses.replace(await resolved(registry, fake), source=None)
        with pytest.raises(InvalidRequest, match="not resolved by this registry driver"):
            await collect(registry, found, found.layers[0])


# --- redirects ---


async def test_redirect_to_a_store_without_credentials(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, FakeRegistry() as store, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        demand_basic(fake, "user", "pw")
        store.on("/store/", lambda r: Reply(body=BLOB))
        signed = f"http://{store.address}/store/blob?X-Sig=a%2Fb%3D%3D&x=%7E"
        fake.on(LAYER, lambda r: Reply(307, {"Location": signed}))
        found = await registry.resolve(f"{fake.address}/t/image:1", Credentials(username="user", password="pw"), "")
        assert await collect(registry, found, found.layers[0]) == BLOB
        (asked,) = store.requests
        assert asked.target == "/store/blob?X-Sig=a%2Fb%3D%3D&x=%7E"
        assert "authorization" not in asked.headers


async def test_redirect_on_the_same_host_keeps_credentials(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(IMAGE, "t/image:1")
        demand_basic(fake, "user", "pw")
        fake.on(f"/v2/t/image/blobs/{LAYER}", lambda r: Reply(302, {"Location": f"/v2/moved/blobs/{LAYER}"}))
        found = await registry.resolve(f"{fake.address}/t/image:1", Credentials(username="user", password="pw"), "")
        assert await collect(registry, found, found.layers[0]) == BLOB


async def test_redirect_from_tls_to_plain_http_is_refused(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with FakeRegistry(tls=context, host="localhost") as fake, FakeRegistry() as plain:
        place = tmp_path / "certs.d" / fake.address
        place.mkdir(parents=True)
        authority.cert_pem.write_to_path(place / "ca.crt")
        fake.on("/manifests/", lambda r: Reply(302, {"Location": f"http://{plain.address}/x"}))
        async with driver(tmp_path) as registry:
            with pytest.raises(RegistryError, match="from TLS to plain HTTP"):
                await resolved(registry, fake)
        assert plain.requests == []


# --- credentials ---


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def demand_basic(fake: FakeRegistry, username: str, password: str) -> None:
    def rule(request: Request) -> Reply | None:
        if request.path == "/v2/" or request.headers.get("authorization") == basic(username, password):
            return None
        return refuse(401, "UNAUTHORIZED", "login", WWW_Authenticate='Basic realm="x"')

    fake.rules.insert(0, rule)


class Tokens:
    """A token service and a registry that believes it; a token is good for so many requests."""

    def __init__(self, fake: FakeRegistry, *, uses: int = 1000, answer: dict[str, Any] | None = None) -> None:
        self.given = 0
        self.left: dict[str, int] = {}
        self.uses = uses
        self.requests: list[Request] = []
        self._answer = answer
        realm = f"http://{fake.address}/token"
        self._challenge = f'Bearer realm="{realm}",service="svc",scope="repository:t/image:pull"'
        fake.rules.insert(0, self._rule)

    def _rule(self, request: Request) -> Reply | None:
        if request.path == "/token":
            self.requests.append(request)
            self.given += 1
            self.left[f"token{self.given}"] = self.uses
            return Reply(body=json.dumps(self._answer or {"token": f"token{self.given}", "expires_in": 300}).encode())
        if request.path == "/v2/":
            return None
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.left.get(token, 0) <= 0:
            return refuse(401, "UNAUTHORIZED", "token", WWW_Authenticate=self._challenge)
        self.left[token] -= 1
        return None


async def test_anonymous_token_is_cached(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        tokens = Tokens(fake)
        fake.add(IMAGE, "t/image:1")
        for _ in range(3):
            found = await resolved(registry, fake)
            assert await collect(registry, found, found.layers[0]) == BLOB
        (asked,) = tokens.requests
        assert asked.query == {"service": ["svc"], "scope": ["repository:t/image:pull"]}
        assert "authorization" not in asked.headers


async def test_token_by_password_and_expiry_in_the_middle(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        tokens = Tokens(fake, uses=2)
        fake.add(IMAGE, "t/image:1")
        credentials = Credentials(auth=base64.b64encode(b"user:p:w\0\0").decode())
        found = await registry.resolve(f"{fake.address}/t/image:1", credentials, "")
        fake.on(LAYER, once(Reply(body=BLOB, cut=1_000_000)))
        assert await collect(registry, found, found.layers[0]) == BLOB
        assert tokens.given == 2
        assert tokens.requests[0].headers["authorization"] == basic("user", "p:w")
        assert tokens.requests[0].query["account"] == ["user"]


async def test_layers_in_parallel_share_a_renewed_token(tmp_path: pathlib.Path) -> None:
    image = build_image([{f"f{n}": os.urandom(1000)} for n in range(8)])
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        tokens = Tokens(fake, uses=2)
        fake.add(image, "t/image:1")
        found = await resolved(registry, fake)
        tokens.uses = 1000
        parts = await asyncio.gather(*(collect(registry, found, layer) for layer in found.layers))
        assert [digest_of(part) for part in parts] == [layer.digest for layer in found.layers]
        assert tokens.given == 2


async def test_identity_token_is_exchanged_by_post(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        tokens = Tokens(fake, answer={"access_token": "token1", "expires_in": 60})
        fake.add(IMAGE, "t/image:1")
        await registry.resolve(f"{fake.address}/t/image:1", Credentials(identity_token="id&x"), "")
        (asked,) = tokens.requests
        assert asked.method == "POST"
        assert b"refresh_token=id%26x" in asked.body
        assert b"grant_type=refresh_token" in asked.body


async def test_registry_token_is_sent_as_it_is(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        tokens = Tokens(fake)
        tokens.left["mine"] = 100
        fake.add(IMAGE, "t/image:1")
        await registry.resolve(f"{fake.address}/t/image:1", Credentials(registry_token="mine"), "")
        assert tokens.requests == []
        with pytest.raises(RegistryError, match="UNAUTHORIZED"):
            await registry.resolve(f"{fake.address}/t/image:1", Credentials(registry_token="other"), "")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, body=b"{}"), "refuses"),
        (Reply(body=b"{}"), "gave no token"),
        (Reply(body=b"x" * (2 << 20)), "longer than"),
    ],
)
async def test_token_services_that_fail(tmp_path: pathlib.Path, reply: Reply, words: str) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        Tokens(fake)
        fake.rules.insert(0, lambda r: reply if r.path == "/token" else None)
        with pytest.raises(PycrioError, match=words) as caught:
            await resolved(registry, fake)
        assert f"image {fake.address}/t/image:1: registry {fake.address}: " in str(caught.value)


async def test_token_that_is_never_good_ends(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        tokens = Tokens(fake, uses=0)
        with pytest.raises(RegistryError, match="UNAUTHORIZED"):
            await resolved(registry, fake)
        assert tokens.given < 5


async def test_secrets_do_not_show(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        demand_basic(fake, "user", "pw")
        fake.add(IMAGE, "t/image:1")
        with pytest.raises(RegistryError) as caught:
            await registry.resolve(
                f"{fake.address}/t/image:1", Credentials(username="user", password="hunter2-wrong"), ""
            )
        assert "hunter2" not in repr(caught.value) + str(caught.value)
        with pytest.raises(InvalidRequest, match="not base64") as malformed:
            await registry.resolve(f"{fake.address}/t/image:1", Credentials(auth="hunter2!"), "")
        assert "hunter2" not in str(malformed.value)


# --- mirrors ---


def mirrored(primary: FakeRegistry | str, *others: FakeRegistry | str) -> str:
    """registries.conf: primary with mirrors, all of them allowed to speak plain HTTP."""
    first, *rest = (place if isinstance(place, str) else place.address for place in (primary, *others))
    tables = f'[[registry]]\nlocation = "{first}"\ninsecure = true\n'
    return tables + "".join(f'[[registry.mirror]]\nlocation = "{name}"\ninsecure = true\n' for name in rest)


async def test_mirror_first_primary_last(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as primary, FakeRegistry() as empty, FakeRegistry() as full:
        for place in (primary, full):
            place.add(IMAGE, "t/image:1")
        dead = f"127.0.0.1:{free_port()}"
        registry = Registry(settings(tmp_path, mirrored(primary, dead, empty, full)))
        found = await resolved(registry, primary)
        assert found.name == f"{primary.address}/t/image:1"
        assert await collect(registry, found, found.layers[0]) == BLOB
        assert empty.asked("/manifests/")
        assert primary.requests == []
        await registry.close()


async def test_blob_that_a_mirror_lacks_comes_from_the_primary(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as primary, FakeRegistry() as mirror:
        primary.add(IMAGE, "t/image:1")
        mirror.add(IMAGE, "t/image:1")
        mirror.on(LAYER, once(Reply(body=BLOB, cut=2_500_000)))
        mirror.on(LAYER, lambda r: refuse(404, "BLOB_UNKNOWN", "gone"))
        registry = Registry(settings(tmp_path, mirrored(primary, mirror)))
        found = await resolved(registry, primary)
        assert await collect(registry, found, found.layers[0]) == BLOB
        (asked,) = primary.asked(LAYER)
        assert int(asked.headers["range"][6:-1]) > 1_000_000
        await registry.close()


async def test_failure_tells_of_every_place(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as primary, FakeRegistry() as mirror:
        registry = Registry(settings(tmp_path, mirrored(primary, mirror)))
        with pytest.raises(RegistryError) as caught:
            await resolved(registry, primary)
        assert f"registry {primary.address}: " in str(caught.value)
        assert f"before that: mirror {mirror.address}: HTTP status 404" in str(caught.value)
        await registry.close()


async def test_mirrors_do_not_see_the_requests_credentials(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as primary, FakeRegistry() as mirror:
        primary.add(IMAGE, "t/image:1")
        for place in (primary, mirror):
            demand_basic(place, "user", "pw")
        registry = Registry(settings(tmp_path, mirrored(primary, mirror)))
        await registry.resolve(f"{primary.address}/t/image:1", Credentials(username="user", password="pw"), "")
        assert mirror.asked("/manifests/")
        assert all("authorization" not in request.headers for request in mirror.requests)
        await registry.close()


async def test_short_name_tries_every_search_registry(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as one, FakeRegistry() as two:
        two.add(IMAGE, "t/image:1")
        conf = f'unqualified-search-registries = ["{one.address}", "{two.address}"]\n' + insecure(
            one.address, two.address
        )
        registry = Registry(settings(tmp_path, conf, short_name_mode="permissive"))
        assert registry.names("t/image:1") == (f"{one.address}/t/image:1", f"{two.address}/t/image:1")
        assert (await registry.resolve("t/image:1", None, "")).name == f"{two.address}/t/image:1"
        with pytest.raises(RegistryError) as caught:
            await registry.resolve("t/image:none", None, "")
        assert caught.value.code == "MANIFEST_UNKNOWN"
        assert one.address in str(caught.value)
        assert two.address in str(caught.value)
        await registry.close()


async def test_short_name_when_all_are_away(tmp_path: pathlib.Path) -> None:
    ports = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    conf = f"unqualified-search-registries = {json.dumps(ports)}\n"
    registry = Registry(settings(tmp_path, conf, short_name_mode="disabled"))
    with pytest.raises(RegistryUnavailable) as caught:
        await registry.resolve("x", None, "")
    assert str(caught.value).count("RegistryUnavailable") == 1
    await registry.close()


async def test_recorded_aliases_are_read_when_they_change(tmp_path: pathlib.Path) -> None:
    registry = Registry(settings(tmp_path))
    assert registry.names("thing") == ()
    (tmp_path / "aliases.conf").write_text('[aliases]\nthing = "r.example/one"\n')
    assert registry.names("thing") == ("r.example/one:latest",)
    (tmp_path / "aliases.conf").write_text('[aliases]\nthing = "r.example/another"\n')
    assert registry.names("thing") == ("r.example/another:latest",)
    await registry.close()


async def test_reload_keeps_the_old_configuration_when_the_new_one_is_faulty(tmp_path: pathlib.Path) -> None:
    registry = Registry(settings(tmp_path, '[aliases]\nx = "r.example/x"\n'))
    (tmp_path / "registries.conf").write_text("[[registry]]\n")
    with pytest.raises(ConfigError, match="needs a location"):
        await registry.reload()
    assert registry.names("x") == ("r.example/x:latest",)
    (tmp_path / "registries.conf").write_text('[aliases]\nx = "r.example/y"\n')
    await registry.reload()
    assert registry.names("x") == ("r.example/y:latest",)
    await registry.close()


# --- foreign layers, artifacts, proxies ---


def changed(image: Built, **layer: Any) -> Built:
    document = image.document
    document["layers"][0].update(layer)
    return dataclasses.replace(image, manifest=json.dumps(document).encode())


async def test_foreign_layer_from_its_own_address(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, FakeRegistry() as vendor, driver(tmp_path, fake.address) as registry:
        demand_basic(fake, "user", "pw")
        vendor.on("/base", lambda r: Reply(body=BLOB))
        kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        fake.add(changed(IMAGE, mediaType=kind, urls=[f"http://{vendor.address}/base"]), "t/image:1")
        del fake.blobs[LAYER]
        found = await registry.resolve(f"{fake.address}/t/image:1", Credentials(username="user", password="pw"), "")
        assert await collect(registry, found, found.layers[0]) == BLOB
        assert "authorization" not in vendor.requests[0].headers


async def test_urls_of_ordinary_layers_are_ignored(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, FakeRegistry() as other, driver(tmp_path, fake.address) as registry:
        fake.add(changed(IMAGE, urls=[f"http://{other.address}/base"]), "t/image:1")
        del fake.blobs[LAYER]
        found = await resolved(registry, fake)
        with pytest.raises(RegistryError, match="BLOB_UNKNOWN"):
            await collect(registry, found, found.layers[0])
        assert other.requests == []


@pytest.mark.parametrize("by", ["artifactType", "config"])
async def test_artifacts(tmp_path: pathlib.Path, by: str) -> None:
    empty = b"{}"
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(empty), "size": 2},
        "layers": [
            {
                "mediaType": "text/plain",
                "digest": digest_of(b"hello"),
                "size": 5,
                "annotations": {"org.opencontainers.image.title": "hello.txt"},
            }
        ],
        "annotations": {"a": "b"},
    }
    if by == "artifactType":
        document["artifactType"] = "application/x-test"
    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.blobs = {digest_of(data): data for data in (empty, b"hello")}
        kind = "application/vnd.oci.image.manifest.v1+json"
        fake.put("t/image", "1", json.dumps(document).encode(), kind)
        found = await resolved(registry, fake)
        wanted = "application/x-test" if by == "artifactType" else "application/vnd.oci.empty.v1+json"
        assert found.artifact_type == wanted
        assert (found.layers[0].diff_id, found.config, found.annotations) == ("", b"{}", {"a": "b"})
        assert found.layers[0].annotations == {"org.opencontainers.image.title": "hello.txt"}
        assert await collect(registry, found, found.layers[0]) == b"hello"


async def test_plain_http_through_a_proxy(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as proxy:
        proxy.add(IMAGE, "t/image:1")
        conf = insecure("registry.example:5000")
        environ = {"http_proxy": f"http://{proxy.address}", "PATH": os.environ["PATH"]}
        # No TLS through this proxy: it refuses CONNECT, and an insecure registry is then asked in plain HTTP.
        proxy.rules.insert(0, lambda r: Reply(405) if r.method == "CONNECT" else None)
        environ["https_proxy"] = environ["http_proxy"]
        registry = Registry(settings(tmp_path, conf, environ=environ))
        found = await registry.resolve("registry.example:5000/t/image:1", None, "")
        assert await collect(registry, found, found.layers[0]) == BLOB
        assert proxy.asked(LAYER)[0].target.startswith("http://registry.example:5000/v2/")
        await registry.close()


class Tunnel:
    """A proxy that joins whoever asks for a tunnel to one address, if the password is right. ``asked`` and
    ``passwords``: what it was asked."""

    def __init__(self, target: str) -> None:
        self.host, _, self.port = target.rpartition(":")
        self.asked: list[str] = []
        self.passwords: list[str] = []

    async def __aenter__(self) -> Tunnel:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
        self.asked.append(head.splitlines()[0])
        self.passwords.append(fields.get("proxy-authorization", ""))
        if not self.passwords[-1]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        there = await asyncio.open_connection(self.host, int(self.port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(self.copy(reader, there[1]), self.copy(there[0], writer))

    async def copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # one side is gone: the other one is told
        finally:
            sink.close()


async def test_tls_through_a_proxy_that_wants_a_password(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("registry.example").configure_cert(context)
    place = tmp_path / "certs.d/registry.example:5000"
    place.mkdir(parents=True)
    authority.cert_pem.write_to_path(place / "ca.crt")
    async with FakeRegistry(tls=context) as fake, Tunnel(fake.address) as proxy:
        fake.add(IMAGE, "t/image:1")
        for login, accepted in (("user:p%40ss@", True), ("", False)):
            environ = {"HTTPS_PROXY": f"http://{login}{proxy.address}", "PATH": os.environ["PATH"]}
            registry = Registry(settings(tmp_path, environ=environ))
            if accepted:
                found = await registry.resolve("registry.example:5000/t/image:1", None, "")
                assert await collect(registry, found, found.layers[0]) == BLOB
            else:
                with pytest.raises(RegistryError, match=r"registry\.example:5000"):
                    await registry.resolve("registry.example:5000/t/image:1", None, "")
            await registry.close()
        assert {line for line in proxy.asked if line} == {"CONNECT registry.example:5000 HTTP/1.1"}
        word = "basic " + base64.b64encode(b"user:p@ss").decode().lower()
        assert set(proxy.passwords) == {word, ""}
        assert not any("proxy-authorization" in request.headers for request in fake.requests)


async def test_no_proxy_reaches_the_registry_itself(tmp_path: pathlib.Path) -> None:
    async with FakeRegistry() as fake, FakeRegistry() as proxy:
        fake.add(IMAGE, "t/image:1")
        environ = {"HTTP_PROXY": f"http://{proxy.address}", "NO_PROXY": "127.0.0.0/8", "PATH": os.environ["PATH"]}
        registry = Registry(settings(tmp_path, insecure(fake.address), environ=environ))
        await resolved(registry, fake)
        await registry.close()
        assert proxy.requests == []


# --- memory ---


def test_nothing_heavy_is_imported_before_the_first_pull(tmp_path: pathlib.Path) -> None:
    script = (
        "import sys\n"
        "from pycrio.drivers.registry.client import Registry\n"
        "from pycrio.drivers.registry.settings import Settings\n"
        f"r = Registry(Settings(registries_conf_dir={str(tmp_path)!r}))\n"
        "r.names('quay.io/a/b')\n"
        "heavy = {'aiohttp', 'cryptography', 'yaml', 'yarl'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_large_layers_do_not_pile_up(tmp_path: pathlib.Path) -> None:
    """What is under way between the registry and a reader that does not read is bounded by the buffers."""
    sent = 0

    async def send() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 256 << 20:
            sent += 1 << 16
            yield bytes(1 << 16)

    async with FakeRegistry() as fake, driver(tmp_path, fake.address) as registry:
        fake.add(changed(IMAGE, size=256 << 20), "t/image:1")
        fake.on(LAYER, lambda r: Reply(length=str(256 << 20), stream=send()))
        found = await resolved(registry, fake)
        source, sink = os.pipe()
        task = asyncio.ensure_future(registry.fetch(found, found.layers[0], sink, lambda done: None))
        await readable(source)
        for _ in range(10_000):  # let whatever can run, run: the transfer is stuck at the pipe
            await asyncio.sleep(0)
        assert sent < 32 << 20
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        os.close(sink)
        os.close(source)
