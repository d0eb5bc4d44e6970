"""The registry driver against Debian's docker-registry, filled by ourselves, by skopeo and by umoci."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import subprocess
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pycrio.drivers.registry.client import Registry
from pycrio.drivers.registry.settings import Limits, Settings
from pycrio.errors import RegistryError, RegistryUnavailable, SignatureInvalid
from pycrio.model.image import Credentials, RemoteImage
from tests.fixtures_registry import (
    BUSYBOX,
    RunningRegistry,
    build_image,
    build_index,
    digest_of,
    docker_registry,
    free_port,
    private_registry,
    push_image,
    tls_registry,
)
from tests.pipes import collect

__all__ = ["docker_registry", "private_registry", "tls_registry"]
pytestmark = pytest.mark.system


def settings(tmp_path: pathlib.Path, *insecure: str, **more: object) -> Settings:
    """A driver that sees nothing of this machine's configuration."""
    conf = tmp_path / "registries.conf"
    conf.write_text("".join(f'[[registry]]\nlocation = "{name}"\ninsecure = true\n' for name in insecure))
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    values: dict[str, object] = {
        "registries_conf": str(conf),
        "registries_conf_dir": str(tmp_path / "none"),
        "short_name_aliases": str(tmp_path / "none"),
        "policy": str(policy),
        "policy_dir": "",
        "registries_d": str(tmp_path / "registries.d"),
        "certs_dirs": (str(tmp_path / "certs.d"),),
        "namespaced_auth_dir": "",
        "environ": {"PATH": os.environ["PATH"]},
        "arch": "amd64",
        "limits": Limits(retry_delay=0.0),
    }
    return Settings(**{**values, **more})  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def plain(tmp_path: pathlib.Path, docker_registry: RunningRegistry) -> AsyncIterator[Registry]:
    registry = Registry(settings(tmp_path, docker_registry.address))
    yield registry
    await registry.close()


async def blobs(registry: Registry, image: RemoteImage) -> list[str]:
    """Digests of what the layers' pipes deliver."""
    return [digest_of(await collect(registry, image, layer)) for layer in image.layers]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_pull_by_tag_and_by_digest(plain: Registry, docker_registry: RunningRegistry, compression: str) -> None:
    name = f"tagged/{compression}"
    built = push_image(docker_registry, f"{name}:1", [{"a": b"a" * 100_000}, {"b": b"b"}], compression=compression)
    tagged = await plain.resolve(f"{docker_registry.address}/{name}:1", None, "")
    assert tagged.name == f"{docker_registry.address}/{name}:1"
    assert (tagged.manifest, tagged.manifest_digest) == (built.manifest, built.digest)
    assert tagged.config_digest == built.config_digest
    assert digest_of(tagged.config) == built.config_digest
    assert tuple(layer.diff_id for layer in tagged.layers) == built.diff_ids
    assert await blobs(plain, tagged) == [layer.digest for layer in tagged.layers]
    by_digest = await plain.resolve(f"{docker_registry.address}/{name}:ignored@{built.digest}", None, "")
    assert by_digest.name == f"{docker_registry.address}/{name}@{built.digest}"
    assert by_digest.manifest == built.manifest


async def test_docker_schema_2(plain: Registry, docker_registry: RunningRegistry) -> None:
    built = push_image(docker_registry, "docker/image:1", [{"a": b"x"}], docker=True)
    found = await plain.resolve(f"{docker_registry.address}/docker/image:1", None, "")
    assert found.manifest_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert found.manifest_digest == built.digest
    assert found.artifact_type == ""


async def test_index_gives_this_platform(plain: Registry, docker_registry: RunningRegistry) -> None:
    ours, other = build_image([{"ours": b"1"}]), build_image([{"other": b"2"}], arch="s390x")
    for number, image in enumerate((ours, other)):
        docker_registry.push(image, f"multi/image:part{number}")
    index = build_index(
        [(other, {"os": "linux", "architecture": "s390x"}), (ours, {"os": "linux", "architecture": "amd64"})]
    )
    digest = docker_registry.push_manifest("multi/image", "all", index, "application/vnd.oci.image.index.v1+json")
    found = await plain.resolve(f"{docker_registry.address}/multi/image:all", None, "")
    assert (found.index, found.index_digest) == (index, digest)
    assert (found.manifest, found.manifest_digest) == (ours.manifest, ours.digest)


async def test_unknown_tag(plain: Registry, docker_registry: RunningRegistry) -> None:
    with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN") as caught:
        await plain.resolve(f"{docker_registry.address}/no/such:tag", None, "")
    assert (caught.value.code, caught.value.status) == ("MANIFEST_UNKNOWN", 404)
    assert docker_registry.address in str(caught.value)


