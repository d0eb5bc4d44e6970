"""Where credentials come from, certs.d included."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
import ssl

import pytest
import trustme

from pycrio.drivers.registry import auth, certs
from pycrio.drivers.registry.auth import ANONYMOUS, AuthFile, CredentialSources, Secret
from pycrio.drivers.registry.reference import parse_full
from pycrio.drivers.registry.transport import Transport
from pycrio.errors import ConfigError, ExternalFailure, InvalidRequest
from pycrio.model.image import Credentials
from tests.unit.drivers.registry.support import driver, settings

IMAGE = parse_full("r.example:5000/team/app:1")


def b64(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


# --- of the request ---


def test_request() -> None:
    assert auth.from_request(None) is None
    assert auth.from_request(Credentials()) is None
    assert auth.from_request(Credentials(server_address="x")) is None
    assert auth.from_request(Credentials(username="u", password="p")) == Secret("u", "p")
    assert auth.from_request(Credentials(auth=b64("u", "p:q"))) == Secret("u", "p:q")
    assert auth.from_request(Credentials(identity_token="t")) == Secret(identity_token="t")
    with pytest.raises(InvalidRequest):
        auth.from_request(Credentials(auth=base64.b64encode(b"no colon").decode()))


def test_secrets_are_not_in_representations() -> None:
    assert "hunter" not in repr(Secret("u", "hunter", "hunter", "hunter"))
    assert Secret("a", "b").fingerprint() != Secret("ab", "").fingerprint()


# --- of a file ---


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (("r.example:5000", "r.example:5000/team", "r.example:5000/team/app"), "r.example:5000/team/app"),
        (("r.example:5000", "r.example:5000/team", "r.example:5000/other"), "r.example:5000/team"),
        (("r.example:5000", "r.example"), "r.example:5000"),
        (("https://r.example:5000/v1/",), "https://r.example:5000/v1/"),
        (("http://r.example:5000",), "http://r.example:5000"),
        (("r.example", "r.example:5000/te"), None),
    ],
)
async def test_most_specific_key(keys: tuple[str, ...], wanted: str | None) -> None:
    file = AuthFile("f", {"auths": {key: {"auth": b64("u", key)} for key in keys}})
    found = await file.find(IMAGE, {})
    assert (found.password if found else None) == wanted


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/", "index.docker.io", "https://docker.io"])
async def test_docker_hub_has_many_names(key: str) -> None:
    file = AuthFile("f", {"auths": {key: {"auth": b64("u", "p")}}})
    assert await file.find(parse_full("docker.io/library/busybox"), {}) == Secret("u", "p")


async def test_other_forms_of_entries() -> None:
    file = AuthFile("f", {"auths": {"r.example:5000": {"username": "u", "password": "p"}}})
    assert await file.find(IMAGE, {}) == Secret("u", "p")
    file = AuthFile("f", {"auths": {"r.example:5000": {"auth": b64("<x>", ""), "identitytoken": "t"}}})
    assert await file.find(IMAGE, {}) == Secret("<x>", "", "t")
    file = AuthFile("f", {"auths": {"r.example:5000": {}}})
    assert await file.find(IMAGE, {}) is None
    file = AuthFile("f", {"r.example:5000": {"auth": b64("u", "p")}}, legacy=True)
    assert await file.find(IMAGE, {}) == Secret("u", "p")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', '{"auths": {"r.example:5000": {"auth": "hunter2"}}}'])
async def test_broken_files_are_named_without_their_content(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text)

    async def use() -> None:
        file = auth.read_file(str(path))
        assert file is not None
        await file.find(IMAGE, {})

    with pytest.raises(ConfigError, match=str(path)) as caught:
        await use()
    assert "hunter" not in str(caught.value)


def test_absent_and_empty_files_are_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert auth.read_file(str(tmp_path / "empty")) is None
    assert auth.read_file(str(tmp_path / "absent")) is None


# --- order of places ---


async def test_order_of_the_places(tmp_path: pathlib.Path) -> None:
    environ = {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "PATH": os.environ["PATH"]}
    places = [
        tmp_path / "global.json",
        tmp_path / "run/containers/auth.json",
        tmp_path / "home/.config/containers/auth.json",
        tmp_path / "home/.docker/config.json",
        tmp_path / "home/.dockercfg",
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        entry = {"r.example:5000": {"auth": b64(place.name + place.parent.name, "p")}}
        place.write_text(json.dumps(entry if place.name == ".dockercfg" else {"auths": entry}))
    wanted = settings(tmp_path, environ=environ, global_auth_file=str(places[0]))
    for place in places:
        found = await CredentialSources(wanted, ["containers-auth.json"]).find(IMAGE)
        assert found.username == place.name + place.parent.name
        place.unlink()
    assert await CredentialSources(wanted, ["containers-auth.json"]).find(IMAGE) == ANONYMOUS


def test_environment_moves_the_default_files() -> None:
    assert auth.default_files({"REGISTRY_AUTH_FILE": "/x", "HOME": "/h"}, 0) == [("/x", False)]
    assert auth.default_files({"HOME": "/h"}, 0)[0] == ("/run/containers/0/auth.json", False)
    assert auth.default_files({}, 0)[1] == ("/root/.config/containers/auth.json", False)
    moved = auth.default_files({"HOME": "/h", "XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"}, 5)
    assert [path for path, _ in moved[1:3]] == ["/c/containers/auth.json", "/d/config.json"]


# --- helpers ---


def helper(tmp_path: pathlib.Path, name: str, script: str) -> dict[str, str]:
    """A credential helper program; the environment in which it is found."""
    place = tmp_path / "bin"
    place.mkdir(exist_ok=True)
    program = place / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}"}


ECHO = """read -r server
[ "$1" = get ] || exit 3
printf '{"ServerURL":"%s","Username":"u-%s","Secret":"s"}' "$server" "$server"
"""


async def test_helper_of_a_registry(tmp_path: pathlib.Path) -> None:
    environ = helper(tmp_path, "echo", ECHO)
    file = AuthFile("f", {"credHelpers": {"r.example:5000": "echo"}})
    assert await file.find(IMAGE, environ) == Secret("u-r.example:5000", "s")
    assert await file.find(parse_full("other.example/a"), environ) is None


async def test_helper_for_all(tmp_path: pathlib.Path) -> None:
    environ = helper(tmp_path, "echo", ECHO)
    file = AuthFile("f", {"credsStore": "echo"})
    assert await file.find(IMAGE, environ) == Secret("u-r.example:5000", "s")
    hub = await file.find(parse_full("docker.io/library/a"), environ)
    assert hub == Secret("u-https://index.docker.io/v1/", "s")


async def test_helper_of_registries_conf(tmp_path: pathlib.Path) -> None:
    environ = helper(tmp_path, "echo", ECHO)
    sources = CredentialSources(settings(tmp_path, environ=environ), ["containers-auth.json", "echo"])
    assert await sources.find(IMAGE) == Secret("u-r.example:5000", "s")


async def test_helper_that_knows_a_token_or_nothing(tmp_path: pathlib.Path) -> None:
    environ = helper(tmp_path, "token", """echo '{"Username":"<token>","Secret":"t"}'""")
    assert await auth.ask_helper("token", "x", environ) == Secret(identity_token="t")
    environ = helper(tmp_path, "none", "echo 'credentials not found in native keychain'; exit 1")
    assert await auth.ask_helper("none", "x", environ) is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo broken wallet >&2; exit 7", "code 7: broken wallet"),
        ("echo nonsense", "no usable answer"),
        ('echo \'{"Username": "u"}\'', "no usable answer"),
    ],
)
async def test_helpers_that_fail(tmp_path: pathlib.Path, script: str, words: str) -> None:
    environ = helper(tmp_path, "bad", script)
    with pytest.raises(ExternalFailure, match=words):
        await auth.ask_helper("bad", "r.example", environ)


@pytest.mark.parametrize("name", ["absent-xyz", "../../bin/sh", ""])
async def test_helpers_that_cannot_be(name: str) -> None:
    with pytest.raises(ExternalFailure, match="credential helper"):
        await auth.ask_helper(name, "r.example", dict(os.environ))


# --- of a namespace ---


@pytest.mark.parametrize(
    ("image", "hashed"),
    [
        ("r.example:5000/team/app:1", "r.example:5000/team/app"),
        ("docker://r.example:5000/team/app:1", "r.example:5000/team/app"),
        ("r.example:5000/team/app:1", "r.example:5000/team/app:1"),
    ],
)
def test_namespaced_file_is_used_up(tmp_path: pathlib.Path, image: str, hashed: str) -> None:
    name = f"ns-{hashlib.sha256(hashed.encode()).hexdigest()}.json"
    (tmp_path / name).write_text(json.dumps({"auths": {"r.example:5000": {"auth": b64("u", "p")}}}))
    (tmp_path / "other.json").write_text("{}")
    assert auth.take_namespaced(str(tmp_path), "other", image, IMAGE) is None
    assert auth.take_namespaced(str(tmp_path), "ns", image, IMAGE) is not None
    assert sorted(os.listdir(tmp_path)) == ["in-use", "other.json"]
    assert os.listdir(tmp_path / "in-use") == []
    assert auth.take_namespaced(str(tmp_path), "ns", image, IMAGE) is None


def test_name_of_a_namespaced_file_is_crios() -> None:
    # sha256 of quay.io/crio/fedora-crio-ci, as CRI-O's own tests have it for an image with a tag.
    wanted = "7aa25047c59c6c2e20b839f5b9820e3702dade4a97154d4df1f5cd1a9b44cfde"
    image = "quay.io/crio/fedora-crio-ci:latest"
    first = auth._namespaced_names(image, parse_full(image))[0]
    assert hashlib.sha256(first.encode()).hexdigest() == wanted


def test_broken_namespaced_file_is_removed_too(tmp_path: pathlib.Path) -> None:
    name = f"ns-{hashlib.sha256(b'r.example:5000/team/app').hexdigest()}.json"
    (tmp_path / name).write_text("{")
    with pytest.raises(ConfigError):
        auth.take_namespaced(str(tmp_path), "ns", str(IMAGE), IMAGE)
    assert os.listdir(tmp_path / "in-use") == []


@pytest.mark.parametrize("namespace", ["", "..", "a/b"])
def test_strange_namespaces(tmp_path: pathlib.Path, namespace: str) -> None:
    assert auth.take_namespaced(str(tmp_path), namespace, str(IMAGE), IMAGE) is None


# --- certs.d ---


def test_certs_directories(tmp_path: pathlib.Path) -> None:
    (tmp_path / "two" / "r.example:5000").mkdir(parents=True)
    roots = (str(tmp_path / "one"), str(tmp_path / "two"))
    assert certs.directory(roots, "r.example:5000") == str(tmp_path / "two/r.example:5000")
    assert certs.directory(roots, "r.example") == ""


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"ca.crt": "no certificate"}, r"ca\.crt"),
        ({"client.cert": "x"}, r"its key .*client\.key is missing"),
        ({"client.key": "x"}, r"client certificate .*client\.cert .* is missing"),
        ({"client.cert": "x", "client.key": "x"}, r"client\.cert"),
    ],
)
def test_unusable_certificates_are_named(tmp_path: pathlib.Path, files: dict[str, str], words: str) -> None:
    place = tmp_path / "r.example"
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        certs.context(str(place), False)


async def test_client_certificate_is_shown(tmp_path: pathlib.Path) -> None:
    from tests.fakes.registry import FakeRegistry
    from tests.fixtures_registry import build_image

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with FakeRegistry(tls=context, host="localhost") as fake:
        name = fake.add(build_image([{"a": b"a"}]), "t/image:1")
        place = tmp_path / "certs.d" / fake.address
        place.mkdir(parents=True)
        authority.cert_pem.write_to_path(place / "ca.crt")
        client = authority.issue_cert("node@cluster.example")
        client.private_key_pem.write_to_path(place / "client.key")
        client.cert_chain_pems[0].write_to_path(place / "client.cert")
        (place / "README").write_text("other files do not matter")
        async with driver(tmp_path) as registry:
            assert (await registry.resolve(name, None, "")).name == name


async def test_hosts_without_certificates_of_their_own_share_a_context(tmp_path: pathlib.Path) -> None:
    (tmp_path / "certs.d" / "own.example").mkdir(parents=True)
    transport = Transport(settings(tmp_path))
    one, two = [await transport._context(host, False) for host in ("one.example", "two.example:5000")]
    assert one is two
    assert await transport._context("own.example", False) is not one
    lax = await transport._context("one.example", True)
    assert (one.verify_mode, lax.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_NONE)
    transport.forget()
    assert await transport._context("one.example", False) is not one


@pytest.mark.parametrize("value", ["»é", "\0", "=", "bm9jb2xvbg==", "/w=="])
def test_an_auth_field_of_a_request_that_is_none(value: str) -> None:
    """Neither ASCII nor base64, no colon, no UTF-8."""
    with pytest.raises(InvalidRequest, match="not base64 of user:password"):
        auth.from_request(Credentials(auth=value))


@pytest.mark.parametrize("token", ["a\r\nX: y", "\0", "a\x7f"])
def test_a_registry_token_that_no_header_can_carry(token: str) -> None:
    with pytest.raises(InvalidRequest, match="control character"):
        auth.from_request(Credentials(registry_token=token))