async def test_nobody_listens(tmp_path: pathlib.Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    registry = Registry(settings(tmp_path))
    with pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable: ") as caught:
        await registry.resolve(f"{address}/any:1", None, "")
    assert caught.value.code == "CONNECTION_REFUSED"
    await registry.close()


async def test_basic_login(tmp_path: pathlib.Path, private_registry: RunningRegistry) -> None:
    built = push_image(private_registry, "secret/image:1", [{"a": b"a"}])
    registry = Registry(settings(tmp_path, private_registry.address))
    name = f"{private_registry.address}/secret/image:1"
    with pytest.raises(RegistryError) as caught:
        await registry.resolve(name, None, "")
    assert (caught.value.code, caught.value.status) == ("UNAUTHORIZED", 401)
    with pytest.raises(RegistryError, match="UNAUTHORIZED"):
        await registry.resolve(name, Credentials(username="puller", password="wrong"), "")
    credentials = Credentials(username=private_registry.username, password=private_registry.password)
    found = await registry.resolve(name, credentials, "")
    assert found.manifest_digest == built.digest
    assert await blobs(registry, found) == [layer.digest for layer in found.layers]
    await registry.close()


async def test_tls_needs_the_right_ca(tmp_path: pathlib.Path, tls_registry: RunningRegistry) -> None:
    built = push_image(tls_registry, "tls/image:1", [{"a": b"a"}])
    name = f"{tls_registry.address}/tls/image:1"
    registry = Registry(settings(tmp_path))
    with pytest.raises(RegistryError, match="not trusted"):
        await registry.resolve(name, None, "")
    place = tmp_path / "certs.d" / tls_registry.address
    place.mkdir(parents=True)
    assert tls_registry.ca is not None
    (place / "ours.crt").write_bytes(tls_registry.ca.read_bytes())
    await registry.reload()
    found = await registry.resolve(name, None, "")
    assert found.manifest_digest == built.digest
    await registry.close()


async def test_insecure_tls(tmp_path: pathlib.Path, tls_registry: RunningRegistry) -> None:
    built = push_image(tls_registry, "tls/image:1", [{"a": b"a"}])
    registry = Registry(settings(tmp_path, tls_registry.address))
    assert (await registry.resolve(f"{tls_registry.address}/tls/image:1", None, "")).manifest_digest == built.digest
    await registry.close()


async def test_plain_http_needs_the_insecure_mark(tmp_path: pathlib.Path, docker_registry: RunningRegistry) -> None:
    registry = Registry(settings(tmp_path))
    with pytest.raises(RegistryError, match="plain HTTP"):
        await registry.resolve(f"{docker_registry.address}/tagged/gzip:1", None, "")
    await registry.close()


async def test_image_of_umoci_pushed_by_skopeo(
    plain: Registry, docker_registry: RunningRegistry, tmp_path: pathlib.Path
) -> None:
    layout = tmp_path / "layout"
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "busybox").write_bytes(pathlib.Path(BUSYBOX).read_bytes())

    def tool(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    tool("umoci", "init", "--layout", str(layout))
    tool("umoci", "new", "--image", f"{layout}:one")
    tool("umoci", "insert", "--image", f"{layout}:one", str(root / "bin"), "/bin")
    tool("umoci", "config", "--image", f"{layout}:one", "--config.cmd", "/bin/busybox")
    target = f"{docker_registry.address}/umoci/image:1"
    for form in ("oci", "v2s2"):
        tool(
            *("skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false"),
            *("--format", form, f"oci:{layout}:one", f"docker://{target}"),
        )
        found = await plain.resolve(target, None, "")
        assert b"/bin/busybox" in found.config
        assert await blobs(plain, found) == [layer.digest for layer in found.layers]


async def test_image_signed_by_skopeo(tmp_path: pathlib.Path, docker_registry: RunningRegistry) -> None:
    """Simple signing between programs: skopeo signs into a lookaside store, the driver verifies what it finds there."""
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    environ = {**os.environ, "GNUPGHOME": str(home)}

    def tool(*command: str) -> bytes:
        return subprocess.run(command, check=True, capture_output=True, env=environ).stdout

    tool(
        "gpg", "--batch", "--passphrase", "", "--quick-generate-key", "signer@test.invalid", "rsa2048", "sign", "never"
    )
    (tmp_path / "signer.gpg").write_bytes(tool("gpg", "--export"))
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d" / "default.yaml").write_text(
        f"default-docker:\n  lookaside: file://{tmp_path}/lookaside\n  sigstore: file://{tmp_path}/lookaside\n"
    )
    push_image(docker_registry, "signed/source:1", [{"a": b"signed"}])
    target = f"{docker_registry.address}/signed/image:1"
    tool(
        *("skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *("--registries.d", str(tmp_path / "registries.d"), "--sign-by", "signer@test.invalid"),
        *(f"docker://{docker_registry.address}/signed/source:1", f"docker://{target}"),
    )
    tool("gpgconf", "--kill", "all")
    registry = Registry(settings(tmp_path, docker_registry.address))
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(tmp_path / "signer.gpg")}
    (tmp_path / "policy.json").write_text(json.dumps({"default": [requirement]}))
    found = await registry.resolve(target, None, "")
    assert len(found.signatures) == 1
    with pytest.raises(SignatureInvalid, match="it has no signature"):
        await registry.resolve(f"{docker_registry.address}/signed/source:1", None, "")
    await registry.close()


async def test_credentials_of_skopeo_login(tmp_path: pathlib.Path, private_registry: RunningRegistry) -> None:
    """The file that ``skopeo login`` (and podman's) writes is understood."""
    built = push_image(private_registry, "secret/image:1", [{"a": b"a"}])
    path = tmp_path / "auth.json"
    subprocess.run(
        [
            *("skopeo", "login", "--tls-verify=false", "--authfile", str(path)),
            *("--username", private_registry.username, "--password", private_registry.password),
            private_registry.address,
        ],
        check=True,
        capture_output=True,
    )
    registry = Registry(settings(tmp_path, private_registry.address, global_auth_file=str(path)))
    found = await registry.resolve(f"{private_registry.address}/secret/image:1", None, "")
    assert found.manifest_digest == built.digest
    await registry.close()


async def test_large_layers_side_by_side(plain: Registry, docker_registry: RunningRegistry) -> None:
    push_image(docker_registry, "large/image:1", [{f"f{n}": os.urandom(8 << 20)} for n in range(4)], compression="none")
    found = await plain.resolve(f"{docker_registry.address}/large/image:1", None, "")
    parts = await asyncio.gather(*(collect(plain, found, layer) for layer in found.layers))
    assert [digest_of(part) for part in parts] == [layer.digest for layer in found.layers]
